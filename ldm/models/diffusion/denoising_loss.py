"""The loss of a denoiser, with which it is trained and compared."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ldm.checkpoints.saving import SavesTrainableParameters
from ldm.graph.batch import Batch
from ldm.models.diffusion.schedule import NoiseSchedule
from ldm.modules.conditioning import Conditioning


class DenoisingLoss(SavesTrainableParameters):
    """Computes the loss of a subclass.

    Attributes:
        schedule: noise schedule.
    """

    schedule: NoiseSchedule

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

    def losses(self, batch: Batch, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Returns the mean squared error of the prediction per image (B,), and the timesteps (B,) (DDPM eq. 14).

        Args:
            batch: images or cached latents, with graphs and references.
            generator: source of timesteps, noise and dropped conditions; torch's global one by default.
        """
        batch = Batch.of(batch)
        z0 = self.batch_latents(batch)
        random = {"generator": generator, "device": z0.device}
        t = torch.randint(0, len(self.schedule), (len(z0),), **random)
        noise = torch.randn(z0.shape, dtype=z0.dtype, **random)
        cond = self.training_conditioning(batch, len(z0), random)
        output = self.prediction(self.schedule.add_noise(z0, noise, t), t, cond)
        target = self.schedule.target(z0, noise, t)
        return (output.float() - target.float()).square().mean((1, 2, 3)), t
