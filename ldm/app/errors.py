"""What can go wrong in a request: a sentence for the user, and the HTTP status that goes with it."""

from __future__ import annotations

import errno
import sqlite3

from ldm.util.errors import UserError


class RequestError(UserError):
    """A request that cannot be answered. `status` is the HTTP status."""

    status = 400


class NotFound(RequestError):
    """There is no such session, node, job or image."""

    status = 404


class NotNow(RequestError):
    """Not possible in the present state, such as undo at the root."""

    status = 409


class TooLarge(RequestError):
    """More bytes or pixels than are taken."""

    status = 413


class NotAnImage(RequestError):
    """A file of a format that is not read, or a broken one."""

    status = 415


class QueueFull(RequestError):
    """Too many jobs wait."""

    status = 429


def disk_error(error: OSError | sqlite3.Error) -> UserError:
    """What to tell when a file cannot be written or read; without its path, which is nobody's business in a browser."""
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return UserError(
        f"the sessions cannot be written or read ({reason or 'unknown reason'}); free some space, or check the folder"
    ).coded(_disk_code(error), reason=reason or "")


def bug() -> UserError:
    """What to tell of an error that is not the user's."""
    return UserError("an error in the program; the server's terminal shows it").coded("bug")


def _disk_code(error: OSError | sqlite3.Error) -> str:
    number = getattr(error, "errno", None)
    name = getattr(error, "sqlite_errorname", "")
    if number in (errno.ENOSPC, errno.EDQUOT) or name == "SQLITE_FULL":
        return "disk_full"
    if number in (errno.EROFS, errno.EACCES, errno.EPERM) or name.startswith("SQLITE_READONLY"):
        return "disk_read_only"
    return "disk"
