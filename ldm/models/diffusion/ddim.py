"""DDIM as plain functions: one step between any two noise levels, and sampling as many of them (Song et al. 2010.02502)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ldm.models.diffusion.schedule import DDIMSchedule

# eps(x (B,C,H,W), t (B,) long) -> predicted noise (B,C,H,W). Guidance and conditioning are inside.
Denoiser = Callable[[Tensor, Tensor], Tensor]


def step(x: Tensor, eps: Tensor, a_from: Tensor, a_to: Tensor, sigma: Tensor | float = 0.0, noise: Tensor | float = 0.0):
    """x (B,C,H,W) at alpha-bar `a_from` -> x at alpha-bar `a_to`, in either direction (DDIM eq. 12)."""
    x0 = (x - (1 - a_from).sqrt() * eps) / a_from.sqrt()
    return a_to.sqrt() * x0 + (1 - a_to - sigma**2).sqrt() * eps + sigma * noise


def sample(
    denoiser: Denoiser,
    schedule: DDIMSchedule,
    x: Tensor,
    eta: float = 0.0,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    progress: Callable = reversed,
) -> Tensor:
    """x_T (B,C,H,W) -> x_0.

    `eta` 0 is deterministic, 1 is DDPM's own variance (DDIM eq. 16), its noise drawn from `generator`, or each image's
    from its own.
    `progress` turns range(S) into the steps from the last to the first: wrap it to show a bar.
    """
    sigmas = schedule.sigmas(eta)
    for i in progress(range(len(schedule))):
        noise = gaussian_noise(x.shape, generator).to(x) if eta else 0.0
        eps = denoiser(x, timestep_batch(schedule, i, x))
        x = step(x, eps, schedule.alphas[i], schedule.alphas_prev[i], sigmas[i], noise)
    return x


def timestep_batch(schedule: DDIMSchedule, i: int, x: Tensor) -> Tensor:  # -> (B,) long
    """The i-th timestep, for each image of x."""
    return torch.full((len(x),), int(schedule.timesteps[i]), device=x.device)


def gaussian_noise(shape: Sequence[int], generator: torch.Generator | Sequence[torch.Generator] | None) -> Tensor:
    """Noise drawn from one generator, or the noise of each image from its own."""
    if generator is None or isinstance(generator, torch.Generator):
        return torch.randn(shape, generator=generator)
    return torch.stack([torch.randn(shape[1:], generator=own) for own in generator])
