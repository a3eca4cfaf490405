"""What every other package may use: errors, configs, files, command lines, images, processes. Imports no torch by itself."""

from ldm.util.cli import at_least, finite, positive
from ldm.util.config import instantiate_from_config, plain, read_config, resolve
from ldm.util.errors import ConfigError, UserError, did_you_mean
from ldm.util.files import writable_folder

__all__ = [
    "ConfigError", "UserError", "at_least", "finite", "instantiate_from_config", "did_you_mean", "plain", "positive",
    "read_config", "resolve", "writable_folder",
]
