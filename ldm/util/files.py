"""Files and folders that are written whole or not at all."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ldm.util.errors import UserError


def writable_folder(folder: str | Path, option: str) -> Path:
    """The folder, if it is one or can be made. To be asked before the work, not after it. Raises UserError."""
    path = Path(folder).absolute()
    try:
        with tempfile.TemporaryFile(dir=next(place for place in (path, *path.parents) if place.exists())):
            return Path(folder)
    except OSError as error:
        raise UserError(f"{option} {folder}: cannot be written to ({error.strerror}); name another folder") from error
