"""From a config's `target` and `params` to the object that they describe."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ldm.util.errors import ConfigError, did_you_mean

# Names that YAML files use -> where the classes are now: LDM's own, and this project's before its packages.
RETIRED = {
    "scripts.datamodule.DataModuleFromConfig": "ldm.data.datamodule.DataModuleFromConfig",
    "main.DataModuleFromConfig": "ldm.data.datamodule.DataModuleFromConfig",
    "trainer.ImageLogger": "ldm.training.callbacks.ImageLogger",
    "main.ImageLogger": "ldm.training.callbacks.ImageLogger",
    "main.LearningRateMonitor": "pytorch_lightning.callbacks.LearningRateMonitor",
    "ldm.callbacks.ImageLogger": "ldm.training.callbacks.ImageLogger",
    "ldm.callbacks.LastCheckpoint": "ldm.training.callbacks.LastCheckpoint",
    "ldm.callbacks.StepSeed": "ldm.training.callbacks.StepSeed",
    "ldm.callbacks.Checks": "ldm.training.callbacks.Checks",
    "ldm.data.image_sets.Folder": "ldm.evaluation.image_sets.Folder",
    "ldm.data.image_sets.Split": "ldm.evaluation.image_sets.Split",
    "ldm.strategies.Sharded": "ldm.training.strategies.Sharded",
}

# All that a config may build when nobody at the keyboard wrote it.
OURS = ("ldm", "torch.nn", "torch.optim", "pytorch_lightning", "taming")


def instantiate_from_config(config: Mapping, **extra: Any) -> Any:
    """config["target"](**config["params"], **extra); OmegaConf nodes reach the target as plain dicts and lists.

    Raises ConfigError for a missing or unknown target and for parameters that it does not take.
    """
    config = plain(config)
    if not isinstance(config, Mapping) or not isinstance(config.get("target"), str):
        raise ConfigError(f"a config entry needs 'target: package.module.Name' (and 'params:'); this one is {config!r}")
    build = resolve(config["target"])
    params = {**(config.get("params") or {}), **extra}
    refuse_unknown_params(build, params, config["target"])
    return build(**params)


def resolve(target: str) -> Any:
    """What a dotted name stands for, published names included."""
    module, _, name = RETIRED.get(target, target).rpartition(".")
    if not module:
        raise ConfigError(f"target {target!r} is not a dotted name such as ldm.data.vg.VGTrain")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(error.name + ".")):
            raise ConfigError(f"target {target!r}: there is no module {error.name!r}") from error
        raise ConfigError(f"target {target!r} needs the package {error.name!r}, which is not installed") from error
    if not callable(found):
        near = did_you_mean(name, vars(importlib.import_module(module)))
        raise ConfigError(f"target {target!r}: the module {module!r} has no class {name!r}{near}")
    return found


def refuse_unknown_params(build: Any, params: Mapping, target: str) -> None:
    """ConfigError for parameters that `build` does not take, or that it needs and are absent."""
    try:
        signature = inspect.signature(build)
    except ValueError:  # some C functions have none
        return
    known = signature.parameters.values()
    if not any(p.kind is p.VAR_KEYWORD for p in known):
        for name in params:
            if name not in signature.parameters:
                raise ConfigError(f"{target} takes no parameter {name!r}{did_you_mean(name, signature.parameters)}")
    try:
        signature.bind(**params)
    except TypeError as error:
        raise ConfigError(f"{target}: {error}; add it under 'params:'") from error


def refuse_foreign_targets(config: Mapping, source: str, named: Collection[str] = ()) -> None:
    """Let a config that came out of a file name no code but ours.

    Every target must be a class of the packages in OURS. The class itself is looked at too, because their modules
    also hold other people's names: `pytorch_lightning...signal_connector.call` is subprocess.call.
    `named`: targets that the user asked for, and which may be anything. Raises ConfigError.
    """
    for target in targets(plain(config)):
        if target in named:
            continue
        found = resolve(target) if _is_ours(RETIRED.get(target, target)) else None
        if not (inspect.isclass(found) and _is_ours(found.__module__)):
            raise ConfigError(
                f"{source}: its config names {target!r}, which is not a class of this project; a config from a file "
                "may not say what code to run. If you trust it, name it in a YAML file of your own and pass that"
            )


def targets(config: Any) -> Iterator[str]:
    """Every `target` in a nested config."""
    if isinstance(config, Mapping):
        if "target" in config:
            yield str(config["target"])
        config = config.values()
    elif not isinstance(config, (list, tuple)):
        return
    for value in config:
        yield from targets(value)


def read_config(path: str | Path) -> DictConfig:
    """A YAML file. Raises ConfigError, with the line."""
    try:
        config = OmegaConf.load(path)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not text, so not YAML; name a config such as configs/vg.yaml") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise ConfigError(f"{path}{f', line {mark.line + 1}' if mark else ''}: not YAML ({error.problem})") from error
    if not isinstance(config, DictConfig):
        raise ConfigError(f"{path}: not a config, which has the sections model, data and lightning")
    return config


@contextmanager
def coming_together() -> Iterator[None]:
    """ConfigError for files, overrides and interpolations that do not make one config."""
    try:
        yield
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError(f"the config does not come together: {str(error).splitlines()[0]}") from error


def plain(config: Any) -> Any:
    """OmegaConf nodes as dicts and lists with their interpolations resolved; anything else as it is."""
    if isinstance(config, (DictConfig, ListConfig)):
        return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    return config


def _is_ours(name: str) -> bool:
    return any(name == package or name.startswith(package + ".") for package in OURS)
