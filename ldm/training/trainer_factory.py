"""Lightning's Trainer, its logger and its callbacks, from the section `lightning` of a config."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import Logger

from ldm.training.checkpointing import AtomicCheckpointIO
from ldm.training.config import PRECISIONS, devices_of, process_count
from ldm.training.progress import make_progress
from ldm.training.protocols import HasMonitor
from ldm.training.strategies import strategy
from ldm.util.config import build_errors, instantiate_from_config, plain, refuse_unknown_params
from ldm.util.config_merging import merge_configs
from ldm.util.errors import ConfigError

LIGHTNING_1_STRATEGIES = ("ddp", "ddp2", "ddp_spawn")  # values of `accelerator` in Lightning 1
OUR_DEFAULTS = {
    "use_distributed_sampler": False,  # the data module has its own
    "enable_model_summary": False,  # the table of parts replaces it
    "inference_mode": False,  # tensors that a model keeps from a validation may be used in training
}


def make_trainer(config: DictConfig, folder: Path, model: pl.LightningModule, validates: bool) -> pl.Trainer:
    """Builds a Trainer with LDM's log folder: checkpoints/, configs/, images/ and tensorboard/ in `folder`.

    Args:
        validates: whether the data has a validation set, whose loss can select the best checkpoints.

    Raises:
        ConfigError: a key or value in the section `lightning` is wrong.
    """
    settings = _choose_devices(plain(config.lightning.trainer))
    if not settings.keys() & {"max_epochs", "max_steps", "max_time"}:
        settings["max_epochs"] = 1000
    if str(settings.get("precision", 32)) not in PRECISIONS:
        raise ConfigError(
            f"precision {settings['precision']!r} is not supported; choose one of {', '.join(PRECISIONS)}"
        )
    processes = process_count(settings["devices"]) * settings.get("num_nodes", 1)
    settings["strategy"] = strategy(settings.get("strategy"), processes)

    callbacks = make_callbacks(config, folder, model, validates)
    refresh_rate = settings.pop("progress_bar_refresh_rate", None)
    if refresh_rate == 0:
        settings["enable_progress_bar"] = False
    elif settings.get("enable_progress_bar", True):
        callbacks.append(make_progress(refresh_rate))
        settings["enable_progress_bar"] = sys.stdout.isatty()
    refuse_unknown_params(pl.Trainer, settings, "lightning.trainer")
    with build_errors("lightning.trainer"):
        return pl.Trainer(
            default_root_dir=folder,
            logger=make_logger(config, folder),
            callbacks=callbacks,
            plugins=[AtomicCheckpointIO(folder)],
            **(OUR_DEFAULTS | settings),
        )


def _choose_devices(settings: dict[str, Any]) -> dict[str, Any]:
    """Replaces `gpus` by Lightning 2's `accelerator` and `devices`."""
    settings = dict(settings)
    if settings.get("accelerator") in LIGHTNING_1_STRATEGIES:
        settings["strategy"] = settings.pop("accelerator")
    gpus, accelerator = settings.pop("gpus", None), settings.pop("accelerator", "auto")
    if gpus is None and "devices" in settings:
        return {**settings, "accelerator": accelerator}
    chosen = devices_of("cpu" if gpus is None and accelerator == "cpu" else gpus)
    if accelerator not in ("auto", chosen["accelerator"], {"gpu": "cuda"}.get(chosen["accelerator"])):
        raise ConfigError(f"accelerator {accelerator!r} and --gpus {gpus} differ; leave the accelerator out")
    return settings | chosen


def make_logger(config: DictConfig, folder: Path) -> Logger:
    """Builds TensorBoard's logger, changed or replaced by lightning.logger."""
    default = {
        "target": "pytorch_lightning.loggers.TensorBoardLogger",
        "params": {"save_dir": str(folder), "name": "tensorboard", "version": ""},
    }
    given = config.lightning.get("logger") or {}
    if "params" in given and isinstance(config.lightning.logger.params, str):
        raise ConfigError("lightning.logger.params takes keys of its own")
    replaced = given.get("target", default["target"]) != default["target"]
    return instantiate_from_config(given if replaced else OmegaConf.merge(default, given))


def make_callbacks(config: DictConfig, folder: Path, model: pl.LightningModule, validates: bool) -> list[pl.Callback]:
    """Builds the default callbacks, changed, removed (null) or extended by lightning.callbacks and .modelcheckpoint."""
    checkpoints: dict[str, Any] = {
        "dirpath": str(folder / "checkpoints"),
        "filename": "{epoch:06}",
        "enable_version_counter": False,
    }
    if validates and isinstance(model, HasMonitor) and model.monitor:
        checkpoints |= {"monitor": model.monitor, "save_top_k": 3}
    model_checkpoint = {"target": "pytorch_lightning.callbacks.ModelCheckpoint", "params": checkpoints}
    defaults = {
        "step_seed": {"target": "ldm.training.callbacks.StepSeed", "params": {"seed": config.lightning.seed}},
        "checks": {"target": "ldm.training.callbacks.Checks"},
        "image_logger": {"target": "ldm.training.callbacks.ImageLogger"},
        "learning_rate_logger": {"target": "pytorch_lightning.callbacks.LearningRateMonitor"},
        "checkpoint_callback": OmegaConf.merge(model_checkpoint, config.lightning.get("modelcheckpoint") or {}),
        "last_checkpoint": {
            "target": "ldm.training.checkpointing.LastCheckpoint",
            "params": {"path": str(folder / "checkpoints" / "last.ckpt")},
        },
    }
    merged = merge_configs(OmegaConf.create(defaults), config.lightning.get("callbacks") or OmegaConf.create({}))
    return [instantiate_from_config(callback) for callback in merged.values() if callback is not None]
