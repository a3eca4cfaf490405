"""The loss of a denoiser, with which it is trained and compared, and what its checkpoints hold."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

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
        losses = self.image_losses((output.float() - target.float()).square(), batch)
        return losses * self.schedule.v_weight(t) if self.v_loss else losses, t

    def image_losses(self, errors: Tensor, batch: Batch) -> Tensor:  # (B,C,h,w) -> (B,)
        """Returns the loss of each image from its squared errors; subclasses may weight them by place."""
        return errors.mean((1, 2, 3))
