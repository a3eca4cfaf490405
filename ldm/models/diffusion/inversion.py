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

    A step is solved when its two sides differ by less than `tolerance` of x_i. Warns of steps that `iterations` calls
    leave a hundred times as far apart: the round trip has their error.
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


def _up(denoiser: Denoiser, schedule: DDIMSchedule, i: int, below: Tensor) -> Callable[[Tensor], Tensor]:
    """The right side of step i's equation, as a function of x_i."""
    t = torch.full((len(below),), int(schedule.timesteps[i]), device=below.device)
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


METHODS = {"ddim": ddim, "fixed-point": fixed_point}
