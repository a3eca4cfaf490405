"""Edits of clips by two storyboards: plan each frame, invert, locate per frame, sample all frames together, compose.

Outside its frame's region, each pixel is the source's own. What keeps the frames consistent are the model's temporal layers, noise that
they share, and, as an option, attention to the first and the previous frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ldm.editing.options import LOCAL_METHOD, EditOptions, EditRequest
from ldm.editing.pipeline import Progress, compose, planned_region
from ldm.editing.plan import EditPlan, make_plan, make_schedule, understand
from ldm.editing.region import Region
from ldm.graph.diff import diff
from ldm.graph.storyboard import Keyframe, Storyboard
from ldm.graph.validation import GraphError
from ldm.models.diffusion import inversion
from ldm.models.diffusion.ddim import Denoiser
from ldm.models.diffusion.inversion import Inversion, SourceBranch
from ldm.models.diffusion.inversion_paths import noised_path
from ldm.models.diffusion.samplers import refuse_divergence
from ldm.models.diffusion.schedule import DDIMSchedule
from ldm.models.diffusion.video import VideoDiffusion
from ldm.models.diffusion.windows import windowed
from ldm.models.preprocess import noise_generator, to_model_input, to_style_input
from ldm.modules.conditioning import Conditioning
from ldm.modules.frame_attention import FrameAttention
from ldm.util.errors import UserError
from ldm.util.images import to_rgb

METHODS = ("noise", "ddim", "direct", "fixed-point", "bdia")  # of inversion, for clips


@dataclass(frozen=True)
class ClipEditRequest:
    """What is asked for.

    Args:
        frames: T images of one size.
        storyboard: what the edited clip should show.
        source: storyboard of the clip as it is.
        style: another image to take the look from, everywhere; without it the clip keeps its own.

    Raises:
        UserError: clip and storyboards differ in length.
    """

    frames: Sequence[Image.Image]
    storyboard: Storyboard
    source: Storyboard
    style: Image.Image | None = None

    def __post_init__(self):
        for name, board in (("edited", self.storyboard), ("source", self.source)):
            if board.frames != len(self.frames):
                raise UserError(
                    f"the clip has {len(self.frames)} frames, but the {name} storyboard {board.frames}: set its frames to that number"
                )


@dataclass(frozen=True)
class ClipEdit:
    """The result of an edit.

    Args:
        frames: the edited clip, at the size of the source.
        regions: (T,H,W) in [0,1], share of the edit in each pixel; where it is 0, the pixel is the source's.
        storyboard: what the edited clip shows, with all boxes.
        operations: what changes, in sentences, each with the keyframes for which it does.
        options: all options with the values that were used.
        frame_attention: whether frames attended to the first and the previous one.
    """

    frames: list[Image.Image]
    regions: np.ndarray
    storyboard: Storyboard
    operations: list[str]
    options: EditOptions
    frame_attention: bool


@torch.no_grad()
def edit_clip(
    model: VideoDiffusion,
    request: ClipEditRequest,
    options: EditOptions = EditOptions(),
    frame_attention: bool | None = None,
    overlap: int | None = None,
    progress: Progress | None = None,
) -> ClipEdit:
    """Edits a clip so that it shows the edited storyboard.

    Args:
        options: as of an edit of a photograph; `keep` and `passes` are of photographs only.
        frame_attention: whether each frame attends to the first and the previous one; by default where the temporal layers are
            not trained.
        overlap: frames that the windows of a clip share that is longer than the model's; by default half of its length.
        progress: progress(steps, description) wraps the steps of each pass.

    Raises:
        UserError: the request does not fit the model, an option is not one of clips, or sampling diverges.
    """
    _refuse(options)
    frames = [to_rgb(frame) for frame in request.frames]
    storyboard, plans = plan_frames(model, request, frames, options)
    chosen = plans[0].options
    size, cells = frames[0].size, (model.image.latent_size, model.image.latent_size)
    everywhere = plans[0].everywhere
    regions = [Region.everywhere(cells, size) if everywhere else locate_frame(plan, cells, size) for plan in plans]
    masks = torch.cat([region.latent for region in regions])
    attends = not model.is_trained if frame_attention is None else frame_attention
    operations = list_operations(request.source, storyboard)
    if not masks.any():
        return ClipEdit(frames, np.stack([r.pixels for r in regions]), storyboard, operations, chosen, attends)

    reference = (
        to_style_input(model.image, request.style or frames[0]) if model.image.global_stage_model is not None else None
    )
    denoise = _Denoisers(model, chosen, attends, _windows(model, storyboard, overlap))
    known = model.condition(
        [plan.source_graph for plan in plans], None if reference is None else to_model_input(model.image, frames[0])
    )
    target = model.condition([plan.graph for plan in plans], reference)
    latents = torch.cat([model.image.encode(to_model_input(model.image, frame)) for frame in frames])
    schedule = make_schedule(model.image, chosen)
    steps = progress or (lambda each, description: each)
    inverted = invert_clip(model, denoise, known, schedule, latents, chosen, lambda each: steps(each, "inverting"))
    edited = inversion.resample(
        inverted,
        schedule,
        denoise(target),
        None if everywhere else masks.to(latents),
        progress=lambda each: steps(each[::-1], "editing"),
    )
    refuse_divergence(edited)
    decoded = (model.image.decode(frame) for frame in edited.split(1))
    images = [compose(*each) for each in zip(frames, decoded, regions)]
    return ClipEdit(images, np.stack([r.pixels for r in regions]), storyboard, operations, chosen, attends)


# The steps -----------------------------------------------------------------------------------------------------------


def plan_frames(
    model: VideoDiffusion, request: ClipEditRequest, frames: Sequence[Image.Image], options: EditOptions
) -> tuple[Storyboard, list[EditPlan]]:
    """The edited storyboard with the boxes that follow from the source's, and the plan of each frame."""
    storyboard = complete(request.source, request.storyboard)
    pairs = zip(frames, storyboard.graphs(), request.source.graphs())
    requests = [EditRequest(frame, graph, source, request.style) for frame, graph, source in pairs]
    return storyboard, [make_plan(each, options, model.image) for each in requests]


