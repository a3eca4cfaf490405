"""A model, data and config for runs of trainer.py that take a moment, and a process that runs it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytorch_lightning as pl
import torch
from paths import ROOT
from torch import nn
from torch.utils.data import Dataset

PYTHONPATH = os.pathsep.join([str(ROOT / "tests"), str(Path(__file__).parent)])


class Points(Dataset):
    """The points (i / 8, 1)."""

    def __init__(self, length: int = 8):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return torch.tensor([index / 8, 1.0])


class Toy(pl.LightningModule):
    """A frozen layer and a trained one; checkpoints hold the trained one and the config."""

    strict_loading = False

    def __init__(self, width: int = 3, wait: float = 0.0, scale: float = 1.0, monitor: str | None = "val/loss"):
        super().__init__()
        self.body, self.adapter = nn.Linear(2, width).requires_grad_(False), nn.Linear(width, 1)
        self.body.weights_from = "published.ckpt"
        self.wait, self.scale, self.monitor = wait, scale, monitor

    def loss(self, batch):
        return (self.adapter(self.body(batch)) - self.scale * torch.randn(len(batch), 1)).square().mean()

    def training_step(self, batch, batch_idx):
        time.sleep(self.wait)
        loss = self.loss(batch)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.loss(batch), sync_dist=True)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.adapter.parameters(), self.learning_rate)

    def log_images(self, batch, n):
        return {"inputs": torch.zeros(n, 3, 8, 8)}

    def on_save_checkpoint(self, checkpoint):
        checkpoint["state_dict"] = {f"adapter.{key}": value for key, value in self.adapter.state_dict().items()}
        checkpoint["config"] = self.config


class FailAt(pl.Callback):
    """Ends process `rank` after step `step`, with exit code `code` or by raising `error`."""

    def __init__(self, step: int, rank: int = 0, code: int | None = None, error: str = ""):
        self.step, self.rank, self.code, self.error = step, rank, code, error

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step and trainer.global_rank == self.rank:
            if self.code is not None:
                os._exit(self.code)
            raise RuntimeError(self.error)


CONFIG = {
    "model": {"base_learning_rate": 0.01, "target": "toy_run.Toy", "params": {"width": 3}},
    "data": {
        "target": "scripts.datamodule.DataModuleFromConfig",
        "params": {
            "batch_size": 2,
            "num_workers": 0,
            "train": {"target": "toy_run.Points"},
            "validation": {"target": "toy_run.Points"},
        },
    },
    "lightning": {
        "callbacks": {"image_logger": {"target": "trainer.ImageLogger", "params": {"batch_frequency": 4}}},
        "trainer": {"benchmark": True, "progress_bar_refresh_rate": 0, "num_sanity_val_steps": 0},
    },
}


def start(*flags, environment=None, **kwargs) -> subprocess.Popen:
    """Starts trainer.py in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "trainer.py", *map(str, flags)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": PYTHONPATH, "OMP_NUM_THREADS": "1", **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **kwargs,
    )


def read_checkpoint(folder: Path, name: str = "last.ckpt") -> dict:
    """A checkpoint in a log folder."""
    return torch.load(folder / "checkpoints" / name, weights_only=True)
