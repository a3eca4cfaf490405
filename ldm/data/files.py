"""Files of data sets whose names are in any Unicode form."""

from __future__ import annotations

import unicodedata
from pathlib import Path

FORMS = ("NFC", "NFD")


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
