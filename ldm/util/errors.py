"""Mistakes of the user's, as exceptions whose message is one sentence."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake of the user's, in one clear sentence: what, where, what to do. The scripts print it and exit with 2."""

    def __str__(self) -> str:
        """The sentence alone, also where a data loader's worker raised it: torch makes a traceback of that one's message."""
        message = super().__str__()
        return message.splitlines()[-1].partition(": ")[2] if "\nOriginal Traceback" in message else message


class ConfigError(UserError):
    """A config that cannot be built as it stands."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """'; did you mean ...?' or nothing."""
    close = difflib.get_close_matches(str(name), [str(k) for k in known], n=2)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
