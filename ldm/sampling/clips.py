"""Clips of storyboards, sampled from noise. All frames are sampled together; long clips by overlapping windows of frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from ldm import plots
from ldm.graph.storyboard import Storyboard
from ldm.graph.storyboard_layout import place_storyboard
from ldm.models.diffusion.samplers import SAMPLERS, get_sampler, refuse_divergence
from ldm.models.diffusion.video import VideoDiffusion
from ldm.models.diffusion.windows import beginning_with, windowed
from ldm.models.preprocess import noise_generator, to_model_input, to_style_input
from ldm.sampling.options import SampleOptions
from ldm.sampling.sample import default_layout
from ldm.util.errors import UserError

DEFAULT_GUIDANCE = 2.0  # for models that were trained for guidance
LISTED = 6  # keyframes whose changes a panel lists
STRIP = 8  # frames on a film strip
Progress = Callable[[Iterable[int]], Iterable[int]]  # wraps the steps, e.g. in a progress bar


def default_clip_options(model: VideoDiffusion, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of clips by name where they are not those of images, or are as others that are given."""
    sampler = given.get("sampler", "dpm++")
    scale = DEFAULT_GUIDANCE if model.image.graph_drop and model.image.style_drop else 1.0
    scale = given.get("graph_scale", scale)
    steps = SAMPLERS[sampler].default_steps
    layout = default_layout(model.image)
    return {"sampler": sampler, "steps": steps, "graph_scale": scale, "style_scale": scale, "layout": layout} | dict(
        given
    )


def place_clip(storyboard: Storyboard, seed: int, options: SampleOptions) -> tuple[Storyboard, list[str]]:
    """Chooses missing boxes, if the options say so: the storyboard that a clip of this seed is sampled from, and remarks."""
    return place_storyboard(storyboard, seed) if options.layout == "search" else (storyboard, [])


@torch.no_grad()
def sample_clip(
    model: VideoDiffusion,
    storyboard: Storyboard,
    seed: int = 0,
    options: SampleOptions = SampleOptions(),
    style: Image.Image | None = None,
    first: Image.Image | None = None,
    overlap: int | None = None,
    progress: Progress | None = None,
) -> list[Image.Image]:
    """Samples the frames of a storyboard.

    Args:
        model: knows clips of T frames.
        storyboard: of any number of frames. More than T are sampled in windows of T frames, whose predictions are averaged where
            they overlap, at every step.
        seed: of the initial noise.
        options: as of images.
        style: image whose look all frames take; by default `first`, or else frame 0, which is then first sampled by itself.
        first: image that the clip begins with; the storyboard's first graph is what it shows. Frame 0 is this image as the
            autoencoder returns it, and the other frames follow it.
        overlap: frames that neighbouring windows share; by default half of T.
        progress: wraps the steps.

    Raises:
        UserError: an option is not one of clips, or needs what the model was not trained for, or sampling diverges.
    """
    refuse_options(options)
    length = min(storyboard.frames, model.frames)
    overlap = length // 2 if overlap is None else overlap
    windows = storyboard.windows(length, overlap)
    storyboard, _ = place_clip(storyboard, seed, options)
    if style is None and model.image.global_stage_model is not None:
        style = first if first is not None else _first_frame(model, storyboard, seed, options)
    reference = None if style is None else to_style_input(model.image, style)
    cond = model.condition(storyboard.graphs(), reference)
    scales = options.graph_scale, options.style_scale
    denoiser = windowed(lambda part, count: model.denoiser(part, *scales, frames=count), cond, windows)

    generator = noise_generator(seed)
    noise = model.noise(storyboard.frames, generator)
    sampler = get_sampler(options.sampler)
    schedule = sampler.make_schedule(model.schedule, options.steps)
    beginning = None
    if first is not None:
        beginning = model.image.encode(to_model_input(model.image, first))
        denoiser = beginning_with(denoiser, beginning, noise[:1], schedule)
    steps = {} if progress is None else {"progress": lambda each: progress(each[::-1])}
    z = sampler.sample(denoiser, schedule, noise, options.eta, generator, **steps)
    if beginning is not None:
        z = torch.cat([beginning, z[1:]])
    refuse_divergence(z)
    return model.decode_frames(z)


def _first_frame(
    model: VideoDiffusion, storyboard: Storyboard, seed: int, options: SampleOptions
) -> Image.Image | None:
    """Frame 0 as an image of its own, with the learned null style; None for a storyboard that has no further frame.

    Its style keeps the frames' backgrounds equal, which graphs do not describe: the image model would choose one for each frame.
    """
    if storyboard.frames == 1:
        return None
    return sample_clip(model, Storyboard.still(storyboard.graphs()[0], 1), seed, options)[0]


def clip_panel(storyboard: Storyboard, frames: Sequence[Image.Image]) -> Image.Image:
    """A film strip of a clip, below the boxes of its storyboard, and above what changes from keyframe to keyframe."""
    graphs = storyboard.graphs()
    blank = Image.new("RGB", frames[0].size, plots.PAPER)
    chosen = plots.strip_frames(len(frames), STRIP)
    boards = [plots.draw_boxes(blank, graphs[number]) for number in chosen]
    sentences = [
        f"frame {keyframe.at}: {', '.join(changes) or 'nothing changes'}"
        for keyframe, changes in zip(storyboard.keyframes[1:], storyboard.changes())
    ]
    if (more := len(sentences) - LISTED) > 0:
        sentences[LISTED:] = [f"and {more} more keyframe{'s' * (more > 1)}"]
    rows = [("storyboard", boards), ("clip", [frames[number] for number in chosen])]
    return plots.film_panel(rows, sentences, STRIP)


def refuse_options(options: SampleOptions) -> None:
    """Raises UserError for options that clips do not have."""
    for name in ("text_scale", "steer", "steer_peak"):
        if getattr(options, name):
            raise UserError(f"{name}: is for image models that read text; leave it out for clips")
