"""Weights that a new run starts from (--actual_resume)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf

from ldm.models.diffusion.denoising_loss import DenoisingLoss
from ldm.models.export import read_adapters
from ldm.util.config import instantiate_from_config
from ldm.util.errors import UserError


def load_initial_weights(config: DictConfig, path: str) -> pl.LightningModule:
    """Builds the model of a config and loads weights into it.

    Args:
        path: a checkpoint of trainer.py, adapters that scripts/export.py wrote, or published weights of a whole model,
            which then replace the file that model.params.ckpt_path names.

    Raises:
        UserError: the file is missing, damaged, or does not fit the model.
    """
    if not Path(path).exists():
        raise UserError(f"--actual_resume {path}: there is no such file; name a checkpoint")
    state = _trained_parameters(path)
    if state is None:
        return instantiate_from_config(OmegaConf.merge(config.model, {"params": {"ckpt_path": path}}))
    model = instantiate_from_config(config.model)
    expected = model.state_dict()
    fitting = {name: value for name, value in state.items() if name in expected}
    wrong = [name for name, value in fitting.items() if value.shape != expected[name].shape]
    if wrong or not fitting:
        problem = f"{wrong[0]} has another shape" if wrong else "none of its keys is one of the model"
        raise UserError(f"--actual_resume {path}: {problem}; train with the config that its weights were trained with")
    model.load_state_dict(fitting, strict=False)
    _start_averages(model, fitting)
    return model


def _start_averages(model: pl.LightningModule, loaded: Mapping[str, Any]) -> None:
    """Lets the averages begin at the loaded parameters and not at the random ones before, unless they were loaded too."""
    were_loaded = any(name.startswith("model_ema.") for name in loaded)
    if isinstance(model, DenoisingLoss) and model.model_ema is not None and not were_loaded:
        model.model_ema.restart(model)


def _trained_parameters(path: str) -> dict[str, Any] | None:
    """The state dict of a checkpoint of trainer.py or of exported adapters; None for another file."""
    if Path(path).is_dir():
        return None
    try:
        saved = read_adapters(path) or torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except UserError:
        raise
    except Exception:  # published files may need their own reader
        return None
    is_ours = (
        isinstance(saved, dict) and isinstance(saved.get("config"), dict) and isinstance(saved.get("state_dict"), dict)
    )
    return {name: value for name, value in saved["state_dict"].items() if torch.is_tensor(value)} if is_ours else None
