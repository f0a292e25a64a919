"""An archive written anew under another key, or under none, and put in the old one's place when it is proved equal.

Until the last step, which is one renaming, the old file is untouched: a process that is killed leaves it as it was, and
a file `*.converting` that the next conversion removes. The old file's blocks may stay on the medium until something is
written over them. Which key is the right one belongs to `encryption.py`; opening for work to `connection.py`.
"""

from __future__ import annotations

import os
import shutil
import threading
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import duckdb

from expirytrack_dagster.errors import DiskFull, StorageError
from expirytrack_dagster.security.private_files import sync_folder
from expirytrack_dagster.warehouse.encryption import attach, connect
from expirytrack_dagster.warehouse.faults import storage_error, translated
from expirytrack_dagster.warehouse.spilling import spilling_safely
from expirytrack_dagster.warehouse.sums import sums_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from expirytrack_dagster.warehouse.connection import Warehouse

# One thread packs the rows of a contract closest, as when they were loaded; what does not fit in memory is spilled.
_MODEST: dict[str, str | int] = {"threads": 1, "memory_limit": "512MB"}

_ROOM = 1.2
"""Room that the copy may need, as a multiple of the old file; that of rows which were deleted is not copied."""


def convert(
    archive: Warehouse, key: bytes | None, progress: Callable[[int, int], None] = lambda _done, _all: None
) -> None:
    """Encrypt the archive with this key, or make it plain if None; others wait meanwhile.

    Args:
        archive: the archive, opened with the key that it has now; its schema is brought up to date first.
        key: 32 bytes; None for a plain file.
        progress: told how many MB are written, and about how many there will be.

    Raises:
        DiskFull: there is no room for a second file; nothing was begun.
        DatabaseLocked: another program has it open.
        StorageError: the copy is not equal to the archive, or cannot be written; the archive is as it was.
    """
    new = archive.database.with_name(f"{archive.database.name}.converting")
    with archive.alone():
        with archive.writing():
            pass  # the schema is brought up to date, and closing it empties the write-ahead log
        _require_room(archive.database)
        try:
            _remove(new)
            with translated(archive.database), _watched(new, archive.database.stat().st_size, progress):
                _copy(archive, new, key)
                _require_equal(archive, new, key)
            _put_in_place(new, archive.database)
        except OSError as error:
            raise storage_error(error, archive.database) from error
        finally:
            _remove(new)


def _copy(archive: Warehouse, new: Path, key: bytes | None) -> None:
    with closing(duckdb.connect(":memory:", config={**spilling_safely(archive.database), **_MODEST})) as connection:
        attach(connection, archive.database, archive.key, name="old", read_only=True)
        attach(connection, new, key, name="new", read_only=False)
        connection.execute("COPY FROM DATABASE old TO new")


def _require_equal(archive: Warehouse, new: Path, key: bytes | None) -> None:
    """Prove, from the files as they are opened anew, that both have the same tables, and each the same rows."""
    sums = []
    for database, opener in ((archive.database, archive.key), (new, key)):
        with closing(connect(database, opener, read_only=True, config=_MODEST)) as connection:
            sums.append(sums_of(connection))
    before, after = sums
    for table in before | after:
        if before.get(table) != after.get(table):
            raise StorageError(f"The copy of {archive.database} differs in {table}: nothing was changed, try again.")


def _put_in_place(new: Path, database: Path) -> None:
    shutil.copymode(database, new)
    with new.open("rb+") as file:
        os.fsync(file.fileno())
    if _log(database).exists() or _log(new).exists():
        raise StorageError(f"Another program has written {database} meanwhile: nothing was changed, try again.")
    new.replace(database)
    sync_folder(database.parent)


def _require_room(database: Path) -> None:
    needed = int(database.stat().st_size * _ROOM)
    free = shutil.disk_usage(database.parent).free
    if free < needed:
        raise DiskFull(
            f"A second file is written beside {database}, which needs {needed / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB "
            "are free: make room and try again; nothing was changed."
        )


@contextmanager
def _watched(new: Path, expected: int, progress: Callable[[int, int], None]) -> Iterator[None]:
    """Tell how large the growing file is, twice a second: DuckDB says nothing while it copies a database."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.5):
            size = new.stat().st_size if new.exists() else 0
            progress(min(size, expected) // 10**6, max(1, expected // 10**6))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _remove(new: Path) -> None:
    for leftover in (new, _log(new)):
        leftover.unlink(missing_ok=True)


def _log(database: Path) -> Path:
    return database.with_name(f"{database.name}.wal")
