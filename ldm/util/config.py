"""YAML configs, and the objects that their `target` and `params` describe."""

from __future__ import annotations

import importlib
import inspect
import io
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, ClassVar, Protocol, Union, get_args, get_origin, get_type_hints, runtime_checkable

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ldm.util.errors import ConfigError, UserError, did_you_mean
from ldm.util.files import read_text
from ldm.util.options import describe_type, has_type

# Names that YAML files use -> where the classes are now: LDM's own, and this project's before its packages.
RETIRED = {
    "scripts.datamodule.DataModuleFromConfig": "ldm.data.datamodule.DataModuleFromConfig",
    "main.DataModuleFromConfig": "ldm.data.datamodule.DataModuleFromConfig",
    "trainer.ImageLogger": "ldm.training.callbacks.ImageLogger",
    "main.ImageLogger": "ldm.training.callbacks.ImageLogger",
    "main.LearningRateMonitor": "pytorch_lightning.callbacks.LearningRateMonitor",
    "ldm.callbacks.ImageLogger": "ldm.training.callbacks.ImageLogger",
    "ldm.callbacks.LastCheckpoint": "ldm.training.checkpointing.LastCheckpoint",
    "ldm.training.callbacks.LastCheckpoint": "ldm.training.checkpointing.LastCheckpoint",
    "ldm.callbacks.StepSeed": "ldm.training.callbacks.StepSeed",
    "ldm.callbacks.Checks": "ldm.training.callbacks.Checks",
    "ldm.data.image_sets.Folder": "ldm.evaluation.image_sets.Folder",
    "ldm.data.image_sets.Split": "ldm.evaluation.image_sets.Split",
    "ldm.strategies.Sharded": "ldm.training.strategies.Sharded",
}

# Classes with a training loop -> the same ones without it, in modules that import no Lightning, which takes seconds.
WITHOUT_TRAINING = {
    "ldm.models.diffusion.ddpm.LatentDiffusion": "ldm.models.diffusion.latent_diffusion.LatentDiffusion",
    "ldm.models.autoencoder.AutoencoderKL": "ldm.models.first_stage.AutoencoderKL",
    "ldm.models.autoencoder.VQModelInterface": "ldm.models.first_stage.VQModelInterface",
    "ldm.modules.global_film.CLIPGlobalEncoder": "ldm.modules.image_encoder.CLIPGlobalEncoder",
}

LIMIT_OF_VALUES, LIMIT_OF_DEPTH = 100_000, 64  # of a config; YAML aliases can make a few lines into billions of values
UNIONS = (Union, UnionType)
EMPTY_LAYER = "Initializing zero-element tensors"  # how torch's warning begins
CHECKED_PACKAGES = ("ldm.", "pytorch_lightning.")  # whose annotations are known to be right


@runtime_checkable
class HasPublishedParams(Protocol):
    """Class with **kwargs that names what may be in them: parameters of published configs, of which it has one value only."""

    published_params: ClassVar[Collection[str]]


def instantiate_from_config(config: Mapping, **extra: Any) -> Any:
    """Calls config["target"](**config["params"], **extra); OmegaConf nodes reach the target as plain dicts and lists.

    Raises:
        ConfigError: the target is missing or unknown, does not take one of the parameters, or cannot be built from them.
    """
    return _instantiate(config, extra, {})


def instantiate_without_training(config: Mapping) -> Any:
    """`instantiate_from_config` of a model that will not be trained: of the classes in WITHOUT_TRAINING, the faster ones."""
    return _instantiate(config, {}, WITHOUT_TRAINING)


def _instantiate(config: Mapping, extra: Mapping[str, Any], substitutes: Mapping[str, str]) -> Any:
    config = plain(config)
    if not isinstance(config, Mapping) or not isinstance(config.get("target"), str):
        raise ConfigError(
            f"a config entry needs 'target: package.module.Name' (and 'params:'); this one is {shortened(config)}"
        )
    target, params = config["target"], config.get("params") or {}
    if not isinstance(params, Mapping):
        raise ConfigError(f"{target}: its params are {shortened(params)}, no keys with values")
    build, params = resolve(substitutes.get(target, target)), {**params, **extra}
    refuse_unknown_params(build, params, target)
    with build_errors(target):
        return build(**params)


