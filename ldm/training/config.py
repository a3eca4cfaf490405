"""From --base files, overrides and flags to one checked config."""

from __future__ import annotations

import math
import re
from argparse import Namespace
from collections.abc import Collection
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf

from ldm.training.word_flags import with_word_flags
from ldm.util.config import as_config_error, plain, read_config, shortened
from ldm.util.config_merging import merge_configs
from ldm.util.errors import ConfigError, did_you_mean
from ldm.util.trust import read_untrusted

DEFAULT_SEED = 23  # LDM's
# Section -> its keys.
SECTIONS = {
    "": ("model", "data", "lightning"),
    "model": ("target", "params", "base_learning_rate"),
    "data": ("target", "params"),
    "lightning": ("trainer", "callbacks", "modelcheckpoint", "logger", "seed", "scale_lr", "compile", "cuda_graphs"),
}
NESTED = (  # whatever takes keys of its own
    "model",
    "data",
    "lightning",
    "model.params",
    "data.params",
    "lightning.trainer",
    "lightning.callbacks",
    "lightning.modelcheckpoint",
    "lightning.logger",
)
REQUIRED = ("model", "data", "model.target", "data.target", "model.base_learning_rate")
# Keys of lightning.trainer that Lightning 2 no longer has, or that a log folder leaves no choice of, and what replaces them.
REMOVED_TRAINER_KEYS = {
    "resume_from_checkpoint": "use --resume",
    "num_processes": "use --gpus cpu:N",
    "weights_save_path": "use --logdir",
    "default_root_dir": "use --logdir",
    "terminate_on_nan": "leave it out, a loss that is NaN always stops the run",
    "replace_sampler_ddp": "leave it out, the data module shares the data among the processes",
    "checkpoint_callback": "use enable_checkpointing",
    "logger": "use the section lightning.logger",
    "callbacks": "use the section lightning.callbacks",
}
PRECISIONS = ("32", "16-mixed", "bf16-mixed", "32-true", "16", "bf16")
# Whole numbers in a config -> their smallest and largest values, where neither Lightning nor torch checks them before use.
BOUNDS = {
    "data.params.batch_size": (1, 10**6),
    "data.params.num_workers": (0, 512),  # each is a process
    "lightning.trainer.accumulate_grad_batches": (1, 10**6),
    "lightning.trainer.check_val_every_n_epoch": (1, 10**9),
    "lightning.trainer.log_every_n_steps": (1, 10**9),
    "lightning.trainer.max_epochs": (-1, 10**9),
    "lightning.trainer.max_steps": (-1, 10**12),
    "lightning.trainer.num_nodes": (1, 10**5),
    "lightning.trainer.num_sanity_val_steps": (-1, 10**9),
    "lightning.trainer.progress_bar_refresh_rate": (0, 10**9),
}
SWITCHES = ("compile", "cuda_graphs")  # of speed
ABOVE_ZERO = ("model.base_learning_rate", "lightning.trainer.val_check_interval", "lightning.trainer.gradient_clip_val")


def read_training_config(arguments: Namespace, overrides: list[str], resumed: Path | None = None) -> DictConfig:
    """Merges the config of the resumed run, then the --base files, then the overrides, then the flags.

    Args:
        overrides: such as "model.params.width=4".
        resumed: the log folder of the run that is resumed. Its config may come from a stranger (see ldm.util.trust).

    Raises:
        ConfigError: a file is no config, they do not fit together, or a key or value is wrong.
    """
    configs = [*map(read_config, arguments.base), _from_overrides(overrides)]
    for each in configs:
        _check_nested(OmegaConf.to_container(each, resolve=False))
    own = merge_configs(*configs)
    stored = _read_stored(resumed, own) if resumed else OmegaConf.create({})
    if resumed and not stored and not arguments.base:
        raise ConfigError(f"--resume {arguments.resume}: {resumed}/configs holds no config; name it with --base")
    switches = dict.fromkeys(("scale_lr", *SWITCHES), False)
    defaults = {"lightning": {"trainer": {}, "seed": DEFAULT_SEED, **switches}}
    flags = OmegaConf.create({"lightning": config_of_flags(arguments)})
    config = with_word_flags(merge_configs(OmegaConf.create(defaults), stored, own, flags), arguments)
    check_sections(plain(config))  # plain() raises an error for what cannot be resolved
    return config


def _read_stored(folder: Path, own: DictConfig) -> DictConfig:
    """The config in a log folder; later files, which resuming wrote, win."""
    files = sorted((folder / "configs").glob("*.yaml"))
    with as_config_error(f"{folder}/configs"):  # not merge_configs, which imports targets that `own` may replace
        return cast(
            DictConfig, OmegaConf.merge({}, *(read_untrusted(read_config(file), str(file), own) for file in files))
        )


def _from_overrides(overrides: list[str]) -> DictConfig:
    config = OmegaConf.create({})
    for override in overrides:
        with as_config_error(override):
            config = cast(DictConfig, OmegaConf.merge(config, OmegaConf.from_dotlist([override])))
    return config


def config_of_flags(arguments: Namespace) -> dict:
    """The given flags under the keys that they have in the section lightning."""
    given = {key: value for key, value in vars(arguments).items() if value is not None}
    settings = {key: given[key] for key in arguments.trainer_flags if key in given}
    return {"trainer": settings, **{key: given[key] for key in ("seed", "scale_lr", *SWITCHES) if key in given}}


