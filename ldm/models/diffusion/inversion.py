"""From a clean latent back to the noise that DDIM would have made it from.

A method takes (denoiser, schedule, x0, progress) and returns the whole path, (S+1,B,C,H,W): path[0] is x0 and
path[i] lies at the schedule's noise level i. Sampling from path[-1] with the same denoiser leads back to x0,
as exactly as the method solves

    x_i = step(x_{i-1}, eps(x_i, t_i), a_{i-1} -> a_i)

for x_i, which stands on both sides.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from ldm.models.diffusion.ddim import Denoiser, step
from ldm.schedule import DDIMSchedule


def ddim(denoiser: Denoiser, schedule: DDIMSchedule, x0: Tensor, progress: Callable = iter) -> Tensor:
    """Plain DDIM inversion: eps at x_{i-1} stands in for eps at x_i (Mokady et al. 2211.09794, eq. 3). One call a step."""
    return _climb(denoiser, schedule, x0, progress, iterations=1, tolerance=0.0)


def fixed_point(
    denoiser: Denoiser,
    schedule: DDIMSchedule,
    x0: Tensor,
    progress: Callable = iter,
    iterations: int = 50,
    tolerance: float = 1e-6,
) -> Tensor:
    """Iterate each step until x_i moves by less than `tolerance` of its own size (Pan et al. 2309.04907).

    Warns of the steps that `iterations` calls did not bring there: they leave a round-trip error.
    """
    return _climb(denoiser, schedule, x0, progress, iterations, tolerance)


def _climb(denoiser, schedule, x0, progress, iterations, tolerance) -> Tensor:
    path, unsolved = [x0], []
    for i in progress(range(len(schedule.timesteps))):
        t = torch.full((len(x0),), int(schedule.timesteps[i]), device=x0.device)
        below = guess = path[-1]
        for _ in range(iterations):
            last, guess = guess, step(below, denoiser(guess, t), schedule.alphas_prev[i], schedule.alphas[i])
            change = float((guess - last).norm() / guess.norm())
            if change <= tolerance:
                break
        if tolerance and change > 100 * tolerance:
            unsolved.append((i, change))
        path.append(guess)
    if unsolved:
        worst = max(change for _, change in unsolved)
        warnings.warn(
            f"fixed-point inversion: {len(unsolved)} of {len(schedule.timesteps)} steps still moved by up to {worst:.1e} "
            f"after {iterations} iterations, so the round trip is inexact; more --steps make each of them easier",
            stacklevel=2,
        )
    return torch.stack(path)


METHODS = {"ddim": ddim, "fixed-point": fixed_point}
