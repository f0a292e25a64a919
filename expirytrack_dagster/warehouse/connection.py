"""How the archive is opened: one way to connect, one lock around it, open only for the moment of a read or a write.

DuckDB lets one process write or several read, never both, and a handle that is merely open counts. So every use passes
a lock file, which serialises processes and threads of this program; programs that do not know that lock (DuckDB's own
shell, a notebook) are waited for with jittered retries. Never hold a connection while asking the API. What is written
belongs in `cells.py`, what is asked in `reader.py`, the tables in `migrations/`.
"""

from __future__ import annotations

import time
from contextlib import closing, contextmanager, suppress
from types import MappingProxyType
from typing import TYPE_CHECKING

import duckdb
from filelock import FileLock, Timeout
from tenacity import Retrying, retry_if_exception, stop_before_delay, wait_random

from expirytrack_dagster.warehouse.faults import is_locked, locked, storage_error, translated
from expirytrack_dagster.warehouse.migrate import is_current, migrate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

# DuckDB's own default is four fifths of the machine, which it fills with blocks that it has read. What a query needs
# beyond this is spilled to disk. A transaction that replaces rows cannot spill all that it holds: no limit for writing.
_READING = {"memory_limit": "256MB"}


class Warehouse:
    """The DuckDB file of the archive; cheap to make, opens nothing until it is used.

    Safe between processes, and between threads that share it. Blocks must not be nested.
    """

    def __init__(
        self,
        database: Path,
        *,
        lock_timeout: float = 60.0,
        settings: Mapping[str, str | int] = MappingProxyType({}),
    ) -> None:
        """Name the file.

        Args:
            database: the DuckDB file; it and its folder are made when first used.
            lock_timeout: seconds to wait, in all, for others who have the file open.
            settings: DuckDB's own, such as `memory_limit`.
        """
        self.database = database
        self.lock_timeout = lock_timeout
        self.settings = settings
        self._lock = FileLock(database.with_suffix(".duckdb.lock"))

    @contextmanager
    def writing(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open the archive, its schema up to date, for one transaction: all of the block is stored or none of it.

        Raises:
            DatabaseLocked: another program kept the file open for longer than `lock_timeout`.
            SchemaTooNew: a newer version of this program has written the file.
            StorageError: also DatabaseCorrupt and DiskFull; nothing was changed.
        """
        with self._connected(read_only=False) as connection:
            migrate(connection, self.database)
            connection.begin()
            try:
                yield connection
                connection.commit()
            except BaseException:
                with suppress(duckdb.Error):  # a failed commit has ended the transaction already
                    connection.rollback()
                raise

    @contextmanager
    def reading(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open the archive for queries alone; one that does not exist yet is made first, with empty tables.

        Raises:
            DatabaseLocked: another program kept the file open for longer than `lock_timeout`.
            SchemaTooNew: a newer version of this program has written the file.
            StorageError: also DatabaseCorrupt and DiskFull.
        """
        if self.database.exists():
            with self._connected(read_only=True) as connection:
                if is_current(connection, self.database):
                    yield connection
                    return
        with self.writing():
            pass  # opening it for writing brings the schema up to date
        with self._connected(read_only=True) as connection:
            yield connection

    @contextmanager
    def _connected(self, *, read_only: bool) -> Iterator[duckdb.DuckDBPyConnection]:
        deadline = time.monotonic() + self.lock_timeout
        with self._alone(), translated(self.database), closing(self._connect(deadline, read_only=read_only)) as opened:
            # TIMESTAMPTZ is stored as an instant; the session's zone decides only how it is shown and cast.
            opened.execute("SET TimeZone = 'UTC'")
            # Drawn on standard output, where the results of commands are, when a query takes longer than two seconds.
            opened.execute("SET enable_progress_bar = false")
            yield opened

    @contextmanager
    def _alone(self) -> Iterator[None]:
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
            retry=retry_if_exception(is_locked),
            wait=wait_random(0.02, 0.2),
            stop=stop_before_delay(max(0.0, deadline - time.monotonic())),
            reraise=True,
        )
        config = {**(_READING if read_only else {}), **self.settings}
        return retrying(duckdb.connect, self.database, read_only=read_only, config=config)
