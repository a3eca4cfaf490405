"""Exceptions for mistakes of users; their message is one sentence."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

Error = TypeVar("Error", bound="UserError")


class UserError(ValueError):
    """A user's mistake. The message is one sentence: what is wrong, where, what to do; programs print it and exit with 2.

    A program that speaks other languages finds its own sentence by `code`, and fills it with `values`.
    """

    code: str = ""
    values: Mapping[str, str | int | float] = {}

    def coded(self: Error, code: str, **values: str | int | float) -> Error:
        """This error, with the code of its sentence and what fills it."""
        self.code, self.values = code, values
        return self

    def coded_like(self: Error, error: UserError) -> Error:
        """This error, with the code and values of another one that it repeats."""
        return self.coded(error.code, **error.values)

    def __str__(self) -> str:
        """The sentence alone; when a DataLoader worker raises the error, torch puts the worker's traceback before it."""
        message = super().__str__()
        return message.splitlines()[-1].partition(": ")[2] if "\nOriginal Traceback" in message else message


class ConfigError(UserError):
    """A config with a wrong key or value, or one that cannot be read."""


def similar_names(name: str, known: Iterable[str]) -> list[str]:
    """At most two known names that are similar."""
    return difflib.get_close_matches(str(name), [str(k) for k in known], n=2)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error message that suggests similar names: "; did you mean 'batch_size'?", or "" if none is similar."""
    close = similar_names(name, known)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
