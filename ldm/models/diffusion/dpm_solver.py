"""DPM-Solver++ (2M): DDIM's ODE solved to second order with one denoiser call per step (Lu et al. 2211.01095).

In lambda = log(sqrt(a) / sqrt(1 - a)), half the log-SNR, the linear part of the ODE has a closed form. What remains is
an integral over the predicted x_0 (Prop. 4.1). DDIM takes that prediction as constant during a step; 2M extrapolates it
linearly from the previous step. The same step function samples and inverts.

The gain over DDIM requires timesteps that are evenly spaced in lambda (`make_schedule`). DDIM's own
timesteps are evenly spaced in t, which makes the last sampling steps many times longer in lambda than the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ldm.models.diffusion import ddim
from ldm.models.diffusion.ddim import Denoiser, timestep_batch
from ldm.models.diffusion.schedule import NO_SIGNAL, DDIMSchedule, NoiseSchedule
from ldm.util.errors import UserError

PURE_NOISE = 2.0**-24  # alpha-bar whose log-SNR stands for that of pure noise; diffusers' choice


def step(x: Tensor, x0: Tensor, a_from: Tensor, a_to: Tensor, previous: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Moves x from alpha-bar `a_from` to alpha-bar `a_to`, in either direction (Alg. 2).

    Args:
        x: latents at `a_from`, (B,C,H,W).
        x0: prediction of x_0 at `a_from`, (B,C,H,W).
        a_from: alpha-bar of x.
        a_to: alpha-bar of the result.
        previous: prediction of x_0 in the previous step and the alpha-bar it was made at; None for a first-order step.
    """
    h = half_log_snr(a_to) - half_log_snr(a_from)
    if previous is not None:
        x0_previous, a_previous = previous
        r = (half_log_snr(a_from) - half_log_snr(a_previous)) / h
        x0 = (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * x0_previous
    return (((1 - a_to) / (1 - a_from)).sqrt() * x - a_to.sqrt() * torch.expm1(-h) * x0).to(x.dtype)


def predict_x0(x: Tensor, eps: Tensor, a: Tensor) -> Tensor:
    """Returns the x_0 that the predicted noise `eps` implies for x at alpha-bar `a`."""
    return (x - (1 - a).sqrt() * eps) / a.sqrt()


def sample(
    denoiser: Denoiser,
    schedule: DDIMSchedule,
    x: Tensor,
    eta: float = 0.0,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    progress: Callable = reversed,
) -> Tensor:
    """Samples x_0 from x_T, both (B,C,H,W). The last step is of first order, which is more stable with few steps.

    Args:
        denoiser: predicts the noise.
        schedule: the timesteps to visit.
        x: x_T.
        eta: must be 0; this sampler solves the ODE and adds no noise.
        generator: unused.
        progress: turns range(S) into the step indices from last to first; wrap it to show a progress bar.

    Raises:
        UserError: eta is not 0.
    """
    stepper = Stepper(schedule, eta)
    for i in progress(range(len(schedule))):
        x = stepper(i, x, denoiser(x, timestep_batch(schedule, i, x)))
    return x


class Stepper:
    """Sampling steps one by one: (i, x, predicted noise) at the i-th timestep -> x at the previous one.

    It remembers the previous prediction of x_0, so that steps must be called in order. Raises UserError if eta is not 0.
    """

    def __init__(self, schedule: DDIMSchedule, eta: float = 0.0):
        if eta:
            raise UserError(f"eta {eta}: DPM-Solver++ adds no noise; use the sampler ddim, or leave eta at 0")
        self.levels = schedule.levels()
        self.previous: tuple[Tensor, Tensor] | None = None

    def __call__(self, i: int, x: Tensor, eps: Tensor) -> Tensor:
        a_from, a_to = self.levels[i + 1], self.levels[i]
        x0 = predict_x0(x, eps, a_from)
        following = step(x, x0, a_from, a_to, self.previous if i > 0 else None)
        self.previous = x0, a_from
        return following


def invert(denoiser: Denoiser, schedule: DDIMSchedule, x0: Tensor, progress: Callable = iter) -> Tensor:
    """Inverts x_0 (B,C,H,W) to its path (S+1,B,C,H,W), as defined in `ldm.models.diffusion.inversion_paths`.

    The denoiser is called once per step, at the timestep of the level that the step starts from (0 for x_0).
    `ddim.invert` calls it at the next timestep instead. That suits the predicted noise, which hardly changes
    during a step, but the predicted x_0 would be wrong by the difference of the noise levels.
    """
    a, previous, path = schedule.levels(), None, [x0]
    for i in progress(range(len(schedule))):
        x = path[-1]
        t = timestep_batch(schedule, i - 1, x) if i > 0 else torch.zeros(len(x), dtype=torch.long, device=x.device)
        eps = denoiser(x, t)
        prediction = predict_x0(x, eps, a[i])
        # x_0 itself has an infinite log-SNR; a first-order step from there is DDIM's
        is_clean = bool(a[i] == 1)
        path.append(ddim.step(x, eps, a[i], a[i + 1]) if is_clean else step(x, prediction, a[i], a[i + 1], previous))
        previous = (prediction, a[i])
    return torch.stack(path)


def make_schedule(schedule: NoiseSchedule, steps: int) -> DDIMSchedule:
    """Returns exactly `steps` timesteps from T - 1 down to at least 1, as evenly spaced in lambda as integers allow.

    With many steps the last ones would share timesteps; they then take consecutive timesteps. A schedule with a spacing
    (`NoiseSchedule.spacing_for`) visits that instead.

    Raises:
        UserError: the number of steps is not between 1 and T - 1.
    """
    if (spacing := schedule.spacing_for("dpm++")) is not None:
        return schedule.visit(spacing, steps, with_end=True)
    total = len(schedule)
    if not 1 <= steps < total:
        raise UserError(f"{steps} steps of a schedule over {total}: choose between 1 and {total - 1}")
    available = half_log_snr(schedule.alphas_cumprod)
    targets = torch.linspace(float(available[0]), float(available[-1]), steps + 1, dtype=available.dtype)[1:]
    ranks = torch.arange(steps)
    closest = (available[:, None] - targets).abs().argmin(0)
    # Subtracting the ranks before clamping keeps timesteps at least 1 apart and inside the range.
    timesteps = (closest - ranks).clamp(1, total - steps) + ranks
    alphas = schedule.alphas_cumprod[timesteps]
    return DDIMSchedule(timesteps, alphas, torch.cat([schedule.alphas_cumprod[:1], alphas[:-1]]))


def half_log_snr(a: Tensor) -> Tensor:
    """Returns lambda = log(a / (1 - a)) / 2 for alpha-bar `a`; of pure noise that of PURE_NOISE, as it would be infinite."""
    a = torch.where(a == NO_SIGNAL, PURE_NOISE, a)
    return (a / (1 - a)).log() / 2
