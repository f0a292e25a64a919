"""A handle to the state database: connections of threads and processes, reading, and transactions.

One code path for both engines: statements are SQLAlchemy's, of the tables in `tables.py`, and transactions are begun
and ended in words. How a connection is made, and what its errors mean, is in `sqlite.py` and `postgres.py`.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar, cast

import sqlalchemy
from sqlalchemy import select

from expirytrack_dagster.errors import DatabaseCorrupt, ExpiryTrackError, StateLost
from expirytrack_dagster.state.tables import server_time
from expirytrack_dagster.state_address import StateAddress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from sqlalchemy import Connection, Executable

    from expirytrack_dagster.settings import Settings

T = TypeVar("T")

_NOW = select(server_time())


class _Engine(Protocol):
    begin_reading: str

    def connect(self) -> Connection: ...
    def is_current(self, connection: Connection) -> bool: ...
    def begin(self, connection: Connection, *, alone: bool) -> None: ...
    def in_transaction(self, connection: Connection) -> bool: ...
    def commit(self, connection: Connection) -> None: ...
    def was_committed(self) -> bool: ...
    def is_broken(self, error: Exception) -> bool: ...
    def typed(self, error: Exception) -> ExpiryTrackError | None: ...


def open_state(settings: Settings, *, timeout: float = 30.0) -> StateDatabase:
    """Return the state database that the settings name: the one way in which the program opens it."""
    return StateDatabase(settings.state_address, timeout=timeout)


class StateDatabase:
    """A handle to the state database that threads may share; pickling and forking are safe too.

    Each thread gets a connection of its own when it first asks for one, and a forked process never touches those of
    its parent. `close()` closes the connections of all threads of this process.

    Args:
        address: Where it is; a path is that of a SQLite file. File, folder and tables are made at first use.
        timeout: Seconds to wait for another process's transaction before `StateLocked` is raised, and for a server
            that does not answer before `StateUnreachable` is.
    """

    def __init__(self, address: StateAddress | Path, *, timeout: float = 30.0) -> None:
        """Remember the address; nothing is opened yet."""
        self.address = StateAddress.of_file(address) if isinstance(address, Path) else address
        self.timeout = timeout
        self._opened: list[tuple[int, Connection]] = []
        self._local = threading.local()
        self._engine = _engine_of(self.address, timeout)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the address alone: connections belong to a process."""
        return _reopen, (self.address, self.timeout)

    def __enter__(self) -> Self:
        """Return the handle itself."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close every connection of this process."""
        self.close()

    def __del__(self) -> None:
        """Close what a handle that is dropped has opened; from Python 3.13 on, sqlite3 warns of what is left open."""
        if hasattr(self, "_opened"):
            self.close()

    @property
    def has_clock(self) -> bool:
        """Whether the database has a clock of its own, which all hosts share."""
        return self.address.kind != "sqlite"

    def patient(self, timeout: float) -> StateDatabase:
        """Return another handle to the same database, which waits for so many seconds."""
        return StateDatabase(self.address, timeout=timeout)

    @contextmanager
    def transaction(self, *, alone: bool = True) -> Iterator[Connection]:
        """Yield a connection inside a transaction: committed at the block's end, rolled back on any exception.

        Prefer `write` where the work is a function: it can be done again when a server restarts in the middle.

        Args:
            alone: No other transaction that is alone is open at the same time, whatever the engine, so that what is
                read stays true until the end. Without it, in PostgreSQL the block locks the rows that it depends on
                (`with_for_update`); a file has one lock for all.

        Raises:
            StateLocked: another process held the lock for longer than `timeout`.
            StateUnreachable: no server answered for as long.
            StateLost: the connection broke in the middle; nothing was kept.
            DatabaseCorrupt: damage came to light in the middle of the block; the file has been replaced, try again.
            DiskFull: there is no room for the change.
            SchemaTooNew: a newer version of ExpiryTrack wrote the database.
            StorageError: the database cannot be opened or written.
        """
        connection = self._begun(alone=alone)
        try:
            with self._typed_errors():
                yield connection
            self._commit(connection)
        except BaseException:
            self._roll_back(connection)
            raise

    def write(self, work: Callable[[Connection], T], *, alone: bool = True) -> T:
        """Do the work in one transaction and return what it returns; raises like `transaction`.

        If the connection breaks in the middle, nothing was kept, and the work is done again as a whole, as long as the
        server comes back within the timeout.
        """
        deadline = time.monotonic() + self.timeout
        while True:
            try:
                with self.transaction(alone=alone) as connection:
                    return work(connection)
            except StateLost:
                if time.monotonic() >= deadline:
                    raise

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Yield a connection that sees one moment of the database for the length of the block, and does not write.

        Others go on writing; raises like `transaction`.
        """
        with self._typed_errors():
            connection = self._connection()
            connection.exec_driver_sql(self._engine.begin_reading)
        try:
            with self._typed_errors():
                yield connection
        finally:
            self._roll_back(connection)

    def query(self, statement: Executable, parameters: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """Return all rows of a SELECT, read without a lock; raises like `transaction`.

        Inside a transaction of this thread it is part of that, and what breaks it is raised at once: what another
        connection would say is not what the transaction sees.
        """
        if self._is_inside():
            return self._fetch(statement, parameters)
        deadline = time.monotonic() + self.timeout
        while True:
            try:
                return self._fetch(statement, parameters)
            except DatabaseCorrupt:  # replaced by now
                return self._fetch(statement, parameters)
            except StateLost:
                if time.monotonic() >= deadline:
                    raise

    def now(self, local: float | None = None) -> float:
        """Return the time (seconds since the epoch) that all processes share: the server's where there is one.

        Args:
            local: this machine's, if the caller has a clock of its own.
        """
        if not self.has_clock:
            return time.time() if local is None else local
        return float(self.query(_NOW)[0][0])

    def close(self) -> None:
        """Close this process's connections; the handle may be used again and then opens new ones."""
        for pid, connection in self._opened:
            if pid == os.getpid():
                _end(connection)
        self._opened = [entry for entry in self._opened if entry[0] != os.getpid()]
        self._local = threading.local()

    def _begun(self, *, alone: bool) -> Connection:
        deadline = time.monotonic() + self.timeout
        while True:
            try:
                return self._start(alone=alone)
            except DatabaseCorrupt:  # replaced by now
                return self._start(alone=alone)
            except StateLost:  # the server was restarted since the last use: nothing was done yet
                if time.monotonic() >= deadline:
                    raise

    def _start(self, *, alone: bool) -> Connection:
        with self._typed_errors():
            connection = self._connection()
            try:
                self._engine.begin(connection, alone=alone)
            except BaseException:  # a transaction may have begun, and waited in vain
                self._roll_back(connection)
                raise
            return connection

    def _commit(self, connection: Connection) -> None:
        try:
            with self._typed_errors():
                self._engine.commit(connection)
        except StateLost:
            if not self._engine.was_committed():
                raise

    def _roll_back(self, connection: Connection) -> None:
        if self._engine.in_transaction(connection):
            try:
                connection.exec_driver_sql("ROLLBACK")
            except sqlalchemy.exc.DBAPIError:  # what broke the connection is under way to the caller
                self._leave()

    def _fetch(self, statement: Executable, parameters: Mapping[str, Any] | None) -> list[tuple[Any, ...]]:
        with self._typed_errors():
            return [tuple(row) for row in self._connection().execute(statement, parameters)]

    def _is_inside(self) -> bool:
        """Say whether this thread has a transaction open."""
        pid, connection = getattr(self._local, "entry", (None, None))
        return connection is not None and pid == os.getpid() and self._engine.in_transaction(connection)

    def _connection(self) -> Connection:
        pid, connection = getattr(self._local, "entry", (None, None))
        if connection is not None and pid == os.getpid():
            if self._engine.in_transaction(connection) or self._engine.is_current(connection):
                return cast("Connection", connection)
            self._leave()
        connection = self._engine.connect()
        self._local.entry = (os.getpid(), connection)
        # Kept alive even when inherited by a fork: closing it there would disturb the parent's locks.
        self._opened.append(self._local.entry)
        return connection

    def _leave(self) -> None:
        """Close this thread's connection."""
        if (entry := getattr(self._local, "entry", None)) is not None:
            del self._local.entry
            self._opened.remove(entry)
            _end(entry[1])

    @contextmanager
    def _typed_errors(self) -> Iterator[None]:
        try:
            yield
        except ExpiryTrackError:
            raise
        except Exception as error:
            if self._engine.is_broken(error):
                self._leave()
            typed = self._engine.typed(error)
            if typed is None:
                raise
            raise typed from error


def _end(connection: Connection) -> None:
    """Close a connection without another word to its database, which may be gone, or already collected as garbage."""
    if not connection.closed:
        connection.invalidate()
        connection.close()


def _engine_of(address: StateAddress, timeout: float) -> _Engine:
    """Return the engine; that of the other kind is not even imported."""
    if address.kind == "sqlite":
        from expirytrack_dagster.state.sqlite import SqliteFile  # noqa: PLC0415 -- see above

        return SqliteFile(address.path, timeout)
    from expirytrack_dagster.state.postgres import PostgresDatabase  # noqa: PLC0415 -- see above

    return PostgresDatabase(address.place, timeout)


def _reopen(address: StateAddress, timeout: float) -> StateDatabase:
    return StateDatabase(address, timeout=timeout)
