"""From a clean latent up to noise: the trajectories that an edit walks back along.

A path is (S+1,B,C,H,W): path[0] is x0, and path[i + 1] lies where the schedule's i-th timestep is. x0 itself is taken
for what sampling ends at, alphas_prev[0]. Those of an ODE take (denoiser, schedule, x0, progress); what plain sampling
from path[-1] with the same denoiser leads back to is x0, as exactly as the path solves

    x_i = step(x_{i-1}, eps(x_i, t_i), a_{i-1} -> a_i)

for x_i, which stands on both sides. `progress` wraps the steps, e.g. in a bar.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from ldm.models.diffusion.ddim import Denoiser, step, timestep_batch
from ldm.models.diffusion.schedule import DDIMSchedule

WINDOW = 4  # earlier iterates that an acceleration looks back on


def ddim(denoiser: Denoiser, schedule: DDIMSchedule, x0: Tensor, progress: Callable = iter) -> Tensor:
    """Plain DDIM inversion: eps at x_{i-1} stands in for eps at x_i (Mokady et al. 2211.09794, eq. 3). One call a step."""
    path = [x0]
    for i in progress(range(len(schedule))):
        path.append(_up(denoiser, schedule, i, path[-1])(path[-1]))
    return torch.stack(path)


def fixed_point(
    denoiser: Denoiser,
    schedule: DDIMSchedule,
    x0: Tensor,
    progress: Callable = iter,
    iterations: int = 20,
    tolerance: float = 1e-6,
) -> Tensor:
    """Solve each step for x_i by fixed-point iteration (Pan et al. 2309.04907), with Anderson's acceleration.

    A step is solved when its two sides differ by less than `tolerance` of x_i, in at most `iterations` calls. Warns of
    steps that are then left a hundred times as far apart: the round trip has their error.
    """
    path, unsolved = [x0], []
    for i in progress(range(len(schedule))):
        x, error = _solve(_up(denoiser, schedule, i, path[-1]), path[-1], iterations, tolerance)
        path.append(x)
        if error > 100 * tolerance:
            unsolved.append(error)
    if unsolved:
        warnings.warn(
            f"fixed-point inversion: {len(unsolved)} of {len(schedule)} steps are solved only to {max(unsolved):.0e} after "
            f"{iterations} iterations, so the round trip is inexact; more --steps make each of them easier",
            stacklevel=2,
        )
    return torch.stack(path)


def bdia(denoiser: Denoiser, schedule: DDIMSchedule, x0: Tensor, progress: Callable = iter) -> Tensor:
    """The path that `bdia_step` undoes level by level, with the very values of eps that it was made of (Zhang et al. 2307.10829,
    gamma 1). One call a step.

    The first level has none before its neighbour, and comes from plain DDIM inversion.
    """
    a = alpha_levels(schedule)
    path = [x0]
    for i in progress(range(len(schedule))):
        x = path[-1]
        eps = denoiser(x, timestep_batch(schedule, max(i - 1, 0), x))
        path.append(step(x, eps, a[0], a[1]) if i == 0 else bdia_step(path[-2], x, eps, a[i - 1], a[i], a[i + 1]))
    return torch.stack(path)


def bdia_step(x_last: Tensor, x: Tensor, eps: Tensor, a_last: Tensor, a: Tensor, a_next: Tensor) -> Tensor:
    """On from `x`, with eps there, past the neighbour that it was reached from: what DDIM's step from x to that
    neighbour misses it by, the step onwards makes good. Up and down are each other's inverse."""
    return x_last - step(x, eps, a, a_last) + step(x, eps, a, a_next)


def noised_path(x0: Tensor, schedule: DDIMSchedule, noise: Tensor) -> Tensor:
    """Each level as the forward process reaches it from x0 (DDPM eq. 4): by noise of its own, (S,B,C,H,W), or all of
    them by the same, (1,B,C,H,W). No call."""
    share = (schedule.alphas / schedule.alphas_prev[0]).view(-1, 1, 1, 1, 1)  # of the signal that x0 has
    return torch.cat([x0[None], share.sqrt().to(x0) * x0 + (1 - share).sqrt().to(x0) * noise.to(x0)])


def alpha_levels(schedule: DDIMSchedule) -> Tensor:  # -> (S+1,)
    """alpha-bar at each level of a path."""
    return torch.cat([schedule.alphas_prev[:1], schedule.alphas])


def _up(denoiser: Denoiser, schedule: DDIMSchedule, i: int, below: Tensor) -> Callable[[Tensor], Tensor]:
    """The right side of step i's equation, as a function of x_i."""
    t = timestep_batch(schedule, i, below)
    return lambda x: step(below, denoiser(x, t), schedule.alphas_prev[i], schedule.alphas[i])


def _solve(g: Callable[[Tensor], Tensor], x: Tensor, iterations: int, tolerance: float) -> tuple[Tensor, float]:
    """x = g(x) for each row of the batch, and how far apart the sides are, relative to x.

    Anderson's acceleration: among the last iterates' combinations, go on from the one whose sides, were g linear,
    would be nearest (Walker & Ni 2011, eq. 4.1).
    """
    differences: list[tuple[Tensor, Tensor]] = []  # of successive iterates and of their residuals, (B,n) each
    best, least = x, float("inf")
    previous = None
    for _ in range(iterations):
        image = g(x)
        residual = (image - x).flatten(1)
        error = float(residual.norm() / image.norm())
        if error < least:
            best, least = image, error
        if error <= tolerance:
            break
        flat = x.flatten(1)
        if previous is not None:
            differences = [*differences, (flat - previous[0], residual - previous[1])][-WINDOW:]
        previous = flat, residual
        x = image
        if differences:
            dx, df = (torch.stack(d, dim=2) for d in zip(*differences))  # (B,n,m)
            # A few numbers a row, and nearly dependent when solved: the CPU's driver copes with that.
            normal = (part.double().cpu() for part in (df.mT @ df, df.mT @ residual[..., None]))
            x = image - ((dx + df) @ torch.linalg.lstsq(*normal).solution.to(image)).view_as(image)
    return best, least
