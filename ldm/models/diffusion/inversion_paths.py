"""Paths from a clean latent up to noise, computed by inverting a sampler or by the forward process.

A path is (S+1,B,C,H,W): path[0] is x_0, and path[i + 1] is the latent at the schedule's i-th timestep. x_0 is taken to
be at alphas_prev[0], the level where sampling ends. Inversions take (denoiser, schedule, x0, progress). DDIM sampling
from path[-1] with the same denoiser returns x_0 as exactly as the path solves the implicit equation

    x_i = step(x_{i-1}, eps(x_i, t_i), a_{i-1} -> a_i)

for each level. `progress` wraps the iteration over steps, for example in a progress bar.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from ldm.models.diffusion.ddim import Denoiser, step, timestep_batch
from ldm.models.diffusion.schedule import DDIMSchedule

ANDERSON_MEMORY = 4  # differences of earlier iterates that Anderson acceleration combines


def fixed_point(
    denoiser: Denoiser,
    schedule: DDIMSchedule,
    x0: Tensor,
    progress: Callable = iter,
    iterations: int = 20,
    tolerance: float = 1e-6,
) -> Tensor:
    """Solves each implicit step by fixed-point iteration (Pan et al. 2309.04907) with Anderson acceleration.

    Warns if steps end with a residual above 100 times the tolerance, since the reconstruction then has that error.

    Args:
        denoiser: predicts the noise.
        schedule: the timesteps of the path.
        x0: the clean latents, (B,C,H,W).
        progress: wraps the iteration over steps.
        iterations: the largest number of denoiser calls per step.
        tolerance: the residual, relative to the norm of x_i, at which a step counts as solved.
    """
    path, unsolved = [x0], []
    for i in progress(range(len(schedule))):
        x, residual = solve_fixed_point(_inverse_step(denoiser, schedule, i, path[-1]), path[-1], iterations, tolerance)
        path.append(x)
        if residual > 100 * tolerance:
            unsolved.append(residual)
    if unsolved:
        warnings.warn(
            f"fixed-point inversion: {len(unsolved)} of {len(schedule)} steps have a relative residual of up to "
            f"{max(unsolved):.0e} after {iterations} iterations, so the reconstruction is inexact: use more --steps",
            stacklevel=2,
        )
    return torch.stack(path)


def bdia(denoiser: Denoiser, schedule: DDIMSchedule, x0: Tensor, progress: Callable = iter) -> Tensor:
    """The path of the exactly invertible BDIA sampler with gamma 1 (Zhang et al. 2307.10829).

    `bdia_step` retraces it with the same values of eps. The first level has no previous level and comes from a plain
    DDIM inversion step. Calls the denoiser once per step.
    """
    a = schedule.levels()
    path = [x0]
    for i in progress(range(len(schedule))):
        x = path[-1]
        eps = denoiser(x, timestep_batch(schedule, max(i - 1, 0), x))
        path.append(step(x, eps, a[0], a[1]) if i == 0 else bdia_step(path[-2], x, eps, a[i - 1], a[i], a[i + 1]))
    return torch.stack(path)


def bdia_step(x_previous: Tensor, x: Tensor, eps: Tensor, a_previous: Tensor, a: Tensor, a_next: Tensor) -> Tensor:
    """Steps from `x`, which was reached from `x_previous`, to the next level, with eps predicted at `x`.

    It adds the difference between `x_previous` and DDIM's step from x back to that level. Sampling and inversion are
    thus each other's inverse.
    """
    return x_previous - step(x, eps, a, a_previous) + step(x, eps, a, a_next)


def noised_path(x0: Tensor, schedule: DDIMSchedule, noise: Tensor) -> Tensor:
    """The forward process from x_0 to each level (DDPM eq. 4), without calls of a denoiser.

    Args:
        x0: the clean latents, (B,C,H,W).
        schedule: the timesteps of the path.
        noise: (S,B,C,H,W) for independent noise at each level, or (1,B,C,H,W) for the same noise at all levels.
    """
    signal = (schedule.alphas / schedule.alphas_prev[0]).view(-1, 1, 1, 1, 1)  # variance relative to that of x_0
    return torch.cat([x0[None], signal.sqrt().to(x0) * x0 + (1 - signal).sqrt().to(x0) * noise.to(x0)])


def solve_fixed_point(
    function: Callable[[Tensor], Tensor], x: Tensor, iterations: int, tolerance: float
) -> tuple[Tensor, float]:
    """Solves x = function(x) for each row of a batch by Anderson acceleration (Walker & Ni 2011, eq. 4.1).

    Each iterate is the combination of the latest iterates that would have the smallest residual if `function` were
    linear.

    Returns:
        The best iterate, and its residual relative to its norm.
    """
    differences: list[tuple[Tensor, Tensor]] = []  # of successive iterates and of their residuals, (B,n) each
    best, smallest = x, float("inf")
    previous = None
    for _ in range(iterations):
        image = function(x)
        residual = (image - x).flatten(1)
        error = float(residual.norm() / image.norm())
        if error < smallest:
            best, smallest = image, error
        if error <= tolerance:
            break
        flat = x.flatten(1)
        if previous is not None:
            differences = [*differences, (flat - previous[0], residual - previous[1])][-ANDERSON_MEMORY:]
        previous = flat, residual
        x = image
        if differences:
            dx, df = (torch.stack(d, dim=2) for d in zip(*differences))  # (B,n,m)
            # The normal equations are tiny and nearly singular close to the solution, which the CPU driver handles.
            normal_equations = (part.double().cpu() for part in (df.mT @ df, df.mT @ residual[..., None]))
            weights = torch.linalg.lstsq(*normal_equations).solution.to(image)
            x = image - ((dx + df) @ weights).view_as(image)
    return best, smallest


def _inverse_step(denoiser: Denoiser, schedule: DDIMSchedule, i: int, x_previous: Tensor) -> Callable[[Tensor], Tensor]:
    """The right-hand side of step i's implicit equation, as a function of x_i."""
    t = timestep_batch(schedule, i, x_previous)
    return lambda x: step(x_previous, denoiser(x, t), schedule.alphas_prev[i], schedule.alphas[i])
