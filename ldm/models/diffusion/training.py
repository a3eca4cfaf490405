"""Training of a denoiser with Lightning: the loss, its logs by noise level, the average of the weights, the optimizer."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from ldm.checkpoints.saving import SavesTrainableParameters
from ldm.graph.batch import Batch
from ldm.models.diffusion.schedule import NoiseSchedule
from ldm.models.lr_schedules import per_step, warmup_times_cosine
from ldm.modules.conditioning import Conditioning
from ldm.modules.ema import EMA


class DiffusionTraining(SavesTrainableParameters, pl.LightningModule):
    """Trains the parameters of a subclass that require a gradient.

    Attributes:
        schedule: noise schedule.
        scale_factor: () factor of the latents.
        scale_by_std: whether the first batch of a run settles it.
        model_ema: exponential moving average of the trainable parameters, or None.
        warmup_steps: steps of linear warm-up of the learning rate.
        cosine: whether the learning rate then decays as half a cosine.
        weight_decay: of AdamW.
    """

    schedule: NoiseSchedule
    scale_factor: Tensor
    scale_by_std: bool
    model_ema: EMA | None
    warmup_steps: int
    cosine: bool
    weight_decay: float
    learning_rate: float

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
        random = {"generator": generator, "device": self.device}
        t, noise = self.draw(z0, random)
        cond = self.training_conditioning(batch, len(z0), random)
        output = self.prediction(self.schedule.add_noise(z0, noise, t), t, cond)
        target = self.schedule.target(z0, noise, t)
        return (output.float() - target.float()).square().mean((1, 2, 3)), t

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        losses, t = self.losses(batch)
        self._log_losses("train/loss_simple", losses, t)
        return losses.mean()

    @torch.no_grad()
    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        # The same noise in each validation, so that epochs, and weights and their average, can be compared.
        seed = batch_idx * self.trainer.world_size + self.global_rank
        self._log_losses("val/loss_simple", *self.losses(batch, torch.Generator(self.device).manual_seed(seed)))
        if self.model_ema is not None:
            with self.model_ema.applied(self):
                losses, t = self.losses(batch, torch.Generator(self.device).manual_seed(seed))
                self._log_losses("val/loss_simple_ema", losses, t)

    def _log_losses(self, name: str, losses: Tensor, t: Tensor) -> None:
        """Logs the mean, and the mean of each quarter of the timesteps, of which q1 has the least noise."""
        training = name.startswith("train")
        self.log(name, losses.mean(), prog_bar=True, batch_size=len(losses), sync_dist=not training)
        interval = self.trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue] - set by a connector
        if training and (self.trainer.global_step + 1) % interval:
            return  # nothing is logged in this step, and reading values would synchronise the GPU
        quarter = t * 4 // len(self.schedule)
        for q in quarter.unique().tolist():
            chosen = losses[quarter == q]
            self.log(f"{name}_q{q + 1}", chosen.mean(), batch_size=len(chosen), rank_zero_only=True)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        if self.scale_by_std and self.global_step == batch_idx == 0:
            self.scale_factor.fill_(1.0)
            std = self.trainer.strategy.reduce(self.batch_latents(Batch.of(batch)).std(), reduce_op="mean")
            self.scale_factor.fill_(1 / std)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.model_ema is not None:
            self.model_ema.update(self)

    def configure_optimizers(self) -> dict:
        trainable = [p for p in self.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trainable, lr=self.learning_rate, weight_decay=self.weight_decay, fused=True)
        # Lightning does not clip gradients if a fused optimizer unscales them by itself.
        optimizer._step_supports_amp_scaling = False
        total = self.trainer.estimated_stepping_batches
        return per_step(optimizer, warmup_times_cosine(self.warmup_steps, total, self.cosine))

    def saved_state(self) -> dict[str, Tensor]:
        """The trainable parameters, their averages and the scale factor."""
        ema = {} if self.model_ema is None else self.model_ema.state_dict(prefix="model_ema.")
        return {**super().saved_state(), **ema, "scale_factor": self.scale_factor}
