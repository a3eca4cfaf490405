"""Several YAML files as one config, as in `--base configs/sgdiff_vg.yaml configs/sgdiff_coco.yaml`."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ldm.util.config import RETIRED, read_config, resolve
from ldm.util.errors import ConfigError

ConfigPaths = str | Path | Sequence[str | Path]  # one YAML file, or several of which later ones override earlier ones


def read_configs(paths: ConfigPaths) -> DictConfig:
    """Reads a YAML file, or several, of which later ones override earlier ones (see `merge_configs`).

    Raises:
        ConfigError: a file cannot be read, or the files do not fit together.
    """
    return merge_configs(*map(read_config, [paths] if isinstance(paths, (str, Path)) else paths))


def config_name(paths: ConfigPaths) -> str:
    """The files as error messages name them."""
    return str(paths) if isinstance(paths, (str, Path)) else " ".join(map(str, paths))


def merge_configs(*configs: DictConfig) -> DictConfig:
    """Merges configs; the values of later ones override those of earlier ones.

    Where a later config names another class as `target`, parameters that this class does not have are dropped, so that one
    file can replace the data set or the graph encoder of another. This imports the targets of all configs but the
    first, so only the first may come from an untrusted file.

    Raises:
        ConfigError: a target of a later config does not exist, or what is a list in one config is a section in another.
    """
    merged = OmegaConf.create({})
    for config in configs:
        _drop_params_of_replaced_classes(merged, config)
        try:
            merged = cast(DictConfig, OmegaConf.merge(merged, config))
        except (OmegaConfBaseException, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(
                f"the configs cannot be merged ({reason}): one has a list where another has keys"
            ) from error
    return merged


def _drop_params_of_replaced_classes(earlier: DictConfig, later: DictConfig) -> None:
    target = _target(later)
    if target and _target(earlier) not in (None, target) and _is_section(earlier, "params"):
        names = _parameter_names(target)
        restated = later.params if _is_section(later, "params") else {}
        for name in earlier.params.keys() - names - restated.keys() if names is not None else ():
            del earlier.params[name]
    for key in later:
        if _is_section(earlier, key) and _is_section(later, key):
            _drop_params_of_replaced_classes(earlier[key], later[key])


def _target(config: DictConfig) -> str | None:
    """The class that a section names; None without one, or where it depends on other keys."""
    if OmegaConf.is_missing(config, "target") or OmegaConf.is_interpolation(config, "target"):
        return None
    target = config.get("target")
    return RETIRED.get(target, target) if isinstance(target, str) else None


def _is_section(config: DictConfig, key: object) -> bool:
    return not OmegaConf.is_interpolation(config, str(key)) and isinstance(config.get(str(key)), DictConfig)


def _parameter_names(target: str) -> set[str] | None:
    """The parameters that a class and its bases name; None if it may take any others in **kwargs."""
    found = resolve(target)
    names: set[str] = set()
    constructors = [vars(base).get("__init__") for base in inspect.getmro(found)] if inspect.isclass(found) else [found]
    for constructor in filter(inspect.isfunction, constructors):
        parameters = inspect.signature(constructor).parameters.values()
        names |= {parameter.name for parameter in parameters}
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            return names
    # Classes of this project have **kwargs only to refuse what is in them by name.
    return names if names and found.__module__.startswith("ldm.") else None
