"""Which leaf of the tree an error becomes, from the texts of DuckDB on each system and from damaged real files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pytest

from expirytrack_dagster.errors import DatabaseCorrupt, DatabaseLocked, DiskFull, StorageError
from expirytrack_dagster.warehouse.faults import is_locked, locked, storage_error, translated

if TYPE_CHECKING:
    from expirytrack_dagster.warehouse.connection import Warehouse

FILE = Path("home") / "a.duckdb"
POSIX = (
    'IO Error: Could not set lock on file "home/a.duckdb": Conflicting lock is held in /usr/bin/python3.11 (PID 4711)'
    " by user trader. See also https://duckdb.org/docs/stable/connect/concurrency"
)
WINDOWS = (
    'IO Error: Cannot open file "home\\a.duckdb": The process cannot access the file because it is being used by '
    "another process.\n\nFile is already open in \nC:\\Program Files\\DuckDB\\duckdb.exe (PID 4711)"
)
SAME = "Connection Error: Can't open a connection to same database file with a different configuration than existing "


@pytest.mark.parametrize(
    ("text", "holder"),
    [
        pytest.param(POSIX, "held open by /usr/bin/python3.11 (PID 4711): close it", id="posix"),
        pytest.param(WINDOWS, r"held open by C:\Program Files\DuckDB\duckdb.exe (PID 4711): close it", id="windows"),
        pytest.param(SAME + "connections", "held open by another part of this same process", id="same process"),
    ],
)
def test_a_lock_names_its_holder(text: str, holder: str) -> None:
    """One sentence with the program, its PID and what to do."""
    error = duckdb.IOException(text)
    assert is_locked(error)
    found = storage_error(error, FILE)
    assert isinstance(found, DatabaseLocked)
    assert found.retryable
    assert holder in str(found)
    assert "\n" not in str(found)


def test_a_lock_file_alone_names_the_program() -> None:
    """Nobody has DuckDB open, but one of us holds the lock file."""
    assert "held open by another part of ExpiryTrack" in str(locked(FILE, None))


@pytest.mark.parametrize(
    ("error", "leaf"),
    [
        (duckdb.IOException('IO Error: Could not write file "x": No space left on device'), DiskFull),
        (OSError(28, "No space left on device"), DiskFull),
        (OSError(122, "Disk quota exceeded"), DiskFull),
        (duckdb.IOException("IO Error: There is not enough space on the disk."), DiskFull),
        (duckdb.ConstraintException("Constraint Error: duplicate key"), StorageError),
        (PermissionError(13, "Permission denied"), StorageError),
        # A cut-off Parquet file is not a damaged database.
        (duckdb.IOException('IO Error: Could not read enough bytes from file "batch-1.parquet"'), StorageError),
    ],
)
def test_other_errors_become_their_leaf(error: Exception, leaf: type[StorageError]) -> None:
    """Exactly that class: each asks something else of the user."""
    assert type(storage_error(error, FILE)) is leaf
    assert not is_locked(error)


def test_errors_that_are_not_duckdbs_pass_unchanged() -> None:
    """A fault of the caller must not be dressed up as one of the disk."""
    error = ValueError("Could not set lock on file")
    with pytest.raises(ValueError, match="Could not set lock") as caught, translated(FILE):
        raise error
    assert caught.value is error
    assert not is_locked(error)


def filled(warehouse: Warehouse) -> bytes:
    """Return the bytes of an archive with some megabytes of rows."""
    with warehouse.writing() as connection:
        connection.execute(
            "INSERT INTO main.expiries SELECT 'U' || i, DATE '2025-08-28', md5(i::TEXT), now() FROM range(30000) t(i)"
        )
    return warehouse.database.read_bytes()


def read_all(warehouse: Warehouse) -> None:
    """Touch every value of the big table."""
    with warehouse.reading() as connection:
        connection.execute("SELECT max(underlying), max(underlying_key), max(discovered_at) FROM expiries").fetchall()


@pytest.mark.parametrize("damage", ["empty", "something else", "cut off", "no header", "bits flipped"])
def test_a_damaged_file_is_named_and_left_alone(warehouse: Warehouse, damage: str) -> None:
    """Reading and writing both say so; not a byte is changed, so that it can be rescued."""
    sound = filled(warehouse)
    spoilt = {
        "empty": b"",
        "something else": b"PAR1" * 4000,
        "cut off": sound[:20000],
        "no header": b"\0" * 12288 + sound[12288:],
        "bits flipped": sound[:12288] + bytes(byte ^ 0xFF for byte in sound[12288:]),
    }[damage]
    warehouse.database.write_bytes(spoilt)
    with pytest.raises(DatabaseCorrupt, match=r"expirytrack\.duckdb is damaged .*restore a backup"):
        read_all(warehouse)
    with pytest.raises(DatabaseCorrupt), warehouse.writing():
        pass
    assert warehouse.database.read_bytes() == spoilt


def test_the_repaired_file_is_used_again(warehouse: Warehouse) -> None:
    """Nothing of the failure is remembered in the process or beside the file."""
    sound = filled(warehouse)
    warehouse.database.write_bytes(sound[:5000])
    with pytest.raises(DatabaseCorrupt):
        read_all(warehouse)
    warehouse.database.write_bytes(sound)
    read_all(warehouse)