@contextmanager
def build_errors(target: str) -> Iterator[None]:
    """Turns errors of a constructor, which its parameters cause, into a ConfigError that names the target.

    OSError is not among them, since its message names a file; errors about too little memory are not, either.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", EMPTY_LAYER)
            yield
    except (UserError, OSError, MemoryError):
        raise
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's
            raise
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        if reason.startswith(EMPTY_LAYER):
            reason = "a layer would have no weights, since one of its sizes is 0; give a larger one"
        elif type(error) is not ValueError:  # whose messages are sentences for the user
            reason = f"cannot be built from its params ({type(error).__name__}: {reason}); check their values"
        raise ConfigError(reason if target in reason else f"{target}: {reason}") from error


def resolve(target: str) -> Any:
    """Imports the class or function that a dotted name stands for; published names work too (RETIRED).

    Raises:
        ConfigError: there is none.
    """
    module, _, name = RETIRED.get(target, target).rpartition(".")
    if not module or not all(part.isidentifier() for part in module.split(".")):
        raise ConfigError(f"target {target!r} is not a dotted name such as ldm.data.vg.VGTrain")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(error.name + ".")):
            raise ConfigError(f"target {target!r}: there is no module {error.name!r}") from error
        raise ConfigError(f"target {target!r} needs the package {error.name!r}, which is not installed") from error
    except Exception as error:  # whatever a module of the user's raises
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ConfigError(f"target {target!r}: the module {module!r} cannot be imported ({reason})") from error
    if not callable(found):
        near = did_you_mean(name, vars(importlib.import_module(module)))
        raise ConfigError(f"target {target!r}: the module {module!r} has no class {name!r}{near}")
    return found


def refuse_unknown_params(build: Any, params: Mapping, target: str) -> None:
    """Checks parameters against a signature.

    Args:
        build: the class or function.
        params: the parameters by name.
        target: its name in messages.

    Raises:
        ConfigError: `build` does not take one of the parameters, one that it needs is absent, or a class of this project
            or of Lightning gets a value of the wrong type.
    """
    try:
        signature = inspect.signature(build)
    except ValueError:  # some C functions have none
        return
    known = parameter_names(build)
    for name in params if known is not None else ():
        if name not in known:
            raise ConfigError(f"{target} takes no parameter {name!r}{did_you_mean(name, known)}")
    try:
        signature.bind(**params)
    except TypeError as error:
        raise ConfigError(f"{target}: {error}; add it under 'params:'") from error
    if f"{getattr(build, '__module__', '')}.".startswith(CHECKED_PACKAGES):
        _refuse_wrong_types(build, params, target)


def parameter_names(build: Any) -> set[str] | None:
    """The parameters that a class or function takes; None if it takes any in **kwargs. Raises ValueError without signature."""
    parameters = inspect.signature(build).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return set(parameters)
    if not isinstance(build, HasPublishedParams):
        return None
    return {name for name, p in parameters.items() if p.kind is not p.VAR_KEYWORD} | set(build.published_params)


def _refuse_wrong_types(build: Any, params: Mapping, target: str) -> None:
    try:
        types = get_type_hints(build.__init__ if inspect.isclass(build) else build)
    except (NameError, TypeError, AttributeError):  # names that only a type checker imports
        return
    defaults = {name: p.default for name, p in inspect.signature(build).parameters.items()}
    for name, value in params.items():
        kind = types.get(name, Any)
        if not (has_type(value, kind) or _is_convertible(value, kind) or value is defaults.get(name)):
            quotes = "; put it into quotes" if has_type("", kind) else ""
            raise ConfigError(f"{target}: {name} takes {describe_type(kind)}, not {shortened(value)}{quotes}")
        if _is_mapping_type(kind) and not (value is None or isinstance(value, Mapping)):
            raise ConfigError(f"{target}: {name} takes keys of its own, not {shortened(value)}")


def _is_mapping_type(kind: Any) -> bool:
    """Whether a type is a dict or Mapping, or a union of these and None."""
    parts = [part for part in get_args(kind) if part is not NoneType] if get_origin(kind) in UNIONS else [kind]
    return bool(parts) and all((get_origin(part) or part) in (dict, Mapping) for part in parts)


def _is_convertible(value: Any, kind: Any) -> bool:
    """Whether a number may stand for another kind: 1e5 for a whole number, 2024 for a word."""
    if isinstance(value, float) and value.is_integer():
        return has_type(int(value), kind)
    return type(value) is int and has_type("", kind)


def shortened(value: Any, length: int = 100) -> str:
    """A value for a message."""
    text = " ".join(repr(value).split())
    return text if len(text) <= length else f"{text[:length]} ..."


def read_config(path: str | Path) -> DictConfig:
    """Reads a YAML file. Raises ConfigError, with the line, for one that holds no config."""
    try:
        text = read_text(path)
    except UserError as error:
        raise ConfigError(f"{error}") from error
    with as_config_error(f"{path}"):
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        check_extent(root, f"{path}")
        config = None
        if root is None or isinstance(root, yaml.MappingNode):
            config = OmegaConf.create({}) if root is None else OmegaConf.load(io.StringIO(text))
        if not isinstance(config, DictConfig) or not all(isinstance(key, str) for key in config):
            raise ConfigError(f"{path}: not a config, which has the sections model, data and lightning")
        return config


@contextmanager
def as_config_error(source: str) -> Iterator[None]:
    """Turns what OmegaConf and PyYAML raise for a file, an override or an interpolation into a ConfigError.

    Args:
        source: what is being read or merged; begins the message.
    """
    try:
        yield
    except UserError:
        raise
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or type(error).__name__
        raise ConfigError(f"{source}{f', line {mark.line + 1}' if mark else ''}: not YAML ({problem})") from error
    except RecursionError as error:
        raise ConfigError(f"{source}: nested more than {LIMIT_OF_DEPTH} deep; a config is not") from error
    except (
        OmegaConfBaseException,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        AssertionError,
        OSError,
    ) as error:
        reason = str(error).split("\n")[0] or type(error).__name__
        if "integer string conversion" in reason:  # Python's, which goes on about its own settings
            reason = "has a whole number of more than 4300 digits; no option takes one"
        raise ConfigError(f"{source}: {reason}") from error


def check_extent(config: Any, source: str) -> None:
    """Refuses a config that is too large or too deep to be one.

    Args:
        config: a mapping or list, or the root node of a YAML file.
        source: the file, for the message.

    Raises:
        ConfigError: there are more than LIMIT_OF_VALUES values, or more than LIMIT_OF_DEPTH levels.
    """
    count, level = 0, [config]
    for _ in range(LIMIT_OF_DEPTH):
        level = [child for value in level for child in islice(_children(value), LIMIT_OF_VALUES)]
        count += len(level)
        if not level:
            return
        if count > LIMIT_OF_VALUES:
            raise ConfigError(f"{source}: has more than {LIMIT_OF_VALUES:,} values, which no config has")
    raise ConfigError(f"{source}: nested more than {LIMIT_OF_DEPTH} deep; a config is not")


def _children(value: Any) -> Iterator[Any]:
    if isinstance(value, yaml.MappingNode):
        return (child for _, child in value.value)
    if isinstance(value, yaml.SequenceNode):
        return iter(value.value)
    if isinstance(value, Mapping):
        return iter(value.values())
    return iter(value if isinstance(value, (list, tuple)) else ())


def plain(config: Any) -> Any:
    """OmegaConf nodes as dicts and lists with their interpolations resolved; anything else unchanged.

    Raises:
        ConfigError: a value is missing (`???`), or an interpolation cannot be resolved.
    """
    if not isinstance(config, (DictConfig, ListConfig)):
        return config
    with as_config_error("the config cannot be resolved"):
        return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
