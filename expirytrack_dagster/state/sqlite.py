"""The state database as a SQLite file: opening, WAL, migrations, and what becomes of a damaged file.

WAL mode needs a local disk: SQLite's locks cannot be trusted on a network drive. A damaged file is set aside and
replaced (`rescue.py`), with a warning in the log. Every process notices at its next call, because the file that it has
open is no longer the one at the path. Who may use a connection, and transactions, belong to `database.py`.
"""

from __future__ import annotations

import errno
import logging
import sqlite3
import threading
from typing import TYPE_CHECKING, cast

from filelock import FileLock, Timeout
from sqlalchemy import create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from expirytrack_dagster.errors import (
    DatabaseCorrupt,
    DiskFull,
    ExpiryTrackError,
    SchemaTooNew,
    StateLocked,
    StorageError,
)
from expirytrack_dagster.state import rescue, schema

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Connection

_LOG = logging.getLogger(__name__)
_PRIMARY_CODE = 0xFF  # SQLite's extended result codes carry the primary one in their low byte
_CACHE = 64 << 20  # bytes at most, a connection
_MAPPED = 256 << 20  # bytes of the file that are read through the system's cache; the file is a few megabytes
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class SqliteFile:
    """How connections to one file are made, told from those to its predecessor, and what their errors mean."""

    begin_reading = "BEGIN DEFERRED"

    def __init__(self, path: Path, timeout: float) -> None:
        """Remember the path; nothing is opened yet."""
        self._path = path
        self._timeout = timeout
        self._engine = create_engine("sqlite://", creator=self._connect, poolclass=NullPool)
        self._opened = threading.local()  # which file this thread has open

    def connect(self) -> Connection:
        """Return a new connection to a database whose tables are there."""
        return self._engine.connect()

    def is_current(self, connection: Connection) -> bool:
        """Say whether the connection leads to the file that is at the path now."""
        del connection
        return bool(self._file() == self._opened.file)

    def begin(self, connection: Connection, *, alone: bool) -> None:
        """Take the write lock, which all transactions of a file share."""
        del alone
        _driver(connection).execute("BEGIN IMMEDIATE")

    def in_transaction(self, connection: Connection) -> bool:
        """Say whether a transaction is open."""
        if connection.closed:
            return False
        return _driver(connection).in_transaction

    def commit(self, connection: Connection) -> None:
        """Keep what the transaction wrote."""
        _driver(connection).execute("COMMIT")

    def was_committed(self) -> bool:
        """Say what became of a transaction whose end was lost with its connection: a file has no such thing."""
        return False

    def is_broken(self, error: Exception) -> bool:
        """Say whether the connection is of no use after this error: its file is damaged."""
        return _code(error) in _DAMAGE

    def typed(self, error: Exception) -> ExpiryTrackError | None:
        """Return our error for SQLite's, or None for a mistake in the SQL, which is a defect and stays as it is.

        A damaged file is replaced first.
        """
        cause = error.orig if isinstance(error, DBAPIError) else error
        match _code(error):
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                return self._locked()
            case code if code in _DAMAGE:
                self._replace()
                return DatabaseCorrupt(
                    f"{self._path} was damaged ({cause}) and has been replaced: run the same command again."
                )
            case sqlite3.SQLITE_FULL:
                return self._full()
            case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_IOERR | sqlite3.SQLITE_PERM | sqlite3.SQLITE_READONLY:
                return StorageError(
                    f"{self._path} cannot be opened or written ({cause}): check the folder and the disk."
                )
            case _:
                return None

    def _file(self) -> tuple[int, int] | None:
        """Return what tells the file at the path from the one that was there before."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def _connect(self) -> sqlite3.Connection:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # check_same_thread is off only so that a handle may end the connections of other threads.
            connection = sqlite3.connect(
                self._path, timeout=self._timeout, isolation_level=None, check_same_thread=False
            )
            self._opened.file = self._file()
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
        except Timeout as error:
            raise self._locked() from error
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise self._full() from error
            raise StorageError(f"{self._path} cannot be opened: {error.strerror or error}.") from error
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute(f"PRAGMA cache_size = {-_CACHE // 1024}")  # negative: kibibytes
        connection.execute(f"PRAGMA mmap_size = {_MAPPED}")
        connection.execute("PRAGMA foreign_keys = ON")
        if not _is_ready(connection):
            # Switching to WAL does not honour the busy timeout, so first use is serialised by a lock file.
            with self._alone():
                self._make(connection)

    def _alone(self) -> FileLock:
        return FileLock(f"{self._path}.lock", timeout=self._timeout)

    def _make(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        files, version = schema.scripts(), _version(connection)
        if version > len(files):
            raise SchemaTooNew(
                f"{self._path} was written by a newer version of ExpiryTrack (schema {version}, this one knows "
                f"{len(files)}): upgrade ExpiryTrack."
            )
        for number, script in enumerate(files[version:], start=version + 1):
            text = schema.for_sqlite(script)
            try:
                connection.executescript(f"BEGIN IMMEDIATE;\n{text}\nPRAGMA user_version = {number};\nCOMMIT;")
            except sqlite3.Error:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def _replace(self) -> None:
        """Set the damaged file aside and make a new one with what can be saved, unless another process just did.

        Raises:
            DatabaseCorrupt: the file cannot be replaced.
        """
        damaged = self._opened.file
        try:
            with self._alone():
                if self._file() != damaged:
                    return
                kept, saved = rescue.replace(self._path, self._make)
        except Timeout as error:
            raise self._locked() from error
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise self._full() from error
            raise DatabaseCorrupt(
                f"{self._path} is damaged and cannot be replaced ({error.strerror or error}): close all other programs "
                "that use it, and run the same command again."
            ) from error
        _LOG.warning(
            "%s was damaged: it is kept as %s and a new one was made. Tracked underlyings saved: %s. The record of "
            "requests was lost, so the next request waits until the longest rate limit's window has passed.",
            self._path,
            kept.name,
            ", ".join(saved) or "none",
        )

    def _locked(self) -> StateLocked:
        return StateLocked(f"{self._path} was held by another process for {self._timeout:g} s: try again.")

    def _full(self) -> DiskFull:
        return DiskFull(f"There is no room left for {self._path}: free some space and run the same command again.")


def _driver(connection: Connection) -> sqlite3.Connection:
    """Return the driver's own connection, which begins and ends a transaction in a third of SQLAlchemy's time."""
    return cast("sqlite3.Connection", connection.connection.driver_connection)


def _code(error: Exception) -> int:
    """Return SQLite's primary result code, 0 for what is no error of SQLite."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return int(getattr(cause, "sqlite_errorcode", 0)) & _PRIMARY_CODE


def _is_ready(connection: sqlite3.Connection) -> bool:
    mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
    return bool(mode == "wal") and _version(connection) == len(schema.scripts())


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])
