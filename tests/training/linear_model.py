"""A linear model with a frozen part, and a function that fits it with Lightning."""

import numpy as np
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader


class LinearModel(pl.LightningModule):
    """y = w x behind a frozen part. `disturb(model, step)` is called before every loss; a number multiplies the loss."""

    def __init__(self, disturb=lambda model, step: None):
        super().__init__()
        self.frozen = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).eval().requires_grad_(False)
        self.trained = nn.Linear(2, 1)
        self.disturb, self.draws, self.validation_draws = disturb, [], []

    def training_step(self, batch, batch_idx):
        self.draws.append((torch.rand(()).item(), np.random.rand()))
        factor = self.disturb(self, self.global_step)
        return self.trained(self.frozen(batch)).square().mean() * (1.0 if factor is None else factor)

    def validation_step(self, batch, batch_idx):
        self.validation_draws.append(torch.rand(()).item())

    def configure_optimizers(self):
        return torch.optim.SGD(self.trained.parameters(), 1e-2)


def make_data(length: int = 8) -> torch.Tensor:
    return torch.randn(length, 2, generator=torch.Generator().manual_seed(0))


def fit(model, tmp_path, *callbacks, ckpt_path=None, data=None, **settings):
    """Trains two epochs of four batches, and returns the Trainer."""
    data = data or DataLoader(make_data(), batch_size=2)
    settings = {"max_epochs": 2, "logger": False, "num_sanity_val_steps": 0, **settings}
    settings["enable_checkpointing"] = any(isinstance(callback, pl.callbacks.Checkpoint) for callback in callbacks)
    trainer = pl.Trainer(
        accelerator="cpu",
        default_root_dir=tmp_path,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )
    trainer.fit(model, data, data, ckpt_path=ckpt_path, weights_only=True)
    return trainer
