"""DPM-Solver++ (2M): DDIM's equation solved to second order, at DDIM's price of one call a step (Lu et al. 2211.01095).

In lambda = log(sqrt(a) / sqrt(1 - a)), half the log-SNR, the equation's linear part has a closed form, and what is left is
an integral of the predicted x_0 (Prop. 4.1). Where that is taken for constant over a step, this is DDIM; here it goes on
as it came from the level before. The same steps lead down, from noise to a picture, and up.

The order shows where steps are even in lambda (`uniform_log_snr_schedule`). DDIM's own timesteps are even in t, which makes the last steps of
sampling many times as long in lambda as the others, and there the second order gains little over the first.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ldm.models.diffusion.ddim import Denoiser, timestep_batch
from ldm.models.diffusion.inversion_paths import alpha_levels
from ldm.models.diffusion.schedule import DDIMSchedule, NoiseSchedule
from ldm.util.errors import UserError


def step(x: Tensor, x0: Tensor, a_from: Tensor, a_to: Tensor, before: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """x (B,C,H,W) at alpha-bar `a_from`, where x_0 is predicted as `x0`, -> x at alpha-bar `a_to`, in either direction.

    before: the x_0 predicted at the level that x was reached from, and that level's alpha-bar; without it the step is of
    first order.
    """
    h = half_log_snr(a_to) - half_log_snr(a_from)
    if before is not None:
        x0_before, a_before = before
        r = (half_log_snr(a_from) - half_log_snr(a_before)) / h
        x0 = (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * x0_before
    return ((1 - a_to) / (1 - a_from)).sqrt() * x - a_to.sqrt() * torch.expm1(-h) * x0  # Alg. 2


def predict_x0(x: Tensor, eps: Tensor, a: Tensor) -> Tensor:
    """The x_0 that the noise in x at alpha-bar `a` leaves."""
    return (x - (1 - a).sqrt() * eps) / a.sqrt()


def sample(denoiser: Denoiser, schedule: DDIMSchedule, x: Tensor, progress: Callable = reversed) -> Tensor:
    """x_T (B,C,H,W) -> x_0.

    The first step has no level before it. The last one looks back on none either, which few steps are steadier for.
    `progress` turns range(S) into the steps from the last to the first: wrap it to show a bar.
    """
    a, before = alpha_levels(schedule), None
    for i in progress(range(len(schedule))):
        x0 = predict_x0(x, denoiser(x, timestep_batch(schedule, i, x)), a[i + 1])
        x = step(x, x0, a[i + 1], a[i], before if i > 0 else None)
        before = (x0, a[i + 1])
    return x


def invert(
    denoiser: Denoiser, schedule: DDIMSchedule, x0: Tensor, progress: Callable = iter
) -> Tensor:  # -> (S+1,B,C,H,W)
    """x_0 -> its path, as those of `ldm.models.diffusion.inversion_paths`; one call a step.

    Each level is asked at its own timestep, and x_0 itself at 0. `inversion_paths.ddim` asks at the next one, which suits eps, as
    that hardly changes over a step; for the predicted x_0 it would be wrong by the difference of the levels.
    """
    a, before, path = alpha_levels(schedule), None, [x0]
    for i in progress(range(len(schedule))):
        x = path[-1]
        t = timestep_batch(schedule, i - 1, x) if i > 0 else torch.zeros(len(x), dtype=torch.long, device=x.device)
        clean = predict_x0(x, denoiser(x, t), a[i])
        path.append(step(x, clean, a[i], a[i + 1], before))
        before = (clean, a[i])
    return torch.stack(path)


def uniform_log_snr_schedule(schedule: NoiseSchedule, steps: int) -> DDIMSchedule:
    """Exactly `steps` timesteps, from 1 at the least to T - 1, whose levels are evenly spaced in lambda down to timestep 0's,
    as far as whole timesteps are: many steps lie denser than those at the end of sampling, which are then taken one by one.

    Raises UserError for a number of steps outside 1 .. T - 1.
    """
    total = len(schedule)
    if not 1 <= steps < total:
        raise UserError(f"{steps} steps of a schedule over {total}: choose between 1 and {total - 1}")
    found = half_log_snr(schedule.alphas_cumprod)
    wanted = torch.linspace(float(found[0]), float(found[-1]), steps + 1, dtype=found.dtype)[1:]
    places = torch.arange(steps)
    closest = (found[:, None] - wanted).abs().argmin(0)
    # Apart by one at least, without what that would push over either end: only near the ends can they lie denser.
    timesteps = (closest - places).clamp(1, total - steps) + places
    alphas = schedule.alphas_cumprod[timesteps]
    return DDIMSchedule(timesteps, alphas, torch.cat([schedule.alphas_cumprod[:1], alphas[:-1]]))


def half_log_snr(a: Tensor) -> Tensor:
    """lambda: half the logarithm of the signal's share of the variance, `a`, over the noise's."""
    return (a / (1 - a)).log() / 2
