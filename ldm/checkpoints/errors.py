"""The error that every reader of checkpoints raises."""

from __future__ import annotations

from collections.abc import Iterable

from ldm.util.errors import UserError


class CheckpointError(UserError):
    """A checkpoint that is missing, cannot be read, or does not fit the model."""


def list_names(names: Iterable[str]) -> str:
    """The first three names and how many there are."""
    names = list(names)
    return ", ".join(names[:3]) + (f", ... ({len(names)} in all)" if len(names) > 3 else "")
