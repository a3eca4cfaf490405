"""Edit a photograph: invert it under its own graph, and sample it back under another graph and style."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from ldm.data.images import to_image
from ldm.diff import diff
from ldm.graph import SceneGraph, encode
from ldm.models.diffusion import inversion
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.sampling import as_seen, as_style
from ldm.util import UserError


@dataclass(frozen=True)
class Edit:
    """What an edit made, with its pictures at the photograph's own size.

    operations        what changes from the source graph to the edited one; empty without a source graph
    round_trip_error  |z0' - z0| / |z0| of the latent that was inverted and sampled back unchanged
    psnr              dB, reconstruction against photograph, at the model's resolution
    psnr_autoencoder  dB, the same of the first stage alone: no inversion can do better
    """

    image: Image.Image
    reconstruction: Image.Image
    operations: list
    round_trip_error: float
    psnr: float
    psnr_autoencoder: float


@torch.no_grad()
def edit(
    model: LatentDiffusion,
    photograph: Image.Image,
    graph: SceneGraph,
    source: SceneGraph | None = None,
    style: Image.Image | None = None,
    method: str = "ddim",
    steps: int = 50,
    graph_scale: float = 1.0,
    style_scale: float = 1.0,
    progress: Callable = lambda steps, what: steps,
) -> Edit:
    """`photograph`, described by `source` (or by nothing: the null graph), as `graph` and `style` describe it.

    style is another image to take the look from; without it the photograph keeps its own. method is one of
    ldm.models.diffusion.inversion.METHODS. graph_scale and style_scale guide the edit; 1 is no guidance.
    progress wraps the steps of each pass, e.g. in a bar: progress(range, 'inverting'). Raises UserError.
    """
    look = as_seen(model, photograph)
    z0 = model.encode(look)
    target = model.condition(_encode(graph, model), look if style is None else as_style(model, style))
    # Without a description of the photograph, nothing about it is told to the inversion: no graph, no style.
    known = model.unconditional(1) if source is None else model.condition(_encode(source, model), look)

    schedule = model.schedule.ddim(steps)
    source_eps = model.denoiser(known)
    inverted = inversion.METHODS[method](
        inversion.Source(source_eps), schedule, z0, lambda r: progress(r, "inverting")
    )
    back = inversion.resample(
        inverted, schedule, source_eps, progress=lambda r: progress(r[::-1], "reconstructing")
    )
    edited = inversion.resample(
        inverted,
        schedule,
        model.denoiser(target, graph_scale, style_scale),
        progress=lambda r: progress(r[::-1], "editing"),
    )
    if not (back.isfinite().all() and edited.isfinite().all()):
        raise UserError("the edit ran away to infinity: lower the scales, or look at how the model was trained")
    reconstruction = model.decode(back)
    return Edit(
        _own_size(model.decode(edited), photograph),
        _own_size(reconstruction, photograph),
        [] if source is None else diff(source, graph),
        float((back - z0).norm() / z0.norm()),
        psnr(reconstruction, look),
        psnr(model.decode(z0), look),
    )


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of images in [-1,1], whose peak-to-peak is 2; infinite when equal."""
    error = (a.clamp(-1, 1) - b.clamp(-1, 1)).double().square().mean()
    return float(10 * torch.log10(4 / error))


def _encode(graph: SceneGraph, model: LatentDiffusion):
    return encode([graph], model.vocab).to(model.device)


def _own_size(image: Tensor, photograph: Image.Image) -> Image.Image:
    return to_image(image[0]).resize(photograph.size, Image.Resampling.BICUBIC)
