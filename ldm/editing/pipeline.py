"""Edit a photograph by its scene graph: plan -> invert -> locate -> sample -> compose.

The steps, each a function that can be called by itself:

    plan    = make_plan(request, options, model)     operations, places, complete options
    source  = invert(source, plan)                   latents of the photograph along the noise levels
    region  = locate(source, plan, attention)        where the image may change
    latent  = sample(model, source, region, plan)    the edited latent
    image   = compose(photograph, decoded, region)   outside the region exactly the photograph
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ldm.editing.attention import appearance_control, attention_maps
from ldm.editing.diagnostics import Previews, Reconstruction, autoencoder_only, reconstruct
from ldm.editing.options import RANDOM_METHODS, EditOptions, EditRequest
from ldm.editing.plan import EditPlan, default_method, make_plan, make_schedule
from ldm.editing.region import Region, paste, shrunk
from ldm.editing.restyle import next_source
from ldm.models.diffusion import inversion
from ldm.models.diffusion.ddim import Denoiser
from ldm.models.diffusion.guidance import controlled
from ldm.models.diffusion.inversion import Inversion, SourceBranch
from ldm.models.diffusion.latent_diffusion import LatentDiffusion
from ldm.models.diffusion.samplers import refuse_divergence
from ldm.models.diffusion.schedule import DDIMSchedule
from ldm.models.preprocess import encode_graph, noise_generator, to_image_like, to_model_input, to_style_input
from ldm.modules import conditioning
from ldm.modules.attention_control import Control
from ldm.modules.conditioning import Conditioning
from ldm.modules.graph_text import steering
from ldm.modules.lora import merge_lora
from ldm.util.errors import UserError
from ldm.util.images import to_rgb

Progress = Callable[[Sequence[int], str], Iterable[int]]  # wraps the steps of a pass, e.g. in a progress bar
Watcher = Callable[[Tensor, Region], None]  # sees the x0 prediction (1,C,h,w) of each sampling step, and the region


@dataclass(frozen=True)
class SourceState:
    """The photograph on the model's side.

    Args:
        image: (1,3,S,S) in [-1,1].
        latent: (1,C,h,w), the encoded image.
        conditioning: of the source graph, or the null graph.
        target: conditioning of the edit, in the requested style or the photograph's own.
        branch: denoisers of the photograph as it is.
        schedule: timesteps of inversion and sampling.
        method: the inversion method.
        inversion: the latents along the noise levels; None where nothing was inverted yet.
    """

    image: Tensor
    latent: Tensor
    conditioning: Conditioning
    target: Conditioning
    branch: SourceBranch
    schedule: DDIMSchedule
    method: str
    inversion: Inversion | None = None

    @property
    def inverted(self) -> Inversion:
        """The inversion. Raises ValueError before `invert`."""
        if self.inversion is None:
            raise ValueError("the source has no inversion yet: call invert() first")
        return self.inversion


@dataclass(frozen=True)
class Edit:
    """The result of an edit; images are at the photograph's size.

    Args:
        image: the edited photograph, RGB.
        region: (H,W) in [0,1], share of the edit in each pixel; where it is 0, the photograph is untouched.
        plan: operations, edited graph with all boxes, and complete options.
        source: state of the first pass, for diagnostics; None where the photograph was returned as it is.
        keeps_appearance: whether the option `keep` changed anything.
        reconstruction: None where it was not asked for.
        attention: (O,h,w), attention to each object of the source graph (of the edited graph where there is none); None
            where it was neither needed nor asked for.
        previews: images of what the edit was heading for at some steps, in order.
    """

    image: Image.Image
    region: np.ndarray
    plan: EditPlan
    source: SourceState | None = None
    keeps_appearance: bool = False
    reconstruction: Reconstruction | None = None
    attention: Tensor | None = None
    previews: tuple[Image.Image, ...] = ()

    @property
    def settings(self) -> dict:
        """All options with the values that were used, for a record. `keep` tells whether it changed anything."""
        return self.plan.options.as_dict() | {"keep": self.keeps_appearance}


@torch.no_grad()
def edit(
    model: LatentDiffusion,
    request: EditRequest,
    options: EditOptions = EditOptions(),
    previews: int = 0,
    attention: bool = False,
    reconstruction: bool = False,
    progress: Progress | None = None,
    watch: Watcher | None = None,
) -> Edit:
    """Edits a photograph so that it shows the edited graph, in the requested style.

    Where the two graphs say the same and no style is given, the photograph is returned as it is.

    Args:
        previews: how many previews of the way are made in each pass.
        attention: whether to return attention maps even if the region does not need them.
        reconstruction: whether to sample the photograph back without an edit as well.
        progress: progress(steps, description) wraps the steps of each pass. An exception that it raises ends the edit.
        watch: watch(x0, region) is called at each sampling step; it may raise, too.

    Raises:
        UserError: the request does not fit the model, or sampling diverges.
    """
    request = _in_rgb(request)
    photograph, plan = request.photograph, make_plan(request, options, model)
    schedule = make_schedule(model, plan.options)
    model = model.with_unet(merge_lora(model.unet))
    source = describe_source(model, plan, schedule)
    if plan.changes_nothing:
        untouched = np.zeros(photograph.size[::-1], np.float32)
        again = autoencoder_only(model, photograph, source) if reconstruction else None
        maps = _unedited_maps(model, source, plan) if attention else None
        return Edit(photograph.copy(), untouched, plan, reconstruction=again, attention=maps)

    source = invert(source, plan, progress)
    maps = object_attention(model, source, plan) if attention or plan.needs_attention else None
    region = locate(source, plan, maps)
    control, watcher = attention_control(model, plan), Previews(previews, watch and (lambda x0: watch(x0, region)))
    latent = sample(model, source, region, plan, control, watcher, progress)
    for _ in range(plan.options.passes - 1):
        following = invert(next_pass(model, latent, source, plan), plan, progress)
        control = control and appearance_control(model, plan.graph, plan.graph, [], True, True)
        latent = sample(model, following, region, plan, control, watcher, progress)
    return Edit(
        compose(photograph, model.decode(latent), region),
        region.pixels,
        plan,
        source,
        keeps_appearance=control is not None,
        reconstruction=reconstruct(model, photograph, source, progress) if reconstruction else None,
        attention=maps,
        previews=tuple(compose(photograph, model.decode(latent), region) for latent in watcher.latents),
    )


def variants(
    count: int, model: LatentDiffusion, request: EditRequest, options: EditOptions = EditOptions(), **diagnostics
) -> list[Edit]:
    """`count` edits that differ by their seeds, from `options.seed` on; other arguments are those of `edit`.

    Raises:
        UserError: the method draws no noise, so all edits would be the same.
    """
    seeds = variant_seeds(count, model, request, options)
    return [edit(model, request, options.replace(seed=seed), **diagnostics) for seed in seeds]


def variant_seeds(count: int, model: LatentDiffusion, request: EditRequest, options: EditOptions) -> range:
    """The seeds of `variants`.

    Raises:
        UserError: the method draws no noise, so all edits would be the same.
    """
    method = options.or_defaults(model.edit_defaults).method or default_method(request, options, model)
    if count > 1 and method not in RANDOM_METHODS:
        raise UserError(
            f"the method {method} draws no noise, so {count} edits would be the same; use {' or '.join(RANDOM_METHODS)}"
        ).coded("same_variants", method=method, methods=", ".join(RANDOM_METHODS))
    return range(options.seed, options.seed + count)


# The steps -----------------------------------------------------------------------------------------------------------


def describe_source(model: LatentDiffusion, plan: EditPlan, schedule: DDIMSchedule) -> SourceState:
    """Encodes the photograph, and conditions the model on both graphs and styles."""
    request = plan.request
    image = to_model_input(model, request.photograph)
    source_words, words = plan.words
    in_own_style = model.condition(encode_graph(plan.graph, model), image, texts=words)
    if plan.source_graph is None:
        known = model.unconditional(1)
    else:
        known = model.condition(encode_graph(plan.source_graph, model), style=in_own_style.style, texts=source_words)
    target = in_own_style
    if request.style is not None:
        target = model.condition(encode_graph(plan.graph, model), to_style_input(model, request.style), texts=words)
    branch = _source_branch(model, known, plan.options)
    return SourceState(image, model.encode(image), known, target, branch, schedule, plan.options.method)


def invert(source: SourceState, plan: EditPlan, progress: Progress | None = None) -> SourceState:
    """The state with the photograph's latents along the noise levels, (S+1,1,C,h,w)."""
    method = inversion.get_method(plan.options.method, plan.options.sampler)
    steps = progress or _silent
    return replace(
        source,
        inversion=method(source.branch, source.schedule, source.latent, lambda each: steps(each, "inverting")),
    )


