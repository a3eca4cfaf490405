"""Files that are written whole or not at all, text files, checksums, and folders that can be written to."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ldm.util.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

HOST = re.sub(r"\W", "", socket.gethostname())[:20]
LEFTOVER = re.compile(r"\.[0-9a-f]{12}\.(?P<host>\w*)-(?P<process>\d+)\.part(\.\w+)?")
ABANDONED_AFTER = 24 * 3600  # seconds after which a temporary file of another host is taken to be abandoned


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Gives the path of a temporary file beside `path`; when the block ends, it is synced to disk and renamed to `path`.

    After an error or a kill, `path` is as it was. The temporary file keeps the suffix of `path`, since libraries choose a
    format by it, and is named after the host and the process, so that several processes may write one file. The folder is
    made.

        with atomic_write("picture.png") as temporary:
            image.save(temporary)
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(os.fsencode(path.name)).hexdigest()[
        :12
    ]  # as long a name as the file system takes may be given
    temporary = path.with_name(f".{name}.{HOST}-{os.getpid()}.part{path.suffix[:20]}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink()


def remove_leftovers(folder: str | Path) -> None:
    """Removes temporary files of `atomic_write` that killed processes left in a folder and its subfolders."""
    for file in Path(folder).rglob(".*.part*"):
        if (match := LEFTOVER.fullmatch(file.name)) and not _is_in_use(file, match["host"], int(match["process"])):
            with suppress(OSError):
                file.unlink()


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Makes a folder, and lets one process at a time write a set of files that belong together into it."""
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def read_text(path: str | Path) -> str:
    """The content of a UTF-8 text file, with or without byte order mark, whatever the locale.

    Raises:
        UserError: the file cannot be read, or is not UTF-8.
    """
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8 text") from None
    except (OSError, ValueError) as error:  # ValueError: a path that no file can have
        raise UserError(f"{path!s}: cannot be read ({getattr(error, 'strerror', error)})") from None


def read_json(
    path: str | os.PathLike,
    error: type[UserError] = UserError,
    remedy: str = "check the path",
    if_broken: str = "download it again",
    **hooks: Callable[[Any], Any] | None,
) -> Any:
    """The parsed content of a UTF-8 JSON file, with or without byte order mark.

    Args:
        error: class of the exceptions.
        remedy: what to do when the file cannot be read.
        if_broken: what to do when it is not JSON.
        hooks: object_hook or object_pairs_hook, see `json.loads`; a UserError of theirs gets the path before it.

    Raises:
        UserError: of class `error`; the file cannot be read, or is not UTF-8 or JSON.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as reason:
        raise error(f"{path}: byte {reason.start} is not UTF-8; save the file as UTF-8 text") from None
    except (OSError, ValueError, TypeError) as reason:  # a path that no file can have, or none at all
        raise error(f"{path}: cannot be read ({getattr(reason, 'strerror', None) or reason}); {remedy}") from None
    try:
        return json.loads(text, **hooks)
    except json.JSONDecodeError as reason:
        place = f"{path}: line {reason.lineno}, column {reason.colno}"
        if reason.msg == "Extra data":
            raise error(f"{place}: content after the end; remove it, or put everything into one list") from None
        raise error(f"{place}: invalid JSON ({reason.msg}); {if_broken}") from None
    except RecursionError:
        raise error(f"{path}: lists are nested too deeply; {if_broken}") from None
    except UserError as reason:
        raise error(f"{path}: {reason}") from None
    except ValueError:
        raise error(f"{path}: an integer has more than 4300 digits; {if_broken}") from None


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
    try:
        path = Path(folder).absolute()
        with suppress(FileNotFoundError, NotADirectoryError):
            os.lstat(path)  # raises for a name that no file can have
        existing = next(place for place in (path, *path.parents) if os.path.lexists(place))
        if not existing.is_dir():
            raise NotADirectoryError(20, f"{existing} is not a folder")
        with tempfile.TemporaryFile(dir=existing):
            return Path(folder)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{option} {folder}: cannot be written to ({reason}); name another folder") from None


def _is_in_use(file: Path, host: str, process: int) -> bool:
    if host != HOST:
        with suppress(OSError):
            return time.time() - file.stat().st_mtime < ABANDONED_AFTER
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # a process of another user
        return True
    return True
