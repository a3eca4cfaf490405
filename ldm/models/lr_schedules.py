"""Optimizers' settings and learning-rate schedules: a linear warm-up and a cosine decay, as factors of the rate."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmup_times_cosine(warmup_steps: int, total_steps: float, cosine: bool = True) -> Callable[[int], float]:
    """Factor of each step: a linear warm-up, multiplied by a cosine decay from 1 to 0 over the whole run.

    Args:
        warmup_steps: number of steps with a reduced learning rate.
        total_steps: number of steps of the run, which may be infinite.
        cosine: whether the learning rate decays.
    """

    def factor(step: int) -> float:
        warmup = min(1.0, (step + 1) / (warmup_steps + 1))
        return warmup * (cosine_decay(step / total_steps) if cosine else 1.0)

    return factor


def warmup_then_cosine(warmup_steps: int, total_steps: float) -> Callable[[int], float]:
    """Factor of each step: a linear warm-up to 1, followed by a cosine decay to 0 over the remaining steps."""
    remaining = max(1, total_steps - warmup_steps)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        return cosine_decay((step - warmup_steps) / remaining)

    return factor


def cosine_decay(progress: float) -> float:
    """Half a cosine from 1 at progress 0 to 0 at progress 1 and beyond."""
    return 0.5 + 0.5 * math.cos(math.pi * min(1.0, progress))


def fused_on(device: torch.device) -> bool | None:
    """torch's argument `fused` of Adam: one kernel for all parameters on a GPU, elsewhere torch's default."""
    return True if device.type == "cuda" else None


def unscaled_by_lightning(optimizer: Optimizer) -> Optimizer:
    """The same optimizer; Lightning does not clip gradients in fp16 if a fused one unscales them by itself."""
    optimizer._step_supports_amp_scaling = False  # pyright: ignore[reportAttributeAccessIssue]
    return optimizer


def decaying_matrices(module: nn.Module, rate: float, weight_decay: float, device: torch.device) -> Optimizer:
    """AdamW for the trainable parameters of a module, with weight decay of matrices alone, as CLIP's training has it."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.999), fused=fused_on(device))
    return unscaled_by_lightning(optimizer)


def per_step(optimizer: Optimizer, factor: Callable[[int], float]) -> dict:
    """The dict of an optimizer and its schedule, updated after every step, that `configure_optimizers` returns."""
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}
