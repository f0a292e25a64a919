"""The state database: one SQLite file that every process of an account shares.

Opening, transactions, numbered migrations (`state_migrations/NNNN_name.sql`) and the translation of SQLite's errors
belong here. What the tables mean belongs to the modules that use them, such as `upstox/ledger.py`; market data belongs
in DuckDB. WAL mode needs a local disk: SQLite's locks cannot be trusted on a network drive.

A damaged file is set aside and replaced (`state_rescue.py`), with a warning in the log. Every process notices at its
next call, because the file that it has open is no longer the one at the path.
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from filelock import FileLock, Timeout

from expirytrack_dagster import state_rescue
from expirytrack_dagster.errors import (
    DatabaseCorrupt,
    DiskFull,
    ExpiryTrackError,
    SchemaTooNew,
    StateLocked,
    StorageError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

_MIGRATIONS = Path(__file__).with_name("state_migrations")
_LOG = logging.getLogger(__name__)
_PRIMARY_CODE = 0xFF  # SQLite's extended result codes carry the primary one in their low byte

_CACHE = 64 << 20  # bytes at most, a connection
_MAPPED = 256 << 20  # bytes of the file that are read through the system's cache; the file is a few megabytes

_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class StateDatabase:
    """A handle to the state database that threads may share; pickling and forking are safe too.

    Each thread gets a connection of its own when it first asks for one, and a forked process never touches those of
    its parent. `close()` closes the connections of all threads of this process.

    Args:
        path: The file; it and its folder are created at first use.
        timeout: Seconds to wait for another process's transaction before `StateLocked` is raised.
    """

    def __init__(self, path: Path, *, timeout: float = 30.0) -> None:
        """Remember the path; nothing is opened yet."""
        self.path = path
        self.timeout = timeout
        self._local = threading.local()
        self._opened: list[tuple[int, sqlite3.Connection]] = []

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the path alone: connections belong to a process."""
        return _reopen, (self.path, self.timeout)

    def __enter__(self) -> Self:
        """Return the handle itself."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close every connection of this process."""
        self.close()

    def __del__(self) -> None:
        """Close what a handle that is dropped has opened; from Python 3.13 on, sqlite3 warns of what is left open."""
        self.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Hold the write lock for the block: committed at its end, rolled back on any exception.

        Raises:
            StateLocked: another process held the lock for longer than `timeout`.
            DatabaseCorrupt: damage came to light in the middle of the block; the file has been replaced, try again.
            DiskFull: there is no room for the change.
            SchemaTooNew: a newer version of ExpiryTrack wrote the file.
            StorageError: the file cannot be opened or written.
        """
        self._begin()
        with self._typed_errors():
            connection = self._connection()
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def query(self, sql: str, parameters: tuple[Any, ...] | dict[str, Any] = ()) -> list[tuple[Any, ...]]:
        """Return all rows of a SELECT, read without the write lock; raises like `transaction`."""
        try:
            return self._fetch(sql, parameters)
        except DatabaseCorrupt:  # replaced by now
            return self._fetch(sql, parameters)

    def close(self) -> None:
        """Close this process's connections; the handle may be used again and then opens new ones."""
        for pid, connection in self._opened:
            if pid == os.getpid():
                connection.close()
        self._opened = [entry for entry in self._opened if entry[0] != os.getpid()]
        self._local = threading.local()

    def _begin(self) -> None:
        try:
            self._start_transaction()
        except DatabaseCorrupt:  # replaced by now
            self._start_transaction()

    def _start_transaction(self) -> None:
        with self._typed_errors():
            self._connection().execute("BEGIN IMMEDIATE")

    def _fetch(self, sql: str, parameters: tuple[Any, ...] | dict[str, Any]) -> list[tuple[Any, ...]]:
        with self._typed_errors():
            return self._connection().execute(sql, parameters).fetchall()

    def _connection(self) -> sqlite3.Connection:
        pid, connection = getattr(self._local, "entry", (None, None))
        if connection is not None and pid == os.getpid():
            if connection.in_transaction or self._file() == self._local.file:
                return cast("sqlite3.Connection", connection)
            self._leave()
        connection = self._open()
        self._local.entry = (os.getpid(), connection)
        # Kept alive even when inherited by a fork: closing it there would disturb the parent's locks.
        self._opened.append(self._local.entry)
        return connection

    def _leave(self) -> None:
        """Close this thread's connection."""
        if (entry := getattr(self._local, "entry", None)) is not None:
            del self._local.entry
            self._opened.remove(entry)
            entry[1].close()

    def _file(self) -> tuple[int, int] | None:
        """Return what tells the file at the path from the one that was there before."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def _open(self) -> sqlite3.Connection:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # check_same_thread is off only so that close() may end the connections of other threads.
            connection = sqlite3.connect(self.path, timeout=self.timeout, isolation_level=None, check_same_thread=False)
            self._local.file = self._file()
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
            raise StorageError(f"{self.path} cannot be opened: {error.strerror or error}.") from error
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute(f"PRAGMA cache_size = {-_CACHE // 1024}")  # negative: kibibytes
        connection.execute(f"PRAGMA mmap_size = {_MAPPED}")
        connection.execute("PRAGMA foreign_keys = ON")
        if not self._is_ready(connection):
            # Switching to WAL does not honour the busy timeout, so first use is serialised by a lock file.
            with self._alone():
                self._make(connection)

    def _alone(self) -> FileLock:
        return FileLock(f"{self.path}.lock", timeout=self.timeout)

    def _is_ready(self, connection: sqlite3.Connection) -> bool:
        mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
        return bool(mode == "wal") and _version(connection) == len(_scripts())

    def _make(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        self._migrate(connection)

    def _migrate(self, connection: sqlite3.Connection) -> None:
        scripts = _scripts()
        version = _version(connection)
        if version > len(scripts):
            raise SchemaTooNew(
                f"{self.path} was written by a newer version of ExpiryTrack (schema {version}, this one knows "
                f"{len(scripts)}): upgrade ExpiryTrack."
            )
        for number, script in enumerate(scripts[version:], start=version + 1):
            text = script.read_text(encoding="utf-8")
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
        damaged = self._local.file
        if hasattr(self._local, "entry"):
            self._leave()
        try:
            with self._alone():
                if self._file() != damaged:
                    return
                kept, saved = state_rescue.replace(self.path, self._make)
        except Timeout as error:
            raise self._locked() from error
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise self._full() from error
            raise DatabaseCorrupt(
                f"{self.path} is damaged and cannot be replaced ({error.strerror or error}): close all other programs "
                "that use it, and run the same command again."
            ) from error
        _LOG.warning(
            "%s was damaged: it is kept as %s and a new one was made. Tracked underlyings saved: %s. The record of "
            "requests was lost, so the next request waits until the longest rate limit's window has passed.",
            self.path,
            kept.name,
            ", ".join(saved) or "none",
        )

    @contextmanager
    def _typed_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE in _DAMAGE:
                self._replace()
            typed = self._typed(error)
            if typed is None:
                raise
            raise typed from error

    def _typed(self, error: sqlite3.Error) -> ExpiryTrackError | None:
        """Return our error for SQLite's, or None for a mistake in the SQL, which is a defect and stays as it is."""
        match getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE:
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                return self._locked()
            case code if code in _DAMAGE:
                return DatabaseCorrupt(
                    f"{self.path} was damaged ({error}) and has been replaced: run the same command again."
                )
            case sqlite3.SQLITE_FULL:
                return self._full()
            case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_IOERR | sqlite3.SQLITE_PERM | sqlite3.SQLITE_READONLY:
                return StorageError(
                    f"{self.path} cannot be opened or written ({error}): check the folder and the disk."
                )
            case _:
                return None

    def _locked(self) -> StateLocked:
        return StateLocked(f"{self.path} was held by another process for {self.timeout:g} s: try again.")

    def _full(self) -> DiskFull:
        return DiskFull(f"There is no room left for {self.path}: free some space and run the same command again.")


def _reopen(path: Path, timeout: float) -> StateDatabase:
    return StateDatabase(path, timeout=timeout)


def _scripts() -> list[Path]:
    return sorted(_MIGRATIONS.glob("[0-9][0-9][0-9][0-9]_*.sql"))


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])
