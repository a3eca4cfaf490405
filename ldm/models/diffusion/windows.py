"""Denoisers of clips that are longer than a model's, by overlapping windows of frames, and of clips whose first frame is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ldm.models.diffusion.ddim import Denoiser
from ldm.models.diffusion.schedule import DDIMSchedule
from ldm.modules.conditioning import Conditioning


def windowed(make: Callable[[Conditioning, int], Denoiser], cond: Conditioning, windows: Sequence[range]) -> Denoiser:
    """Returns eps(x, t) of a clip.

    Args:
        make: the denoiser of a window, from its conditioning and its number of frames.
        cond: of all frames.
        windows: of equal length, which together cover the clip.
    """
    parts = [make(cond.rows(slice(window.start, window.stop)), len(window)) for window in windows]
    return parts[0] if len(parts) == 1 else over_windows(parts, windows)


def over_windows(parts: Sequence[Denoiser], windows: Sequence[range]) -> Denoiser:
    """Returns eps(x, t) of a long clip: the average over windows (MultiDiffusion, Bar-Tal et al. 2302.08113, eq. 5).

    A window's weight rises linearly from its ends to its middle, so that predictions change smoothly along the clip.

    Args:
        parts: the denoiser of each window.
        windows: its frames; together they cover the clip.
    """

    def predict(x: Tensor, t: Tensor) -> Tensor:
        total, weights = torch.zeros_like(x), x.new_zeros(len(x), 1, 1, 1)
        for part, window in zip(parts, windows):
            frames = slice(window.start, window.stop)
            rise = torch.arange(1, len(window) + 1, device=x.device)
            weight = torch.minimum(rise, rise.flip(0)).view(-1, 1, 1, 1).to(x.dtype)
            total[frames] += weight * part(x[frames], t[frames])
            weights[frames] += weight
        return total / weights

    return predict


def beginning_with(denoiser: Denoiser, first: Tensor, noise: Tensor, schedule: DDIMSchedule) -> Denoiser:
    """Returns eps(x, t) of a clip whose frame 0 is known: it is set to what it is at each noise level.

    Args:
        first: (1,C,h,w), latents of frame 0.
        noise: (1,C,h,w), the noise that frame 0 begins with.
    """
    levels = {int(t): float(a) for t, a in zip(schedule.timesteps, schedule.alphas)}

    def predict(x: Tensor, t: Tensor) -> Tensor:
        a = levels[int(t[0])]
        known = a**0.5 * first.to(x) + (1 - a) ** 0.5 * noise.to(x)
        eps = denoiser(torch.cat([known, x[1:]]), t)
        return torch.cat([noise.to(eps), eps[1:]])

    return predict
