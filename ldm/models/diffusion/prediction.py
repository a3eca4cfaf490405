"""What a U-Net predicts: a denoiser hides it, and one step of a U-Net tells it where nothing else does."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ldm.models.diffusion.schedule import NoiseSchedule

# Correlation of a U-Net's output with an input that is nearly pure noise. A model of the noise returns almost its input (1); one
# of v returns minus the image that it imagines, which is no part of the input (0).
IS_NOISE, IS_V = 0.9, 0.6


def predict_noise(predict: Callable[..., Tensor], schedule: NoiseSchedule) -> Callable[..., Tensor]:
    """Returns eps(x, t, ...) for a U-Net of `schedule.prediction`, whose outputs `predict` combines by guidance.

    Guidance weighs its branches with weights of sum 1, so that it is the same for v as for the noise.
    """
    if schedule.prediction == "eps":
        return predict

    def eps(x: Tensor, t: Tensor, *args, **kwargs) -> Tensor:
        return schedule.to_noise(predict(x, t, *args, **kwargs), x, t)

    return eps


def with_inputs(predict: Callable[..., Tensor], inputs: Tensor) -> Callable[..., Tensor]:
    """Returns `predict` for a U-Net that reads more than the latents.

    Args:
        predict: takes (B,C+K,h,w).
        inputs: (1,K,h,w) or (B,K,h,w), the same in all steps.

    Returns:
        A function of latents x (B,C,h,w), in which the rows of `inputs` repeat if there are more rows of x.
    """

    def extended(x: Tensor, t: Tensor, *args, **kwargs) -> Tensor:
        rows = inputs.to(x).repeat(len(x) // len(inputs), 1, 1, 1)
        return predict(torch.cat([x, rows], dim=1), t, *args, **kwargs)

    return extended


@torch.no_grad()
def probe_prediction(unet: nn.Module, timesteps: int, channels: int, size: int = 16) -> tuple[str | None, float]:
    """Finds out by one evaluation at the last timestep what a U-Net predicts.

    Args:
        unet: called without a conditioning.
        timesteps: T.
        channels: of the latents.
        size: height and width of the latents.

    Returns:
        'eps', 'v', or None where the output is between both; and the correlation of output and input.
    """
    parameter = next(unet.parameters())
    x = torch.randn(1, channels, size, size, generator=torch.Generator().manual_seed(0)).to(parameter.device)
    output = unet(x, torch.tensor([timesteps - 1], device=x.device)).float()
    correlation = float(torch.corrcoef(torch.stack([output.flatten(), x.flatten()]))[0, 1])
    return ("eps" if correlation > IS_NOISE else "v" if correlation < IS_V else None), correlation
