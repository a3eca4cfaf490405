"""The loss of a denoiser, with which it is trained and compared, and what its checkpoints hold."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ldm.checkpoints.saving import SavesTrainableParameters
from ldm.graph.batch import Batch
from ldm.models.diffusion.schedule import NoiseSchedule
from ldm.modules.conditioning import Conditioning
from ldm.modules.ema import EMA


class DenoisingLoss(SavesTrainableParameters):
    """Computes the loss of a subclass.

    Attributes:
        schedule: noise schedule.
        scale_factor: () factor of the latents.
        model_ema: exponential moving average of the trainable parameters, or None.
        v_loss: whether the loss is that of v, whatever the U-Net predicts.
    """

    schedule: NoiseSchedule
    scale_factor: Tensor
    model_ema: EMA | None
    v_loss: bool = False

    def saved_state(self) -> dict[str, Tensor]:
        """The trainable parameters, their averages and the scale factor."""
        ema = {} if self.model_ema is None else self.model_ema.state_dict(prefix="model_ema.")
        return {**super().saved_state(), **ema, "scale_factor": self.scale_factor}

    def batch_latents(self, batch: Batch) -> Tensor:
        """Returns the scaled latents of a batch."""
        raise NotImplementedError

    def training_conditioning(self, batch: Batch, rows: int, random: dict[str, Any]) -> Conditioning:
        """Encodes what a batch is conditioned on.

        Args:
            batch: images or cached latents, with graphs and references.
            rows: their number B.
            random: generator and device of random numbers.
        """
        raise NotImplementedError

    def prediction(self, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        """Returns the U-Net's output for noisy latents x (B,C,h,w) at timesteps t (B,)."""
        raise NotImplementedError

    def draw(self, z0: Tensor, random: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Returns timesteps (B,) and noise (B,C,h,w) for latents z0 (B,C,h,w)."""
        t = torch.randint(0, len(self.schedule), (len(z0),), **random)
        return t, torch.randn(z0.shape, dtype=z0.dtype, **random)

    def losses(self, batch: Batch, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Returns the mean squared error of the prediction per image (B,), and the timesteps (B,) (DDPM eq. 14).

        Args:
            batch: images or cached latents, with graphs and references.
            generator: source of timesteps, noise and dropped conditions; torch's global one by default.
        """
        batch = Batch.of(batch)
        z0 = self.batch_latents(batch)
        random = {"generator": generator, "device": z0.device}
        t, noise = self.draw(z0, random)
        cond = self.training_conditioning(batch, len(z0), random)
        output = self.prediction(self.schedule.add_noise(z0, noise, t), t, cond)
        target = self.schedule.target(z0, noise, t)
        errors = (output.float() - target.float()).square()
        return mean_errors(errors, self.pixel_weights(batch, errors)) * self.timestep_weights(t), t

    def timestep_weights(self, t: Tensor) -> Tensor | float:  # (B,) -> (B,)
        """Returns the weights of the losses at timesteps t."""
        return self.schedule.v_weight(t) if self.v_loss else 1.0

    def pixel_weights(self, batch: Batch, errors: Tensor) -> Tensor | None:  # (B,C,h,w) -> (B,1,h,w)
        """Returns the weights of the latent pixels; None if all count alike."""
        return None


def mean_errors(errors: Tensor, weights: Tensor | None) -> Tensor:  # (B,C,h,w), (B,1,H,W) -> (B,)
    """The mean of each image's errors, weighted by a mask of its pixels, which may be finer, if there is one."""
    if weights is None:
        return errors.mean((1, 2, 3))
    mask = adaptive_avg_pool2d(weights.to(errors), errors.shape[-2:])
    return (errors * mask).sum((1, 2, 3)) / (mask.sum((1, 2, 3)) * errors.shape[1]).clamp(min=1e-8)
