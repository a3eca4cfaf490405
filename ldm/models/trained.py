"""What trainer.py trained: read from a checkpoint or exported adapters, and put into a model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ldm.checkpoints.errors import CheckpointError
from ldm.models.diffusion.latent_diffusion import LatentDiffusion
from ldm.models.export import read_adapters, select_ema_weights

if TYPE_CHECKING:
    from ldm.models.diffusion.training import DiffusionTraining

logger = logging.getLogger(__name__)


def read_trained(path: str | Path) -> dict | None:
    """The entries state_dict, config and vocab of a checkpoint of trainer.py or of exported adapters; None of another file.

    Raises:
        CheckpointError: adapters are damaged.
    """
    try:
        saved = read_adapters(path) or torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception:
        return None
    return saved if isinstance(saved, dict) and {"state_dict", "config", "vocab"} <= set(saved) else None


def load_trained(model: LatentDiffusion | DiffusionTraining, saved: dict, source: str) -> None:
    """Loads the trained parameters, as their moving averages."""
    state = saved["state_dict"]
    if not any(name.startswith("model_ema.") for name in state):
        model.model_ema = None  # exported weights are the averages
    model.on_load_checkpoint(saved)
    model.load_state_dict(state, strict=False)
    logger.info("trained parameters: %d tensors from %s", len(select_ema_weights(state)), source)
    if model.model_ema is not None:
        model.model_ema.copy_to(model)
