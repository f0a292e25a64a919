"""How the archive is opened: one way to connect, one lock around it, open only for the moment of a read or a write.

DuckDB lets one process write or several read, never both, and a handle that is merely open counts. So every use passes
a lock file, which serialises processes and threads of this program; programs that do not know that lock (DuckDB's own
shell, a notebook) are waited for with jittered retries. Never hold a connection while asking the API. What is written
belongs in `cells.py`, what is asked in `reader.py`, the tables in `migrations/`.
"""

from __future__ import annotations

import os
import shutil
import time
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

import duckdb
import psutil
from filelock import FileLock, Timeout
from tenacity import (
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_after_delay,
    stop_all,
    stop_before_delay,
    wait_random,
    wait_random_exponential,
)

from expirytrack_dagster.address import FILE_KINDS, standard
from expirytrack_dagster.errors import ConfigurationError, DatabaseUnreachable, StorageError
from expirytrack_dagster.warehouse.data_path import data_path
from expirytrack_dagster.warehouse.encryption import archive_key
from expirytrack_dagster.warehouse.faults import is_locked, locked, overtaken, storage_error, translated
from expirytrack_dagster.warehouse.schema import CURRENT_SNAPSHOT
from expirytrack_dagster.warehouse.stores import Commit, DuckDBFile, Store, store_of
from expirytrack_dagster.warehouse.transfer import copy_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime

    from expirytrack_dagster.settings import Settings

T = TypeVar("T")

ALL = Commit("archive")
"""What a transaction is about of which nothing is known."""

_ATTEMPTS = 5  # at least, however long each takes

# DuckDB's own default is four fifths of the machine, which it fills with blocks that it has read. What a query needs
# beyond this is spilled to disk. A transaction that replaces rows cannot spill all that it holds, so for writing the
# limit is the guide's, or DuckDB's own where the machine is smaller (docs/decisions/0083-settings-of-the-engines.md).
_THREADS = min(4, os.cpu_count() or 1)
_READING: dict[str, str | int] = {"memory_limit": "256MB", "threads": _THREADS}
_WRITING: dict[str, str | int] = {
    "memory_limit": f"{min(4_000, psutil.virtual_memory().total * 0.8 / 1e6):.0f}MB",
    "threads": _THREADS,
}

_CONFINED = (
    "SET python_enable_replacements = false",
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)


