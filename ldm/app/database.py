"""The SQLite file of the sessions: its tables, its transactions, and the lock of the folder that it lies in."""

from __future__ import annotations

import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ldm.util.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

VERSION = 1  # of the tables
SESSIONS_IN_USE = "another server uses these sessions; open its page, or name another folder with --sessions"
TABLES = """
CREATE TABLE sessions (
    id TEXT PRIMARY KEY, title TEXT NOT NULL, created TEXT NOT NULL, updated TEXT NOT NULL, current INTEGER
);
CREATE TABLE nodes (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    session TEXT NOT NULL REFERENCES sessions ON DELETE CASCADE,
    parent INTEGER REFERENCES nodes ON DELETE CASCADE,
    kind TEXT NOT NULL, created TEXT NOT NULL, picture TEXT, width INTEGER NOT NULL, height INTEGER NOT NULL,
    graph TEXT, draft TEXT, last_child INTEGER, job INTEGER, details TEXT NOT NULL
);
CREATE INDEX nodes_of_session ON nodes (session);
CREATE TABLE pictures (id TEXT PRIMARY KEY, width INTEGER NOT NULL, height INTEGER NOT NULL, added TEXT NOT NULL);
CREATE TABLE uses (
    node INTEGER NOT NULL REFERENCES nodes ON DELETE CASCADE, picture TEXT NOT NULL, PRIMARY KEY (node, picture)
);
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    session TEXT NOT NULL REFERENCES sessions ON DELETE CASCADE,
    node INTEGER NOT NULL, kind TEXT NOT NULL, state TEXT NOT NULL, created TEXT NOT NULL,
    request TEXT NOT NULL, nodes TEXT NOT NULL, error TEXT
);
"""


class Database:
    """One connection that the server's threads share, one at a time.

    What a transaction wrote is on disk when it ends (WAL, synchronous FULL), and it is written whole or not at all.

    Args:
        folder: where sessions.sqlite is, or will be made; only the user can read it.

    Raises:
        UserError: another server uses the folder, or the file is of a later version or damaged.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(OSError):  # a file system without permissions
            folder.chmod(0o700)
        self._folder_lock = lock_folder(folder, SESSIONS_IN_USE)
        self._lock = threading.RLock()
        path = folder / "sessions.sqlite"
        try:
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._connection.row_factory = sqlite3.Row
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
                self._connection.execute(f"PRAGMA {pragma}")
            self._make_tables(path)
        except sqlite3.DatabaseError as error:
            self._folder_lock.close()
            raise UserError(
                f"{path}: damaged, or no file of sessions ({error}); move it away, or name another folder"
            ) from None

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Everything inside is written at once when the block ends; nothing after an exception. May be nested."""
        with self._lock:
            if self._connection.in_transaction:
                yield self._connection
                return
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def close(self) -> None:
        with self._lock:
            self._connection.close()
            self._folder_lock.close()

    def _make_tables(self, path: Path) -> None:
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise UserError(f"{path}: written by a later version of the project; update it, or name another folder")
        if version == 0:
            with self.transaction() as connection:
                for statement in TABLES.split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {VERSION}")


def now(before: float = 0.0) -> str:
    """The time, some seconds before now, as the interface tells it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - before))


def read_token(folder: Path) -> str:
    """The token of a folder of sessions, made at the first call; only the user can read its file."""
    path = folder / "token"
    with suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(32))
            file.flush()
            os.fsync(file.fileno())
    token = path.read_text().strip()
    if len(token) < 32:  # killed while it was written, or shortened by hand
        path.unlink()
        return read_token(folder)
    return token


def lock_folder(folder: Path, if_in_use: str):
    """An open file that is locked until it is closed. Raises UserError, with this sentence, if another process has it."""
    file = (folder / "lock").open("a")
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise UserError(f"{folder}: {if_in_use}") from None
        except OSError:  # some network file systems have no locks
            pass
    return file
