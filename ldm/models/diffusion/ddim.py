"""DDIM (Song et al. 2010.02502) as plain functions: one step, sampling, and inversion."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ldm.models.diffusion.schedule import DDIMSchedule, NoiseSchedule

# eps(x (B,C,H,W), t (B,) long) -> predicted noise (B,C,H,W). It includes the conditioning and the guidance.
Denoiser = Callable[[Tensor, Tensor], Tensor]


def step(
    x: Tensor, eps: Tensor, a_from: Tensor, a_to: Tensor, sigma: Tensor | float = 0.0, noise: Tensor | float = 0.0
) -> Tensor:
    """Moves x (B,C,H,W) from alpha-bar `a_from` to alpha-bar `a_to`, in either direction (DDIM eq. 12)."""
    x0 = (x - (1 - a_from).sqrt() * eps) / a_from.sqrt()
    # a float64 eps (NoiseSchedule.to_noise) leaves the latents in their own precision
    return (a_to.sqrt() * x0 + (1 - a_to - sigma**2).sqrt() * eps + sigma * noise).to(x.dtype)


def sample(
    denoiser: Denoiser,
    schedule: DDIMSchedule,
    x: Tensor,
    eta: float = 0.0,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    progress: Callable = reversed,
) -> Tensor:
    """Samples x_0 from x_T.

    Args:
        denoiser: predicts the noise.
        schedule: the timesteps to visit.
        x: x_T, (B,C,H,W).
        eta: 0 for deterministic DDIM, 1 for DDPM's variance (DDIM eq. 16).
        generator: source of the noise that steps add if eta > 0; one for the batch or one per image.
        progress: turns range(S) into the step indices from last to first; wrap it to show a progress bar.

    Returns:
        x_0, (B,C,H,W).
    """
    sigmas = schedule.sigmas(eta)
    for i in progress(range(len(schedule))):
        noise = gaussian_noise(x.shape, generator).to(x) if eta else 0.0
        eps = denoiser(x, timestep_batch(schedule, i, x))
        x = step(x, eps, schedule.alphas[i], schedule.alphas_prev[i], sigmas[i], noise)
    return x


def invert(denoiser: Denoiser, schedule: DDIMSchedule, x0: Tensor, progress: Callable = iter) -> Tensor:
    """Plain DDIM inversion: eps at x_{i-1} approximates eps at x_i (Mokady et al. 2211.09794, eq. 3).

    Calls the denoiser once per step.

    Returns:
        The path (S+1,B,C,H,W), as defined in `ldm.models.diffusion.inversion_paths`.
    """
    path = [x0]
    for i in progress(range(len(schedule))):
        eps = denoiser(path[-1], timestep_batch(schedule, i, x0))
        path.append(step(path[-1], eps, schedule.alphas_prev[i], schedule.alphas[i]))
    return torch.stack(path)


def make_schedule(schedule: NoiseSchedule, steps: int) -> DDIMSchedule:
    """DDIM's own timesteps, evenly spaced in t. Raises UserError if the number of steps is out of range."""
    return schedule.ddim(steps)


class Stepper:
    """Sampling steps one by one: (i, x, predicted noise) at the i-th timestep -> x at the previous one.

    Args:
        eta: as in `sample`; the noise itself is not added here.
    """

    def __init__(self, schedule: DDIMSchedule, eta: float = 0.0):
        self.levels, self.sigmas = schedule.levels(), schedule.sigmas(eta)

    def __call__(self, i: int, x: Tensor, eps: Tensor) -> Tensor:
        return step(x, eps, self.levels[i + 1], self.levels[i], self.sigmas[i])


def timestep_batch(schedule: DDIMSchedule, i: int, x: Tensor) -> Tensor:  # -> (B,) long
    """Returns the i-th timestep, repeated for each image of x."""
    return torch.full((len(x),), int(schedule.timesteps[i]), device=x.device)


def gaussian_noise(shape: Sequence[int], generator: torch.Generator | Sequence[torch.Generator] | None) -> Tensor:
    """Draws standard normal noise on the CPU from one generator, or each image's noise from its own generator."""
    if generator is None or isinstance(generator, torch.Generator):
        return torch.randn(shape, generator=generator)
    return torch.stack([torch.randn(shape[1:], generator=image_generator) for image_generator in generator])
