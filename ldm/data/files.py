"""Files of data sets: JSON annotations of any encoding that the format allows, and images whose names are in any Unicode form."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ldm.util.errors import UserError

FORMS = ("NFC", "NFD")


def read_json(path: Path, error: type[UserError], remedy: str, object_hook: Callable[[dict], Any] | None = None) -> Any:
    """Reads a UTF-8 JSON file, with or without byte order mark.

    Args:
        error: class of the exceptions.
        remedy: what to do when the file is missing.
        object_hook: see `json.loads`.

    Raises:
        UserError: of class `error`; the file is missing, or not JSON.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as reason:
        raise error(f"{path} cannot be read ({reason.strerror}); {remedy}") from None
    except ValueError as reason:  # not UTF-8, or a path that no file can have
        raise error(f"{path} is broken ({reason}); download it again") from None
    try:
        return json.loads(text, object_hook=object_hook)
    except (ValueError, RecursionError) as reason:
        raise error(f"{path} is broken ({reason}); download it again") from None


def find_file(folder: Path, name: str) -> Path:
    """The path of a file whose name on disk may be in another Unicode form than `name`, as macOS writes and Linux keeps it.

    Args:
        folder: that `name` is relative to.
        name: may contain folders; each part is looked up by itself.

    Returns:
        `folder / name` if no form of the name exists.
    """
    path = folder / name
    if name.isascii() or _exists(path):
        return path
    found = folder
    for part in Path(name).parts:
        options = [found / part, *(found / unicodedata.normalize(form, part) for form in FORMS)]
        found = next(filter(_exists, options), options[0])
    return found if _exists(found) else path


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no file can have
        return False
