"""What can be looked at beside an edit: the reconstruction, the round-trip error, previews of the way, attention maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ldm.models.diffusion import inversion
from ldm.models.diffusion.ddim import Denoiser
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.models.diffusion.dpm_solver import predict_x0
from ldm.models.diffusion.schedule import DDIMSchedule
from ldm.models.preprocess import to_image_like
from ldm.util.image_similarity import psnr

if TYPE_CHECKING:
    from ldm.editing.pipeline import Progress, SourceState

GUIDED_METHODS = ("direct", "ddpm", "null")  # they return the photograph under the guided denoiser


@dataclass(frozen=True)
class Reconstruction:
    """The photograph sampled back without an edit.

    Args:
        image: at the photograph's size; of the autoencoder alone for methods without inversion.
        psnr: dB, reconstruction against photograph, at the model's resolution; None where nothing was inverted.
        psnr_autoencoder: dB, the same of the autoencoder alone, an upper bound for any inversion.
        round_trip_error: |z0' - z0| / |z0| of the latent that was inverted and sampled back; None for methods without
            inversion.
    """

    image: Image.Image
    psnr: float | None
    psnr_autoencoder: float
    round_trip_error: float | None


@torch.no_grad()
def reconstruct(
    model: LatentDiffusion, photograph: Image.Image, source: SourceState, progress: Progress | None = None
) -> Reconstruction:
    """Samples the photograph back from its inversion. Raises UserError if it diverges."""
    autoencoder = model.decode(source.latent)
    quality = _psnr(autoencoder, source.image)
    if source.method == "noise":
        return Reconstruction(to_image_like(autoencoder, photograph), None, quality, None)
    latent = _round_trip(source, progress)
    decoded, error = model.decode(latent), _relative_error(latent, source.latent)
    return Reconstruction(to_image_like(decoded, photograph), _psnr(decoded, source.image), quality, error)


def autoencoder_only(model: LatentDiffusion, photograph: Image.Image, source: SourceState) -> Reconstruction:
    """The reconstruction of an edit that changes nothing: the photograph itself is returned."""
    quality = _psnr(model.decode(source.latent), source.image)
    return Reconstruction(photograph.copy(), None, quality, None)


@torch.no_grad()
def round_trip_error(source: SourceState) -> float | None:
    """|z0' - z0| / |z0| of a latent inverted and sampled back without an edit; None for methods without inversion."""
    return None if source.method == "noise" else _relative_error(_round_trip(source), source.latent)


class Previews:
    """Records what an edit is heading for at some of its steps, and shows it at every step to whoever watches.

    Args:
        count: how many steps are recorded in each pass, spread evenly.
        show: is called with the x0 prediction (1,C,h,w) of every step.
    """

    def __init__(self, count: int, show: Callable[[Tensor], None] | None = None):
        self.count, self.show = count, show
        self.latents: list[Tensor] = []  # x0 predictions, (1,C,h,w)

    def watch(self, denoiser: Denoiser, schedule: DDIMSchedule) -> Denoiser:
        """The same denoiser, which also records and shows the x0 prediction of its last row."""
        last = len(schedule) - 1
        chosen = np.linspace(last, 0, min(self.count, len(schedule))).round().astype(int) if self.count else []
        recorded = {int(i) for i in chosen}
        shown = range(len(schedule)) if self.show else recorded
        steps = {int(schedule.timesteps[i]): i for i in shown}

        def watched(x: Tensor, t: Tensor, *null_tokens: Tensor) -> Tensor:
            eps = denoiser(x, t, *null_tokens)
            i = steps.get(int(t[0]))
            if i is not None:
                x0 = predict_x0(x[-1:], eps[-1:], schedule.alphas[i])
                if i in recorded:
                    self.latents.append(x0)
                if self.show:
                    self.show(x0)
            return eps

        return watched if steps else denoiser


def _round_trip(source: SourceState, progress: Progress | None = None) -> Tensor:
    denoiser = source.branch.guided if source.method in GUIDED_METHODS else source.branch.unguided
    steps = progress or (lambda steps, description: steps)
    return inversion.resample(
        source.inverted, source.schedule, denoiser, progress=lambda steps_: steps(steps_[::-1], "reconstructing")
    )


def _relative_error(latent: Tensor, reference: Tensor) -> float:
    return float((latent - reference).norm() / reference.norm())


def _psnr(decoded: Tensor, image: Tensor) -> float:
    return float(psnr(decoded, image, value_range=(-1, 1)))
