"""JSON files with errors that say where a file is malformed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ldm.graph.validation import GraphError, shorten
from ldm.util import files
from ldm.util.files import atomic_write


def read_json(path: str | os.PathLike) -> Any:
    """The parsed content of a JSON file (see `ldm.util.files.read_json`).

    Raises:
        GraphError: the file cannot be read, is not UTF-8 or JSON, or has the same key twice in one object.
    """
    return files.read_json(path, GraphError, if_broken="correct it there", object_pairs_hook=_unique_keys)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a UTF-8 file atomically.

    Raises:
        GraphError: the file cannot be written; an existing file is unchanged.
    """
    try:
        with atomic_write(Path(path)) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise GraphError(f"{path}: cannot be written ({error.strerror}); check the folder and the disk space") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict:
    """An `object_pairs_hook` that rejects duplicate keys, of which json would keep the last."""
    data = {}
    for key, value in pairs:
        if key in data:
            raise GraphError(f"the key {shorten(key)} occurs twice in one object; keep one of them")
        data[key] = value
    return data
