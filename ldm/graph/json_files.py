"""JSON files with errors that say where a file is malformed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ldm.graph.validation import GraphError, shorten
from ldm.util.files import atomic_write


def read_json(path: str | os.PathLike) -> Any:
    """The parsed content of a UTF-8 JSON file, with or without a byte order mark.

    Raises:
        GraphError: the file cannot be read, is not UTF-8 or JSON, or has the same key twice in one object.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise GraphError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8 text") from None
    except (OSError, ValueError, TypeError) as error:  # a path that no file can have, or none at all
        raise GraphError(f"{path}: cannot be read ({getattr(error, 'strerror', error)}); check the path") from None
    try:
        return json.loads(text, object_pairs_hook=_unique_keys)
    except json.JSONDecodeError as error:
        place = f"{path}: line {error.lineno}, column {error.colno}"
        if error.msg == "Extra data":
            raise GraphError(f"{place}: content after the end; remove it, or put all graphs in one list") from None
        raise GraphError(f"{place}: invalid JSON ({error.msg}); correct it there") from None
    except RecursionError:
        raise GraphError(f"{path}: lists are nested too deeply; check the brackets") from None
    except GraphError as error:
        raise GraphError(f"{path}: {error}") from None
    except ValueError:
        raise GraphError(f"{path}: an integer has more than 4300 digits; remove it") from None


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