def object_attention(model: LatentDiffusion, source: SourceState, plan: EditPlan) -> Tensor | None:
    """(O,h,w): attention to each object of the source graph, or of the edited graph where there is no source graph."""
    graph = plan.source_graph
    known = (plan.graph, source.target) if graph is None else (graph, source.conditioning)
    if graph is None and plan.request.style is not None:
        known = plan.graph, model.condition(encode_graph(plan.graph, model), source.image, texts=plan.words[1])
    text = plan.texts and plan.texts[graph is None]
    return attention_maps(model, *known, source.schedule, source.inverted, text)


def locate(source: SourceState, plan: EditPlan, attention: Tensor | None = None) -> Region:
    """Where the image may change: by the mask, by the operations' boxes, or by attention to objects without a box."""
    (height, width), size = source.latent.shape[-2:], plan.request.photograph.size
    cells = height, width
    if plan.request.mask:
        return Region.of_mask(plan.request.mask, cells, size)
    if plan.everywhere:
        return Region.everywhere(cells, size)
    return planned_region(plan, cells, size, attention)


def planned_region(
    plan: EditPlan, cells: tuple[int, int], size: tuple[int, int], attention: Tensor | None = None
) -> Region:
    """The region of the plan's operations, with the plan's options; arguments are those of `Region.of`."""
    options = plan.options
    assert None not in (options.margin, options.feather, options.reach, options.spare)
    region = Region.of(plan.operations, cells, size, attention, options.margin, options.feather)
    if any(options.reach):
        spared = [shrunk(box, options.spare) for box in plan.untouched_boxes] if options.spare else []
        region = region.with_reach(plan.operations, options.reach, spared, options.feather)
    return region


