"""A config made into a training run: the log folder, Lightning's Trainer and what watches it."""

from __future__ import annotations

import logging
import sys
import warnings
from argparse import Namespace
from pathlib import Path

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.model_helpers import is_overridden
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import nn

from ldm.models.runtime import keep_freed_memory, prepare_for_training
from ldm.modules.diffusionmodules.openaimodel import UNetModel
from ldm.training.callbacks import parts
from ldm.training.config import LOST, PRECISIONS, configure, devices, find_run, process_count, save_config
from ldm.training.strategies import Sharded, refuse_to_shard, strategy
from ldm.util.config import (
    instantiate_from_config,
    plain,
    refuse_unknown_params,
)
from ldm.util.errors import ConfigError, UserError
from ldm.util.files import writable_folder

# Warnings of Lightning about what is meant to be so.
NOISE = (
    "does not have many workers",
    "Found .* in eval mode",
    "Checkpoint directory .* is not empty",
    "models that have no learning rate schedulers",
    "smaller than the logging interval",
    "LeafSpec",
    "Grad strides do not match bucket view strides",
)


def run(arguments: Namespace, overrides: list[str]) -> int:
    """What trainer.py's flags and overrides ask for. Raises UserError, TrainingStopped or Interrupted."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for warning in NOISE:
        warnings.filterwarnings("ignore", f".*{warning}")

    folder, checkpoint = find_run(arguments)
    config = configure(arguments, overrides, folder if checkpoint else None)
    seed = config.lightning.seed
    try:
        pl.seed_everything(seed, verbose=False)
        data = instantiate_from_config(config.data)
        if OmegaConf.select(config, "data.params.seed") is None:
            data.seed = seed
        data.setup("check" if arguments.check else None)
        if arguments.check:
            from ldm.data import doctor

            return doctor.examine(data.datasets)
        model = instantiate_from_config(config.model)
        trainer = make_trainer(config, folder, model, validates="validation" in getattr(data, "datasets", {}))
        set_learning_rate(model, trainer, config)
        make_fast(model, trainer, config)
    except (ValueError, TypeError, AssertionError, OSError, MisconfigurationException) as error:
        raise error if arguments.debug else UserError(str(error)) from error
    model.config = plain(OmegaConf.masked_copy(config, ["model", "data"]))
    model.vocab = getattr(data, "vocab", None)

    say(table(model))
    say(f"learning rate {model.learning_rate:.2e}" + (" (scaled)" if config.lightning.scale_lr else ""))
    if not arguments.train:
        say("nothing trained: add -t to train")
        return 0
    say(f"{'going on in' if checkpoint else 'log folder'}: {folder}")
    if is_first_process():
        writable_folder(folder, "--logdir")
    # Only when the checkpoint has been loaded: what a run does not go on with must not be kept as its config.
    trainer.callbacks.append(pl.callbacks.LambdaCallback(on_train_start=lambda *_: save_config(config, folder)))
    trainer.fit(model, data, ckpt_path=checkpoint, weights_only=True)
    say(f"trained to step {trainer.global_step}; {folder}/checkpoints/last.ckpt")
    if not arguments.no_test and "test" in getattr(data, "datasets", {}) and is_overridden("test_step", model):
        trainer.test(model, data)
    return 0


def make_trainer(config: DictConfig, folder: Path, model: pl.LightningModule, validates: bool) -> pl.Trainer:
    """Lightning's Trainer with LDM's log folder: checkpoints/, configs/, images/ and tensorboard/ in `folder`."""
    settings = plain(config.lightning.trainer)
    for key in LOST.keys() & settings:
        raise ConfigError(f"lightning.trainer.{key}: {LOST[key]}")
    if settings.get("accelerator") in ("ddp", "ddp2", "ddp_spawn"):  # where Lightning 1 had the strategy
        settings["strategy"] = settings.pop("accelerator")
    gpus = settings.pop("gpus", None)
    if gpus is not None or "devices" not in settings:
        settings |= devices(gpus)
    if not settings.keys() & {"max_epochs", "max_steps", "max_time"}:
        settings["max_epochs"] = 1000

    if str(settings.get("precision", 32)) not in PRECISIONS:
        raise ConfigError(f"precision {settings['precision']!r} is not supported; choose one of {', '.join(PRECISIONS)}")
    processes = process_count(settings["devices"]) * settings.get("num_nodes", 1)
    settings["strategy"] = strategy(settings.get("strategy"), processes)

    callbacks = make_callbacks(config, folder, model, validates)
    refresh_rate = settings.pop("progress_bar_refresh_rate", 1 if sys.stdout.isatty() else 100)
    if refresh_rate == 0:
        settings["enable_progress_bar"] = False
    elif settings.get("enable_progress_bar", True):
        callbacks.append(pl.callbacks.TQDMProgressBar(refresh_rate))
    refuse_unknown_params(pl.Trainer, settings, "lightning.trainer")
    ours = {
        "use_distributed_sampler": False,  # the data module has its own
        "enable_model_summary": False,  # there is the table of parts
        "inference_mode": False,  # what a model keeps from a validation may be used in training
    }
    return pl.Trainer(
        default_root_dir=folder, logger=make_logger(config, folder), callbacks=callbacks, **(ours | settings)
    )


def make_logger(config: DictConfig, folder: Path) -> pl.loggers.Logger:
    ours = {
        "target": "pytorch_lightning.loggers.TensorBoardLogger",
        "params": {"save_dir": str(folder), "name": "tensorboard", "version": ""},
    }
    given = config.lightning.get("logger") or {}
    replaced = given.get("target", ours["target"]) != ours["target"]
    return instantiate_from_config(given if replaced else OmegaConf.merge(ours, given))


def make_callbacks(config: DictConfig, folder: Path, model: pl.LightningModule, validates: bool) -> list[pl.Callback]:
    """Ours, with what lightning.callbacks changes in them (null takes one away) and adds."""
    checkpoints = {"dirpath": str(folder / "checkpoints"), "filename": "{epoch:06}", "enable_version_counter": False}
    if validates and getattr(model, "monitor", None):
        checkpoints |= {"monitor": model.monitor, "save_top_k": 3}
    modelcheckpoint = {"target": "pytorch_lightning.callbacks.ModelCheckpoint", "params": checkpoints}
    ours = {
        "step_seed": {"target": "ldm.training.callbacks.StepSeed", "params": {"seed": config.lightning.seed}},
        "checks": {"target": "ldm.training.callbacks.Checks"},
        "image_logger": {"target": "ldm.training.callbacks.ImageLogger"},
        "learning_rate_logger": {"target": "pytorch_lightning.callbacks.LearningRateMonitor"},
        "checkpoint_callback": OmegaConf.merge(modelcheckpoint, config.lightning.get("modelcheckpoint") or {}),
        "last_checkpoint": {
            "target": "ldm.training.callbacks.LastCheckpoint",
            "params": {"path": str(folder / "checkpoints" / "last.ckpt")},
        },
    }
    merged = OmegaConf.merge(ours, config.lightning.get("callbacks") or {})
    return [instantiate_from_config(callback) for callback in merged.values() if callback is not None]


def set_learning_rate(model: pl.LightningModule, trainer: pl.Trainer, config: DictConfig) -> None:
    """model.learning_rate, which its configure_optimizers reads."""
    model.learning_rate = float(config.model.base_learning_rate)
    if config.lightning.scale_lr:
        model.learning_rate *= trainer.accumulate_grad_batches * trainer.world_size * config.data.params.batch_size


def make_fast(model: pl.LightningModule, trainer: pl.Trainer, config: DictConfig) -> None:
    """What changes no number of a run beyond rounding. Raises ConfigError where there is nothing to compile, or to divide
    among processes."""
    device, unet = trainer.strategy.root_device.type, getattr(model, "unet", None)
    if isinstance(trainer.strategy, Sharded):
        refuse_to_shard(model, config.lightning.compile)
    if device == "cpu":
        keep_freed_memory()
    if isinstance(unet, UNetModel):
        prepare_for_training(unet, device, trainer.precision, config.lightning.compile, lean=trainer.world_size > 1)
    elif config.lightning.compile:
        raise ConfigError(f"lightning.compile: {type(model).__name__} has no U-Net; leave it out")


def table(model: nn.Module) -> str:
    """The parts: how many parameters, how many of them train, and where their weights come from."""
    rows = [("part", "parameters", "trained", "weights from")]
    for name, part in {**parts(model), "all": model}.items():
        count = sum(p.numel() for p in part.parameters())
        trained = sum(p.numel() for p in part.parameters() if p.requires_grad)
        source = getattr(part, "weights_from", None) or ("" if part is model else "new")
        rows.append((name, f"{count:,}", f"{trained:,}" if trained else "frozen", source))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(f"{a:{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}  {d}".rstrip() for a, b, c, d in rows)


@rank_zero_only
def say(sentence: str) -> None:
    print(sentence, flush=True)


def is_first_process() -> bool:
    return rank_zero_only.rank == 0
