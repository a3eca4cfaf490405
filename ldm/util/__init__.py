"""What every other package may use: errors, configs, options, files, command lines, images, processes."""

from ldm.util.lazy import lazy_exports

_HOMES = {
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
__getattr__ = lazy_exports(__name__, _HOMES)
