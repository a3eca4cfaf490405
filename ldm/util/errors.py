"""Exceptions for mistakes of users; their message is one sentence."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A user's mistake. The message is one sentence: what is wrong, where, what to do; programs print it and exit with 2."""

    def __str__(self) -> str:
        """The sentence alone; when a DataLoader worker raises the error, torch puts the worker's traceback before it."""
        message = super().__str__()
        return message.splitlines()[-1].partition(": ")[2] if "\nOriginal Traceback" in message else message


class ConfigError(UserError):
    """A config with a wrong key or value, or one that cannot be read."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error message that suggests similar names: "; did you mean 'batch_size'?", or "" if none is similar."""
    close = difflib.get_close_matches(str(name), [str(k) for k in known], n=2)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