def complete(source: Storyboard, edited: Storyboard) -> Storyboard:
    """The edited storyboard with what only the source says, and with the places that new relations ask for.

    Places are chosen at the keyframes of both, so that things move evenly in between; where boxes do not move in straight lines,
    at every frame.

    Raises:
        GraphError: a relation is not spatial, or there is no room for it.
    """
    straight = source.easing == edited.easing == "linear"
    keys = {keyframe.at for board in (source, edited) for keyframe in board.keyframes}
    keyframes = []
    for at in sorted(keys) if straight else range(source.frames):
        try:
            graph = understand(source.graph_at(at), edited.graph_at(at))[1]
        except GraphError as error:
            raise GraphError(f"frame {at}: {error}") from None
        keyframes.append(Keyframe(at, graph))
    return replace(edited, keyframes=tuple(keyframes), easing="linear")


def locate_frame(plan: EditPlan, cells: tuple[int, int], size: tuple[int, int]) -> Region:
    """Where a frame may change. Raises UserError for objects without a box, whose place attention would have to find."""
    if plan.needs_attention:
        raise UserError(
            f"clips are edited by boxes, but one is missing ({', '.join(map(str, plan.operations))}): give the object a box in each keyframe"
        )
    return planned_region(plan, cells, size)


def invert_clip(
    model: VideoDiffusion,
    denoise: _Denoisers,
    known: Conditioning,
    schedule: DDIMSchedule,
    latents: Tensor,
    options: EditOptions,
    progress: Progress,
) -> Inversion:
    """The latents of all frames along the noise levels (S+1,T,C,h,w); the method 'noise' adds noise that frames share."""
    generator = noise_generator(options.seed)
    if options.method == LOCAL_METHOD:
        noise = model.noise(len(latents), generator)
        return Inversion(noised_path(latents, schedule, noise[None]), sampler=options.sampler)
    method = inversion.get_method(options.method, options.sampler)
    branch = SourceBranch(denoise(known, guided=False), denoise(known), generator=generator)
    return method(branch, schedule, latents, progress)


def list_operations(source: Storyboard, edited: Storyboard) -> list[str]:
    """What differs at the edited storyboard's keyframes, in sentences, each once with the frames for which it is said."""
    found: dict[str, list[int]] = {}
    for keyframe in edited.keyframes:
        for operation in diff(source.graph_at(keyframe.at), keyframe.graph):
            found.setdefault(str(operation), []).append(keyframe.at)
    return [f"{text} (frames {', '.join(map(str, at))})" for text, at in found.items()]


class _Denoisers:
    """Makes denoisers of whole clips from conditionings."""

    def __init__(self, model: VideoDiffusion, options: EditOptions, attends: bool, windows: Sequence[range]):
        self.model, self.options, self.attends, self.windows = model, options, attends, windows

    def __call__(self, cond: Conditioning, guided: bool = True) -> Denoiser:
        scales = (self.options.graph_scale, self.options.style_scale) if guided else (1.0, 1.0)

        def make(part: Conditioning, frames: int) -> Denoiser:
            denoiser = self.model.denoiser(part, *scales, frames=frames)
            return partial(denoiser, control=FrameAttention(frames)) if self.attends else denoiser

        return windowed(make, cond, self.windows)


def _windows(model: VideoDiffusion, storyboard: Storyboard, overlap: int | None) -> list[range]:
    length = min(storyboard.frames, model.frames)
    return storyboard.windows(length, length // 2 if overlap is None else overlap)


def _refuse(options: EditOptions) -> None:
    """Raises UserError for options that clips do not have."""
    if options.method not in (None, *METHODS):
        raise UserError(f"method {options.method}: for photographs only; clips take {', '.join(METHODS)}")
    for name, given in (("keep", options.keep), ("passes", (options.passes or 1) > 1), ("steer", options.steer)):
        if given:
            raise UserError(f"{name}: for photographs only; leave it out for clips")
