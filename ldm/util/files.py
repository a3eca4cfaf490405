"""Files that are written whole or not at all, checksums, and folders that can be written to."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ldm.util.errors import UserError


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Gives the path of a temporary file beside `path`; when the block ends, it is synced to disk and renamed to `path`.

    After an error or a kill, `path` is as it was. The temporary file keeps the suffix of `path`, since libraries choose a
    format by it, and has the process's id in its name, so that several processes may write one file. The folder is made.

        with atomic_write("picture.png") as temporary:
            image.save(temporary)
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def digest(content: bytes | str | Path) -> str:
    """SHA-256 in hexadecimal, 64 digits: of bytes, or of the file at a path. Raises OSError."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    sha256 = hashlib.sha256()
    with open(content, "rb") as file:
        while block := file.read(1 << 20):
            sha256.update(block)
    return sha256.hexdigest()


def writable_folder(folder: str | Path, option: str) -> Path:
    """Checks, before long work, that `folder` exists or can be made, and can be written to.

    Args:
        option: the command-line option that names the folder, for the message.

    Raises:
        UserError: the folder cannot be written to.
    """
    path = Path(folder).absolute()
    try:
        with tempfile.TemporaryFile(dir=next(place for place in (path, *path.parents) if place.exists())):
            return Path(folder)
    except OSError as error:
        raise UserError(f"{option} {folder}: cannot be written to ({error.strerror}); name another folder") from error