def attention_control(model: LatentDiffusion, plan: EditPlan) -> Control | None:
    """The attention control of the first pass; None without the option `keep`, or where it would change nothing."""
    if not plan.options.keep or plan.source_graph is None:
        return None
    return appearance_control(
        model,
        plan.source_graph,
        plan.graph,
        plan.operations,
        plan.everywhere,
        plan.request.style is not None,
        plan.texts,
    )


def steered(control: Control | None, plan: EditPlan, row: int) -> Control | None:
    """The control with what draws the words of the edited graph to their boxes in a batch row (the option `steer`)."""
    if plan.texts is None or not plan.options.steer:
        return control
    rows = [None] * row + [plan.texts[1]]
    return (control or Control())._replace(steering=steering(rows, plan.options.steer, plan.options.steer_peak))


def sample(
    model: LatentDiffusion,
    source: SourceState,
    region: Region,
    plan: EditPlan,
    control: Control | None = None,
    previews: Previews | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Samples the edited latent (1,C,h,w) from the inversion; outside the region it follows the photograph's latents.

    Raises:
        UserError: sampling diverges.
    """
    paired = control is not None or source.inverted.source_denoiser is not None  # source and target in one batch
    cond = conditioning.cat(source.conditioning, source.target) if paired else source.target
    denoiser = _guided(model, cond, plan.options, inpainting_inputs(model, source, region))
    control = steered(control, plan, row=int(paired))
    denoiser = controlled(denoiser, control, model.schedule) if control else denoiser
    denoiser = previews.watch(denoiser, source.schedule) if previews else denoiser
    unrestricted = plan.everywhere and plan.request.mask is None
    steps = progress or _silent
    latent = inversion.resample(
        source.inverted,
        source.schedule,
        denoiser,
        None if unrestricted else region.latent.to(source.latent),
        paired,
        lambda each: steps(each[::-1], "editing"),
    )
    refuse_divergence(latent)
    return latent


def inpainting_inputs(model: LatentDiffusion, source: SourceState, region: Region) -> Tensor | None:
    """What an inpainting U-Net reads: the region, and the photograph without it; None for other U-Nets."""
    return model.inpainting_inputs(source.image, (region.latent > 0).to(source.image)) if model.inpaints else None


def next_pass(model: LatentDiffusion, latent: Tensor, source: SourceState, plan: EditPlan) -> SourceState:
    """The state of the next pass of a style transfer, which starts from the result of the previous one."""
    knows_graph = plan.request.source_graph is not None
    latent, known = next_source(model, latent, plan.graph, source.target, knows_graph)
    branch = _source_branch(model, known, plan.options)
    return replace(source, latent=latent, conditioning=known, branch=branch, inversion=None)


def compose(photograph: Image.Image, decoded: Tensor, region: Region) -> Image.Image:
    """The decoded edit (1,3,S,S) at the photograph's size, blended into the photograph within the region."""
    return paste(to_image_like(decoded, photograph), photograph, region.pixels)


def _in_rgb(request: EditRequest) -> EditRequest:
    return replace(
        request,
        photograph=to_rgb(request.photograph),
        style=request.style and to_rgb(request.style),
        mask=request.mask and to_rgb(request.mask, "black"),
    )


def _unedited_maps(model: LatentDiffusion, source: SourceState, plan: EditPlan) -> Tensor | None:
    noised = inversion.noise(source.branch, source.schedule, source.latent)
    return object_attention(model, replace(source, inversion=noised), plan)


def _source_branch(model: LatentDiffusion, known: Conditioning, options: EditOptions) -> SourceBranch:
    guided, null = _guided(model, known, options), model.null(options.negative)
    null_tokens = null.tokens if null.text is None else null.text.tokens
    return SourceBranch(model.denoiser(known), guided, null_tokens, noise_generator(options.seed))


def _guided(model: LatentDiffusion, cond: Conditioning, options: EditOptions, inputs: Tensor | None = None) -> Denoiser:
    scales = options.graph_scale, options.style_scale
    rest = options.interval, options.rescale, inputs, options.negative
    return model.denoiser(cond, *scales, *rest, text_scale=options.text_scale)


def _silent(steps: Sequence[int], description: str) -> Sequence[int]:
    return steps