class Warehouse:
    """The archive; cheap to make, opens nothing until it is used.

    Safe between processes, and between threads that share it. Blocks must not be nested.
    """

    def __init__(
        self,
        store: Store | Path,
        *,
        lock_timeout: float = 60.0,
        settings: Mapping[str, str | int] = MappingProxyType({}),
        key: bytes | None = None,
        published: Path | None = None,
    ) -> None:
        """Name the store.

        Args:
            store: where it is, or the path of a DuckDB file; the file and its folder are made when first used.
            lock_timeout: seconds to wait, in all, for others who have the file open.
            settings: DuckDB's own, such as `memory_limit`.
            key: 32 bytes with which the DuckDB file is encrypted; a plain file if None.
            published: folder of the copy that readers use; `published` beside the file if None.
        """
        self.store = DuckDBFile(store, key) if isinstance(store, Path) else store
        self._published = published
        self.lock_timeout = lock_timeout
        self.settings = settings
        self.key = self.store.key
        self._lock = FileLock(f"{file}.lock") if (file := self.store.file) else None

    @property
    def database(self) -> Path:
        """The archive's file.

        Raises:
            ConfigurationError: it is a lake.
        """
        if self.store.file is None:
            raise ConfigurationError(f"The archive {self.store.place} is a lake, not one file: this is for files.")
        return self.store.file

    @property
    def published(self) -> Path:
        """The folder of the copy that readers use; raises like `database`."""
        return self._published or self.database.with_name("published")

    def exists(self) -> bool:
        """Say whether there is anything yet; nothing is made. Raises `StorageError` where a server cannot be asked."""
        with translated(self.store.place):
            return self.store.exists()

    def at(self, snapshot: int | datetime) -> Warehouse:
        """Return the archive as it was after a commit, by its number, or at a time; it can only be read.

        Raises:
            ConfigurationError: it is in one file, of which there is no past.
        """
        return Warehouse(
            self.store.at(snapshot),
            lock_timeout=self.lock_timeout,
            settings=self.settings,
            published=self._published,
        )

    def write(self, work: Callable[[duckdb.DuckDBPyConnection], T], commit: Commit = ALL) -> T:
        """Do some work in one transaction and return what it returns: all of it is stored or none of it.

        In a file it is done once. In a lake another transaction may have been first with what this one is based on, or
        a server may be away for a moment: then everything is rolled back and the work is called again from its start,
        with a connection that sees what the other has stored. So it must leave nothing behind but rows.
        Whoever cannot even connect for `lock_timeout` seconds does not begin again.

        Args:
            work: is given the connection, its schema up to date.
            commit: what the transaction is about.

        Raises:
            DatabaseLocked: others were in the way for longer than `lock_timeout`; trying again may help.
            DatabaseUnreachable: a server was away for longer than that; the same.
            EncryptionMismatch: the file is encrypted and no key was given, or the other way round.
            SchemaTooNew: a newer version of this program has written the archive.
            StorageError: also DatabaseCorrupt and DiskFull; nothing was changed.
        """
        retrying = Retrying(
            retry=retry_if_exception(lambda error: self.store.may_pass(error.__cause__ or error)),
            wait=wait_random_exponential(0.05, max=2.0),
            stop=stop_all(stop_after_attempt(_ATTEMPTS), stop_after_delay(self.lock_timeout)),
            reraise=True,
        )

        def once() -> T:
            with self.writing(commit) as connection:
                return work(connection)

        try:
            return retrying(once)
        except StorageError as error:
            reason = error.__cause__ or error
            if isinstance(error, DatabaseUnreachable) or not self.store.may_pass(reason):
                raise
            raise overtaken(self.store.place, reason) from error

    @contextmanager
    def opened(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open the archive, its schema up to date, for what is its own transaction; raises like `write`."""
        with self._connected(read_only=False) as connection:
            self.store.migrate(connection)
            yield connection

    @contextmanager
    def writing(self, commit: Commit = ALL) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open the archive for one transaction that cannot be begun anew, as a block cannot; raises like `write`."""
        with self.opened() as connection, self.store.transaction(connection, commit, self.lock_timeout):
            yield connection

    @contextmanager
    def reading(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open the archive for queries alone; one that does not exist yet is made first, with empty tables.

        Raises:
            DatabaseLocked: another program kept the file open for longer than `lock_timeout`.
            DatabaseUnreachable: a server was away for longer than that.
            EncryptionMismatch: the file is encrypted and no key was given, or the other way round.
            SchemaTooNew: a newer version of this program has written the file.
            StorageError: also DatabaseCorrupt and DiskFull.
        """
        if self.store.file is None or self.store.file.exists():
            with self._connected(read_only=True) as connection:
                if self.store.is_current(connection):
                    yield connection
                    return
        self.write(lambda _connection: None)  # which brings the schema up to date
        with self._connected(read_only=True) as connection:
            self.store.is_current(connection)
            yield connection

    def stay(self) -> duckdb.DuckDBPyConnection:
        """Open a lake for queries alone and leave it open, which keeps nobody waiting; raises like `reading`.

        Each query sees what was last committed before it; a cursor needs its own search path.
        """
        with self.reading():
            pass  # brings the schema up to date
        with translated(self.store.place):
            connection = self._connect(time.monotonic() + self.lock_timeout, read_only=True)
            self.store.is_current(connection)
            _prepare(connection)
            return connection

    @contextmanager
    def moment(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open the archive for reading, as it is at one moment for the length of the block; raises like `reading`.

        In a lake that is a snapshot by its number: a transaction would do, but where the catalogue is SQLite it sees
        empty tables once maintenance has merged files in its middle (seen with DuckLake's extension 1.5.5).
        """
        if self.store.file is None:
            with self.reading() as connection:
                (number,) = connection.execute(CURRENT_SNAPSHOT).fetchone() or (0,)
            with self.at(int(number)).reading() as connection:
                yield connection
            return
        with self.reading() as connection:
            connection.begin()
            try:
                yield connection
            finally:
                connection.rollback()

    @contextmanager
    def querying(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open the archive for queries that are not our own, of which none can change anything, or what confines it.

        DuckDB itself opens no file, network or extension and sees no variable of the program. What is attached, and
        the functions of loaded extensions, are still there: `reach.py` judges whether a query names them. Raises like
        `reading`.
        """
        with self.reading() as connection:
            connection.execute("SET allowed_directories = $1", [list(self.store.readable)])
            for statement in _CONFINED:
                connection.execute(statement)
            yield connection

    def copy_to(self, target: Path, key: bytes | None = None) -> None:
        """Copy the archive as the last transaction left it; of one in a file, others wait until that is done.

        Args:
            target: a file; of the same kind, and of a lake a DuckDB file.
            key: what the copy of a lake is encrypted with; that of a file stays what it is.

        Raises:
            DatabaseLocked: another program kept the file open for longer than `lock_timeout`.
            StorageError: also DatabaseCorrupt and DiskFull; or a program that does not know our lock wrote meanwhile.
        """
        if self.store.file is None:
            copy_all(self, Warehouse(DuckDBFile(target, key)))
            return
        with self.alone():
            with self.writing():
                pass  # makes what is not there yet, and takes in what a killed process left in the log beside the file
            before = self.database.stat()
            try:
                shutil.copyfile(self.database, target)
            except OSError as error:
                raise storage_error(error, target) from error
            after = self.database.stat()
            logs = [self.database.with_name(f"{self.database.name}{end}") for end in (".wal", "-wal", "-journal")]
            if any(log.exists() for log in logs) or (before.st_mtime_ns, before.st_size) != (
                after.st_mtime_ns,
                after.st_size,
            ):
                raise StorageError(
                    f"The database {self.database} was written by another program while it was copied: close that "
                    "program and try again."
                )

    @contextmanager
    def _connected(self, *, read_only: bool) -> Iterator[duckdb.DuckDBPyConnection]:
        deadline = time.monotonic() + self.lock_timeout
        with self.alone(), translated(self.store.place):
            opened, failed = self._connect(deadline, read_only=read_only), True
            try:
                _prepare(opened)
                yield opened
                failed = False
            finally:
                self.store.close(opened, failed=failed)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep every other use of a file waiting, in this process and others, without opening it; of a lake nobody."""
        if self._lock is None:
            yield
            return
        try:
            self.database.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock.acquire(timeout=self.lock_timeout)
        except Timeout:
            raise self._held() from None
        except OSError as error:
            raise storage_error(error, self.database) from error
        try:
            yield
        finally:
            self._lock.release()

    def _held(self) -> Exception:
        """Find out who holds our lock: whoever does has the database open too, and DuckDB names the program."""
        try:
            self._connect(time.monotonic(), read_only=False).close()
        except duckdb.Error as error:
            return locked(self.database, error) if is_locked(error) else storage_error(error, self.database)
        return locked(self.database, None)

    def _connect(self, deadline: float, *, read_only: bool) -> duckdb.DuckDBPyConnection:
        retrying = Retrying(
            retry=retry_if_exception(lambda error: is_locked(error) or self.store.may_pass(error)),
            wait=wait_random(0.02, 0.2),
            stop=stop_before_delay(max(0.0, deadline - time.monotonic())),
            reraise=True,
        )
        config = {**(_READING if read_only else _WRITING), **self.settings}
        try:
            return retrying(self.store.connect, read_only=read_only, config=config)
        except duckdb.Error as error:
            if self.store.may_pass(error):  # it was waited for, so that nobody needs to begin anew
                raise storage_error(error, self.store.place) from None
            raise


def _prepare(opened: duckdb.DuckDBPyConnection) -> None:
    # TIMESTAMPTZ is stored as an instant; the session's zone decides only how it is shown and cast.
    opened.execute("SET TimeZone = 'UTC'")
    # Drawn on standard output, where the results of commands are, when a query takes longer than two seconds.
    opened.execute("SET enable_progress_bar = false")


def open_warehouse(
    settings: Settings, *, patience: float | None = None, engine: Mapping[str, str | int] = MappingProxyType({})
) -> Warehouse:
    """Return the archive of this home as its settings describe it; raises like the vault when it is encrypted.

    Args:
        settings: whose.
        patience: seconds to wait for others who have it open; the settings' if None.
        engine: DuckDB's own settings, such as `memory_limit`.

    Raises:
        ConfigurationError: the address cannot be encrypted, or the home holds an archive of another kind.
    """
    for kind in FILE_KINDS:
        other = standard(kind, settings.home)
        if kind != settings.address.kind and other.path.exists():
            raise ConfigurationError(
                f"The home {settings.home} has the archive {other}, and all that is in it belongs to that one: set "
                f"EXPIRYTRACK_WAREHOUSE to {other}, or EXPIRYTRACK_HOME to another folder."
            )
    return Warehouse(
        store_of(settings.address, archive_key(settings), data_path(settings), settings.home / "lake"),
        lock_timeout=settings.lock_timeout if patience is None else patience,
        settings=engine,
        published=settings.published,
    )
