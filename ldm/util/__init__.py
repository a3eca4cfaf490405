"""What every other package may use: errors, configs, options, files, command lines, images, processes."""

from importlib import import_module

_HOMES = {  # name -> module; imported when first used, so that --help needs neither OmegaConf nor torch
    "ConfigError": "ldm.util.errors",
    "UserError": "ldm.util.errors",
    "at_least": "ldm.util.cli",
    "did_you_mean": "ldm.util.errors",
    "finite": "ldm.util.cli",
    "instantiate_from_config": "ldm.util.config",
    "plain": "ldm.util.config",
    "positive": "ldm.util.cli",
    "read_config": "ldm.util.config",
    "resolve": "ldm.util.config",
    "writable_folder": "ldm.util.files",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
