"""Edit a photograph: say what two graphs differ in, find out where, and sample that anew under the second graph.

    operations   what leads from the source graph to the edited one; what has no place yet is placed (`understood`)
    region       where the picture may change: boxes, or else where the U-Net looks for an object; the rest is put back
    inversion    the photograph's trajectory, which is also what the latents outside the region follow
    keep         what moves sees the photograph as it was, through the U-Net's attention, and so keeps its look
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ldm.editing.attention import _seen, keeping
from ldm.editing.diagnostics import watched
from ldm.editing.options import EVERYWHERE, RANDOM, REGIONS, STEPS, Settings, default_guidance_scale, default_sampler
from ldm.editing.plan import _schedule, _way, understood
from ldm.editing.region import Region, paste, touched
from ldm.editing.restyle import PASSES, left_by_a_pass
from ldm.graph.diff import Operation
from ldm.graph.scene_graph import SceneGraph
from ldm.models.diffusion import inversion
from ldm.models.diffusion.ddim import Denoiser
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.models.diffusion.inversion import Inversion, Source
from ldm.models.preprocess import encode_graph, noise_generator, to_image_like, to_model_input, to_style_input
from ldm.modules import conditioning
from ldm.modules.conditioning import Conditioning
from ldm.modules.lora import merged
from ldm.util.errors import UserError, did_you_mean
from ldm.util.images import to_rgb


class Edit(NamedTuple):
    """What an edit made, with its pictures at the photograph's own size.

    reconstruction    what the inversion returns to without an edit; of a method that inverts nothing what the first
                      stage alone returns
    region            (H,W) in [0,1]: the share that the edit has in each pixel; where it is 0, the photograph's is untouched
    operations        what changes from the source graph to the edited one; empty without a source graph
    graph             the edited graph, with the boxes that were chosen
    chosen            what was chosen, as a sentence; empty where there was nothing to choose
    round_trip_error  |z0' - z0| / |z0| of the latent that was inverted and sampled back unchanged; None of a method that
                      inverts nothing
    psnr              dB, reconstruction against photograph, at the model's resolution
    psnr_autoencoder  dB, the same of the first stage alone: no inversion can do better
                      (these four are None where it was not asked to `reconstruct`)
    attention         (O,h,w) for each object of the source graph where it is looked at (of the edited graph, where there
                      is no other); None where it was not needed or asked for
    previews          what the edit was heading for at some steps, in their order
    round_trip        samples the photograph back, which takes time of its own, and tells the round_trip_error; None of a
                      method that inverts nothing
    """

    image: Image.Image
    reconstruction: Image.Image | None
    region: np.ndarray
    operations: list[Operation]
    graph: SceneGraph
    chosen: str
    settings: Settings
    round_trip_error: float | None
    psnr: float | None
    psnr_autoencoder: float | None
    attention: Tensor | None = None
    previews: tuple[Image.Image, ...] = ()
    round_trip: Callable[[], float] | None = None


@torch.no_grad()
def edit(
    model: LatentDiffusion,
    photograph: Image.Image,
    graph: SceneGraph,
    source: SceneGraph | None = None,
    style: Image.Image | None = None,
    method: str | None = None,
    sampler: str | None = None,
    steps: int | None = None,
    graph_scale: float | None = None,
    style_scale: float | None = None,
    mask: Image.Image | None = None,
    region: str = "auto",
    strength: float = 1.0,
    interval: tuple[float, float] = (0.0, 1.0),
    rescale: float = 0.0,
    keep: bool = False,
    margin: float = 1.0,
    feather: float = 1.0,
    passes: int | None = None,
    seed: int = 0,
    previews: int = 0,
    attention: bool = False,
    reconstruct: bool = True,
    progress: Callable = lambda steps, what: steps,
) -> Edit:
    """`photograph`, described by `source` (or by nothing: the null graph), as `graph` and `style` describe it. Pictures may
    be of any mode; what is made is RGB.

    style        another image to take the look from, everywhere; without it the photograph keeps its own
    mask         white where the picture may change, instead of where the operations say
    region       'auto', or 'none' to let the whole picture change
    method       one of ldm.models.diffusion.inversion.METHODS; by default `noise` within a region, `direct` without one
    sampler      ddim, or dpm++, of second order, which needs fewer steps, inverting as well as sampling; it goes with the
                 methods inversion.SECOND_ORDER, and is the one of the methods FAST where none is asked for
    steps        timesteps over all noise levels; by default as many as STEPS says
    strength     share of all timesteps that the photograph is taken up to; less stays nearer to it, by fewer steps
    graph_scale, style_scale, interval, rescale: guidance, as LatentDiffusion.denoiser takes it; 1 is none, and the default
                 GUIDANCE, if the model was trained for it
    keep         what moves keeps its look, and after a restyle everything its place, by attention to the photograph;
                 twice the U-Net's work
    margin, feather: in latent cells, how far around boxes the region is whole, and how far beyond that it fades
    passes       how often a style is taken over, each time of the picture that the last pass left (ldm.restyling); by default
                 PASSES by the method `direct`, else 1. What the result says of an inversion is of the first pass
    seed         of what is drawn, by the methods that draw
    previews     how many pictures of the way, in each pass
    attention    whether to look where the objects are seen, even if boxes tell
    reconstruct  whether to see as well what comes back without an edit
    progress     wraps the steps of each pass, e.g. in a bar: progress(range, 'inverting')

    Where the graphs say the same and there is no style, the photograph is returned as it is. Raises UserError.
    """
    if region not in REGIONS:
        raise UserError(f"there is no region {region!r}, only {' and '.join(REGIONS)}{did_you_mean(region, REGIONS)}")
    if not 0 < strength <= 1:
        raise UserError(f"a strength of {strength}: it is a share of the noise levels, more than 0 and at most 1")
    for name, cells in (("margin", margin), ("feather", feather)):
        if not cells >= 0:
            raise UserError(f"a {name} of {cells}: it is a distance in latent cells, from 0 on")
    if passes is not None and passes < 1:
        raise UserError(f"{passes} passes: an edit is made once at least")
    photograph, style, mask = to_rgb(photograph), style and to_rgb(style), mask and to_rgb(mask, "black")
    operations, graph, chosen = understood(source, graph, 1 / (2 * model.latent_size))
    everywhere, method = _way(method, source, style, mask, region)
    sampler = sampler or default_sampler(method)
    invert = inversion.get_method(method, sampler)
    settings = Settings(
        method, sampler, STEPS[sampler] if steps is None else steps, strength,
        default_guidance_scale(model) if graph_scale is None else graph_scale,
        default_guidance_scale(model) if style_scale is None else style_scale, tuple(interval), rescale, keep, margin, feather,
        1 if style is None else passes or (PASSES if method == EVERYWHERE else 1), seed,
    )  # fmt: skip
    schedule = _schedule(model, settings)
    model = model.with_unet(merged(model.unet))
    look = to_model_input(model, photograph)
    z0 = model.encode(look)
    untouched = np.zeros(photograph.size[::-1], np.float32)
    result = Edit(
        photograph.copy(), None, untouched, operations, graph, chosen, settings._replace(keep=False), None, None, None
    )
    if reconstruct:
        alone = model.decode(z0)
        quality = psnr(alone, look)
        result = result._replace(reconstruction=photograph.copy(), psnr=quality, psnr_autoencoder=quality)

    own = model.condition(encode_graph(graph, model), look)  # the edited graph in the photograph's own style
    known = model.unconditional(1) if source is None else model.condition(encode_graph(source, model), style=own.style)

    def shown_by(known: Conditioning) -> Source:
        return Source(model.denoiser(known), _guided(model, known, settings), model.null_tokens, noise_generator(seed))

    ours = shown_by(known)
    if source is not None and style is None and not (operations if everywhere or mask else _places(operations)):
        inverted = inversion.noise(ours, schedule, z0) if attention else None
        return result._replace(attention=inverted and _seen(model, source, known, schedule, inverted))

    inverted = invert(ours, schedule, z0, lambda steps: progress(steps, "inverting"))
    cells, size, maps = tuple(z0.shape[-2:]), photograph.size, None
    if attention or not (everywhere or mask or all(isinstance(it, tuple) for it in _places(operations))):
        maps = _seen(model, source or graph, known if source else own, schedule, inverted)
    if mask:
        where = Region.of_mask(mask, cells, size)
    elif everywhere:
        where = Region.everywhere(cells, size)
    else:
        where = Region.of(operations, cells, size, maps, margin, feather)

    target = own if style is None else model.condition(encode_graph(graph, model), to_style_input(model, style))
    control = keeping(model, source, graph, operations, everywhere, style is not None) if keep and source else None
    ways: list[Tensor] = []

    def edited(inverted: Inversion, known: Conditioning) -> Tensor:
        paired = bool(control or inverted.source)
        eps = _guided(model, conditioning.cat(known, target) if paired else target, settings)
        eps = partial(eps, control=control) if control else eps
        return _refuse_infinite(inversion.resample(
            inverted, schedule, watched(eps, schedule, previews, ways) if previews else eps,
            None if everywhere and mask is None else where.latent.to(z0), paired, lambda r: progress(r[::-1], "editing"),
        ))  # fmt: skip

    z = edited(inverted, known)
    for _ in range(settings.passes - 1):
        left, shown = left_by_a_pass(model, z, graph, target, source is not None)
        if control:
            control = keeping(model, graph, graph, [], everywhere, True)
        z = edited(invert(shown_by(shown), schedule, left, lambda steps: progress(steps, "inverting")), shown)

    def picture(z: Tensor) -> Image.Image:
        return paste(to_image_like(model.decode(z), photograph), photograph, where.pixels)

    def back(progress: Callable = lambda steps, what: steps) -> Tensor:
        eps = ours.guided if method in ("direct", "ddpm", "null") else ours.eps  # the one that the method answers for
        return inversion.resample(inverted, schedule, eps, progress=lambda r: progress(r[::-1], "reconstructing"))

    def error(z: Tensor) -> float:
        return float((z - z0).norm() / z0.norm())

    inverts = method != "noise"
    if reconstruct:
        returned = back(progress) if inverts else None
        reconstruction = model.decode(_refuse_infinite(returned)) if inverts else alone
        result = result._replace(
            reconstruction=to_image_like(reconstruction, photograph),
            round_trip_error=error(returned) if inverts else None,
            psnr=psnr(reconstruction, look),
        )
    return result._replace(
        settings=settings._replace(keep=control is not None),
        image=picture(z),
        region=where.pixels,
        attention=maps,
        previews=tuple(map(picture, ways)),
        round_trip=torch.no_grad()(lambda: error(back())) if inverts else None,
    )


def variants(count: int, *arguments, seed: int = 0, **options) -> list[Edit]:
    """`count` edits that differ by what is drawn; the other arguments are those of `edit`. Raises UserError for a method
    that draws nothing, before the first edit."""
    asked = inspect.signature(edit).bind(*arguments, **options).arguments
    _, method = _way(*map(asked.get, ("method", "source", "style", "mask", "region")))
    if count > 1 and method in inversion.METHODS and method not in RANDOM:
        raise UserError(f"{method} draws nothing, so there is one edit and not {count}; try {' or '.join(RANDOM)}")
    return [edit(*arguments, seed=seed + number, **options) for number in range(count)]


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of images in [-1,1], whose peak-to-peak is 2; infinite when equal."""
    error = (a.clamp(-1, 1) - b.clamp(-1, 1)).double().square().mean()
    return float(10 * torch.log10(4 / error))


# Its parts ------------------------------------------------------------------------------------------------------------


def _guided(model: LatentDiffusion, cond: Conditioning, settings: Settings) -> Denoiser:
    return model.denoiser(cond, settings.graph_scale, settings.style_scale, settings.interval, settings.rescale)


def _refuse_infinite(z: Tensor) -> Tensor:
    if not z.isfinite().all():
        raise UserError("the edit ran away to infinity: lower the scales, or look at how the model was trained")
    return z


def _places(operations: Sequence[Operation]) -> list:
    return [it for operation in operations for it in touched(operation, operations)]