def check_sections(config: dict[str, Any]) -> None:
    """Checks the keys of the sections, and the values that neither a signature nor Lightning checks.

    Raises:
        ConfigError: a key is missing or unknown, or a value is out of range.
    """
    for section, known in SECTIONS.items():
        _check_keys(section, _select(config, section) if section else config, known)
    _check_nested(config)
    for key in REQUIRED:
        if _select(config, key) is None:
            hint = "if it changes another config, name that one first: --base configs/vg.yaml configs/tiny.yaml"
            raise ConfigError(f"the config has no {key!r}; {hint}")
    for key, bounds in BOUNDS.items():
        _check_whole_number(key, _select(config, key), *bounds)
    for key in ABOVE_ZERO:
        _check_positive(key, _select(config, key))
    _check_lightning(config["lightning"])


def _check_nested(config: Any) -> None:
    for section in NESTED:
        content = _select(config, section)
        is_reference = isinstance(content, str) and "${" in content and "." in section
        if content is not None and not is_reference:
            _check_keys(section, content, None)


def _check_keys(section: str, content: Any, known: Collection[str] | None) -> None:
    if not isinstance(content, dict):
        if content is None and section in ("model", "data"):
            raise ConfigError(f"the config has no {section!r}")
        raise ConfigError(f"{section} is {shortened(content)}; it takes keys of its own, as in configs/vg.yaml")
    for key in content if known is not None else ():
        if key not in known:
            place = f"{section}.{key}" if section else key
            raise ConfigError(f"{place}: there is no such key in a config{did_you_mean(key, known)}")


def _check_whole_number(key: str, value: Any, minimum: int, maximum: int) -> None:
    number = _as_number(value)
    if value is not None and not (number.is_integer() and minimum <= number <= maximum):
        raise ConfigError(
            f"{key} is {shortened(value)}; it takes a whole number, at least {minimum} and at most {maximum}"
        )


def _check_positive(key: str, value: Any) -> None:
    is_duration = key == "lightning.trainer.val_check_interval" and isinstance(value, (str, dict))
    if not (value is None or is_duration or 0 < _as_number(value) < math.inf):
        raise ConfigError(f"{key} is {shortened(value)}; it takes a number, more than 0")


def _as_number(value: Any) -> float:
    return float(value) if type(value) is float or (type(value) is int and abs(value) < 2**63) else math.nan


def _check_lightning(section: dict[str, Any]) -> None:
    for key in REMOVED_TRAINER_KEYS.keys() & (section.get("trainer") or {}):
        raise ConfigError(f"lightning.trainer.{key}: {REMOVED_TRAINER_KEYS[key]}")
    seed = section["seed"]
    if type(seed) is not int or not 0 <= seed < 2**32:
        raise ConfigError(f"lightning.seed is {shortened(seed)}; it takes a whole number from 0 to {2**32 - 1}")
    for key in ("scale_lr", *SWITCHES):
        if not isinstance(section[key], bool):
            raise ConfigError(f"lightning.{key} is {shortened(section[key])}; it takes true or false")
    for name, callback in (section.get("callbacks") or {}).items():
        if callback is not None:
            _check_keys(f"lightning.callbacks.{name}", callback, ("target", "params"))


def _select(config: dict[str, Any], path: str) -> Any:
    value: Any = config
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def devices_of(gpus: str | int | None) -> dict[str, Any]:
    """Lightning's `accelerator` and `devices` for the value of --gpus.

    Args:
        gpus: as in LDM, "0,1" names devices and "2" is a number of them; "-1" is all; "cpu" or "cpu:2" trains in one or two
            processes on the CPU. The default is one GPU.

    Raises:
        ConfigError: the value is not one of these, or there are too few GPUs.
    """
    gpus = str("1" if gpus is None else gpus).strip()
    if match := re.fullmatch(r"cpu(?::([1-9]\d{0,3}))?", gpus):
        return {"accelerator": "cpu", "devices": int(match[1] or 1)}
    if not re.fullmatch(r"-1|[1-9]\d{0,3}|\d{1,4}(,\d{1,4})*,?", gpus):
        raise ConfigError(f"--gpus {shortened(gpus)}: give '0,' for one GPU, '0,1' for two, '2' for any two, or 'cpu'")
    available = torch.cuda.device_count()
    if not available:
        raise ConfigError("there is no GPU here; to train on the CPU: --gpus cpu (cpu:2 for two processes)")
    count = available if gpus == "-1" else int(gpus.split(",")[0])
    chosen = [int(index) for index in gpus.split(",") if index] if "," in gpus else list(range(count))
    if max(chosen) >= available:
        raise ConfigError(f"--gpus {gpus}: there are {available} GPUs here, counted from 0")
    return {"accelerator": "gpu", "devices": chosen}


def process_count(devices: Any) -> int:
    """The number of processes on one machine for Lightning's `devices`: a number, a list, text of either, 'auto' or '-1'.

    Raises:
        ConfigError: the value is none of these.
    """
    if str(devices) in ("auto", "-1"):
        return max(1, torch.cuda.device_count())
    try:
        if isinstance(devices, str):
            devices = [word for word in devices.split(",") if word.strip()] if "," in devices else int(devices)
        return devices if isinstance(devices, int) else len(devices)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"lightning.trainer.devices is {shortened(devices)}; give a number, or use --gpus") from error
