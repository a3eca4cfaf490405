"""Training of a denoiser with Lightning: logs of the loss by noise level, the average of the weights, the optimizer."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from ldm.graph.batch import Batch
from ldm.models.diffusion.denoising_loss import DenoisingLoss
from ldm.models.lr_schedules import per_step, unscaled_by_lightning, warmup_times_cosine


class DiffusionTraining(DenoisingLoss, pl.LightningModule):
    """Trains the parameters of a subclass that require a gradient.

    Attributes:
        scale_by_std: whether the first batch of a run settles it.
        warmup_steps: steps of linear warm-up of the learning rate.
        cosine: whether the learning rate then decays as half a cosine.
        weight_decay: of AdamW.
    """

    shown_in_training = ("train/loss_simple",)
    scale_by_std: bool
    warmup_steps: int
    cosine: bool
    weight_decay: float
    learning_rate: float

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
        self.log(name, losses.mean(), prog_bar=not training, batch_size=len(losses), sync_dist=not training)
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
        total = self.trainer.estimated_stepping_batches
        return per_step(unscaled_by_lightning(optimizer), warmup_times_cosine(self.warmup_steps, total, self.cosine))
