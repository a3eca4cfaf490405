"""The clip benchmark: do clips sampled from held-out storyboards show in every frame what the storyboard says, and hold still elsewhere?

The methods:

    truth    the true clip, encoded and decoded: shows the loss of the autoencoder alone
    video    the video model
    frames   its image model, frame by frame, with the same noise in all frames
    frozen   the image model's first frame, repeated
    edits    the model's edits of true clips, in which one object gets another colour or shape; measured on the edited storyboard
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from PIL import Image

from ldm.editing.clips import edit_clip
from ldm.editing.options import EditOptions
from ldm.evaluation.benchmark import Benchmark, BenchmarkReport
from ldm.evaluation.clip_edits import make_clip_task, measure_clip_edit
from ldm.evaluation.clip_measures import flicker, measure_clip
from ldm.evaluation.clip_sources import ClipSource, find_clips
from ldm.evaluation.report import (
    Column,
    average,
    bootstrap_interval,
    group_rows,
    percentage,
    picture_sheet,
    save_picture,
    success_share,
    summary_table,
)
from ldm.evaluation.runner import Job, Measure
from ldm.graph.storyboard import Storyboard
from ldm.models.diffusion.ddim import gaussian_noise
from ldm.models.diffusion.samplers import get_sampler
from ldm.models.diffusion.video import VideoDiffusion
from ldm.models.preprocess import noise_generator, to_model_input, to_style_input
from ldm.models.video_loading import load_video_model
from ldm.plots import film_strip
from ldm.sampling.clips import default_clip_options, sample_clip
from ldm.sampling.options import SampleOptions
from ldm.sampling.sample import derive_seed
from ldm.synthetic.shapes.clips import FRAMES
from ldm.synthetic.worlds import WORLDS, find_world
from ldm.util.config_merging import ConfigPaths
from ldm.util.errors import UserError, did_you_mean
from ldm.util.options import from_mapping

METHODS = ("truth", "video", "frames", "frozen", "edits")
MEANS = ("in_place", "nothing_else", "flicker", "edited_right", "outside_equal")
STRIP = 6  # frames of a clip on a sheet

MEASURES = {
    "in_place": "share of frames in which every object is found with its middle within half a latent cell of its box's. "
    "in_place_95 is a bootstrap interval over clips of 95 %",
    "kept_objects": "share of objects that have the storyboard's shape, colour and size wherever they are found, which is in at "
    "least half of their frames",
    "nothing_else": "share of frames without an object that the storyboard lacks",
    "flicker": "mean absolute difference of neighbouring frames, of 255 levels, outside the boxes of what moves and half a latent "
    "cell around them",
    "flicker_ratio": "flicker divided by that of the true clips through the autoencoder",
    "edited_right": "share of frames in which the edited object is in place and has the look that it should have",
    "outside_equal": "share of clips all of whose pixels outside the region of the edit are the source's",
    "success": "every object in place in every frame, and all of them kept. success_95 is Wilson's 95 % interval",
}
COLUMNS = (
    Column("method", "method"),
    Column("clips", "clips", "d"),
    percentage("frames in place % (95 %)", "in_place", "in_place_95"),
    percentage("objects kept %", "kept_objects"),
    percentage("nothing else %", "nothing_else"),
    Column("flicker", "flicker", ".2f"),
    Column("of the truth's", "flicker_ratio", ".2f"),
    percentage("whole clips % (95 %)", "success", "success_95"),
    percentage("edited right %", "edited_right"),
    percentage("outside equal %", "outside_equal"),
)


def run(
    benchmark: Benchmark,
    given: Mapping[str, Any] = MappingProxyType({}),
    methods: Sequence[str] = METHODS[:4],
    seed: int = 0,
    frames: int = FRAMES,
    overlap: int | None = None,
) -> BenchmarkReport:
    """Measures the methods on the same held-out storyboards, in each of which something moves by two latent cells.

    Args:
        benchmark: with the checkpoint of a video model, and the number of clips.
        given: options of sampling that are not a clip's defaults, by name.
        methods: some of METHODS; the truth is always measured, since flicker is compared with its.
        seed: of the noise; each clip derives its own from it.
        frames: of each clip.
        overlap: of the windows of a clip that is longer than the model's.

    Raises:
        UserError: a name is unknown, or the model does not load.
    """
    for method in methods:
        if method not in METHODS:
            raise UserError(f"--methods {method}: choose from {', '.join(METHODS)}{did_you_mean(method, METHODS)}")
    source = find_clips(benchmark.scenes, benchmark.tasks, frames)
    if "edits" in methods and source.scenes not in WORLDS:
        raise UserError(f"--methods edits: the scenes {source.scenes!r} cannot be drawn after an edit; leave it out")
    numbers = benchmark.numbers(source.count(), "clips in which something moves")
    model = load_video_model(benchmark.checkpoint, benchmark.config)
    source.storyboard(benchmark.first).validate(model.image.vocab, f"the scenes {source.scenes!r}")
    jobs = [(method, number) for method in dict.fromkeys(["truth", *methods]) for number in numbers]
    options = from_mapping(SampleOptions, default_clip_options(model, given))
    settings = {"options": vars(options), "seed": seed, "frames": frames, "overlap": overlap}
    prepared = partial(
        prepare, source, benchmark.checkpoint, benchmark.config, benchmark.device, options, seed, overlap
    )
    folder, protocol, rows = benchmark.measure(model, settings, jobs, prepared)
    summaries = summarise(jobs, rows)
    save_picture(sheet(folder, jobs, rows, source), folder / "clips.png")
    return BenchmarkReport(folder, {**protocol, "measures": MEASURES}, summaries, summary_table(COLUMNS, summaries))


def prepare(
    source: ClipSource,
    checkpoint: str | None,
    config: ConfigPaths | None,
    device: str,
    options: SampleOptions,
    seed: int,
    overlap: int | None,
) -> Measure:
    """Loads the model and returns the function that does a job (method, number of the clip)."""
    model = load_video_model(checkpoint, config, device)
    cell = 1 / model.image.latent_size

    def measure_job(job: Job) -> tuple[dict, Image.Image]:
        method, number = job
        storyboard, clip_seed, facts = source.storyboard(number), derive_seed(seed, number, 0), {}
        if method == "edits":
            task = make_clip_task(storyboard, source.clip(number), find_world(source.scenes), number)
            edit = edit_clip(model, task.request, EditOptions(seed=clip_seed), overlap=overlap)
            storyboard, clip, facts = edit.storyboard, edit.frames, measure_clip_edit(task, edit, source.scenes, cell)
        elif method == "truth":
            clip = through_autoencoder(model, source.clip(number))
        else:
            clip = make_clip(model, method, storyboard, source.style(number), options, clip_seed, overlap)
        row = facts | measure_clip(storyboard, clip, source.scenes, cell) | {"flicker": flicker(storyboard, clip, cell)}
        row["success"] = row["in_place"] == 1 and row["kept_objects"] == row["objects"]
        return row, film_strip(clip, STRIP)

    return measure_job


@torch.no_grad()
def through_autoencoder(model: VideoDiffusion, frames: Sequence[Image.Image]) -> list[Image.Image]:
    """Frames that were encoded and decoded one by one."""
    return model.decode_frames(torch.cat([model.image.encode(to_model_input(model.image, each)) for each in frames]))


@torch.no_grad()
def make_clip(
    model: VideoDiffusion,
    method: str,
    storyboard: Storyboard,
    style: Image.Image,
    options: SampleOptions,
    seed: int,
    overlap: int | None = None,
) -> list[Image.Image]:
    """The clip that a method ('video', 'frames' or 'frozen') makes of a storyboard."""
    if method == "video":
        return sample_clip(model, storyboard, seed, options, style, overlap=overlap)
    if method == "frozen":
        first = Storyboard(1, storyboard.keyframes[:1], storyboard.fps)
        return sample_frames(model, first, options, style, seed) * storyboard.frames
    return sample_frames(model, storyboard, options, style, seed)


def sample_frames(
    model: VideoDiffusion, storyboard: Storyboard, options: SampleOptions, style: Image.Image, seed: int
) -> list[Image.Image]:
    """Frames of the image model, each by itself, with the same initial noise."""
    graphs = storyboard.graphs()
    cond = model.condition(graphs, to_style_input(model.image, style))
    denoiser = model.image.denoiser(cond, options.graph_scale, options.style_scale)
    generator = noise_generator(seed)
    shape = model.image.channels, model.image.latent_size, model.image.latent_size
    noise = gaussian_noise((1, *shape), generator).to(model.image.device).expand(len(graphs), *shape)
    sampler = get_sampler(options.sampler)
    schedule = sampler.make_schedule(model.schedule, options.steps)
    return model.decode_frames(sampler.sample(denoiser, schedule, noise, options.eta, generator))


def summarise(jobs: Sequence[Job], rows: Sequence[dict]) -> list[dict]:
    """A summary for each method, in the order of the jobs."""
    groups = group_rows(jobs, rows)
    truth = average(groups["truth",], "flicker")
    summaries = []
    for (method,), group in groups.items():
        summary = {"method": method, "clips": len(group), **success_share(group)}
        summary |= {key: average(group, key) for key in MEANS}
        summary["in_place_95"] = bootstrap_interval(group, range(len(group)), "in_place")
        summary["kept_objects"] = sum(row["kept_objects"] for row in group) / sum(row["objects"] for row in group)
        summary["flicker_ratio"] = summary["flicker"] / truth if truth and summary["flicker"] is not None else None
        summaries.append(summary)
    return summaries


def sheet(folder: Path, jobs: Sequence[Job], rows: Sequence[dict], source: ClipSource) -> Image.Image:
    """Stored clips, a line for each method, failures first: true frames, and the method's in its frame."""

    def context(job: Job) -> tuple[list[tuple[str, Image.Image]], str]:
        method, number = job
        return [(f"{number}", film_strip(source.clip(number), STRIP))], method

    return picture_sheet(folder, jobs, rows, context)
