"""A config made into a training run: the log folder, Lightning's Trainer and what watches it."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from argparse import Namespace
from datetime import datetime
from pathlib import Path

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.model_helpers import is_overridden
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import nn

from ldm.callbacks import parts
from ldm.memory import keep_freed_memory
from ldm.modules.diffusionmodules.openaimodel import UNetModel
from ldm.speed import prepare
from ldm.strategies import Sharded, refuse_to_shard, strategy
from ldm.util import (
    ConfigError,
    UserError,
    coming_together,
    instantiate_from_config,
    nearest,
    plain,
    read_config,
    refuse_foreign_targets,
    refuse_unknown_params,
    targets,
    writable_folder,
)

SEED = 23  # LDM's

SECTIONS = {
    "": ("model", "data", "lightning"),
    "model": ("target", "params", "base_learning_rate"),
    "data": ("target", "params"),
    "lightning": ("trainer", "callbacks", "modelcheckpoint", "logger", "seed", "scale_lr", "compile"),
}

# Keys of lightning.trainer that Lightning 2 lost, and where to turn; not those that are translated.
LOST = {
    "resume_from_checkpoint": "use --resume",
    "num_processes": "use --gpus cpu:N",
    "weights_save_path": "use --logdir",
    "terminate_on_nan": "leave it out, a loss that is NaN always stops the run",
    "replace_sampler_ddp": "leave it out, the data module itself shares the data among the processes",
    "checkpoint_callback": "use enable_checkpointing",
    "logger": "use the section lightning.logger",
    "callbacks": "use the section lightning.callbacks",
}

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


PRECISIONS = ("32", "16-mixed", "bf16-mixed", "32-true", "16", "bf16")


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


def find_run(arguments: Namespace) -> tuple[Path, Path | None]:
    """The log folder, and the checkpoint to go on from."""
    if not arguments.resume:
        if not arguments.base:
            raise UserError("nothing to train: name a config, such as --base configs/vg.yaml")
        name = arguments.name or Path(arguments.base[0]).stem
        return Path(arguments.logdir, f"{datetime.now():%Y-%m-%dT%H-%M-%S}_{name}"), None
    if arguments.name:
        raise UserError("--name and --resume do not go together: a resumed run stays in its log folder")
    path = Path(arguments.resume)
    checkpoint = path / "checkpoints" / "last.ckpt" if path.is_dir() else path
    if not checkpoint.is_file():
        raise UserError(f"--resume {path}: there is no {checkpoint}; name a log folder, or a checkpoint in one")
    try:
        torch.load(checkpoint, weights_only=True, mmap=True)
    except Exception as error:
        raise UserError(f"--resume {checkpoint}: broken, cut short or not a checkpoint of trainer.py; name another one in checkpoints/") from error
    return checkpoint.resolve().parent.parent, checkpoint


def configure(arguments: Namespace, overrides: list[str], resumed: Path | None = None) -> DictConfig:
    """One config: of the run that is resumed, then the --base files, then the overrides, then the flags."""
    with coming_together():
        named = OmegaConf.merge(*map(read_config, arguments.base), OmegaConf.from_dotlist(overrides))
        stored = OmegaConf.merge({}, *map(read_config, sorted((resumed / "configs").glob("*.yaml")))) if resumed else {}
        if resumed and not stored and not arguments.base:
            raise ConfigError(f"--resume {arguments.resume}: {resumed}/configs holds no config; name it with --base")
        refuse_foreign_targets(stored, f"{resumed}/configs", named=set(targets(OmegaConf.to_container(named))))
        defaults = {"lightning": {"trainer": {}, "seed": SEED, "scale_lr": False, "compile": False}}
        config = OmegaConf.merge(defaults, stored, named, {"lightning": flags(arguments)})
        plain(config)  # whatever cannot be resolved shows now
    for section, known in SECTIONS.items():
        if section and not isinstance(OmegaConf.select(config, section), DictConfig):
            raise ConfigError(f"the config's '{section}' is no section with keys of its own, such as configs/vg.yaml has")
        for key in OmegaConf.select(config, section) if section else config:
            if key not in known:
                place = f"{section}.{key}" if section else key
                raise ConfigError(f"{place}: there is no such key in a config{nearest(key, known)}")
    for key in ("model", "data", "model.base_learning_rate"):
        if OmegaConf.select(config, key) is None:
            raise ConfigError(f"the config has no '{key}'")
    return config


def flags(arguments: Namespace) -> dict:
    """The given flags, where a config has them."""
    given = {key: value for key, value in vars(arguments).items() if value is not None}
    settings = {key: given[key] for key in arguments.trainer_flags if key in given}
    return {"trainer": settings, **{key: given[key] for key in ("seed", "scale_lr", "compile") if key in given}}


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


def devices(gpus: str | int | None) -> dict:
    """--gpus in Lightning 2's words: '0,1' are devices and '2' is a number of them, as in LDM; 'cpu:2' is ours."""
    gpus = str("1" if gpus is None else gpus).strip()
    if match := re.fullmatch(r"cpu(?::([1-9]\d*))?", gpus):
        return {"accelerator": "cpu", "devices": int(match[1] or 1)}
    if not re.fullmatch(r"-1|[1-9]\d*|\d+(,\d+)*,?", gpus):
        raise ConfigError(f"--gpus {gpus}: give '0,' for one GPU, '0,1' for two, '2' for any two, or 'cpu'")
    here = torch.cuda.device_count()
    if not here:
        raise ConfigError("no GPU is to be seen here; to train on the CPU: --gpus cpu (cpu:2 for two processes)")
    chosen = [int(i) for i in gpus.split(",") if i] if "," in gpus else list(range(here if gpus == "-1" else int(gpus)))
    if max(chosen) >= here:
        raise ConfigError(f"--gpus {gpus}: there are {here} GPUs here, counted from 0")
    return {"accelerator": "gpu", "devices": chosen}


def process_count(devices: int | str | list[int]) -> int:
    """On one machine, by Lightning's `devices`: a number, a list, or as text either of them, 'auto' or '-1'."""
    if str(devices) in ("auto", "-1"):
        return max(1, torch.cuda.device_count())
    if isinstance(devices, str):
        devices = [word for word in devices.split(",") if word.strip()] if "," in devices else int(devices)
    return devices if isinstance(devices, int) else len(devices)


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
        "step_seed": {"target": "ldm.callbacks.StepSeed", "params": {"seed": config.lightning.seed}},
        "checks": {"target": "ldm.callbacks.Checks"},
        "image_logger": {"target": "ldm.callbacks.ImageLogger"},
        "learning_rate_logger": {"target": "pytorch_lightning.callbacks.LearningRateMonitor"},
        "checkpoint_callback": OmegaConf.merge(modelcheckpoint, config.lightning.get("modelcheckpoint") or {}),
        "last_checkpoint": {
            "target": "ldm.callbacks.LastCheckpoint",
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
        prepare(unet, device, trainer.precision, config.lightning.compile, lean=trainer.world_size > 1)
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
def save_config(config: DictConfig, folder: Path) -> None:
    now = f"{datetime.now():%Y-%m-%dT%H-%M-%S}"
    (folder / "configs").mkdir(parents=True, exist_ok=True)
    OmegaConf.save(OmegaConf.masked_copy(config, ["model", "data"]), folder / "configs" / f"{now}-project.yaml")
    OmegaConf.save(OmegaConf.masked_copy(config, ["lightning"]), folder / "configs" / f"{now}-lightning.yaml")


@rank_zero_only
def say(sentence: str) -> None:
    print(sentence, flush=True)


def is_first_process() -> bool:
    return rank_zero_only.rank == 0
