"""Opening the archive in one process: made when first used, all or nothing, read-only, UTC, threads."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TYPE_CHECKING

import pytest

from expirytrack_dagster.errors import DatabaseLocked, SchemaTooNew, StorageError
from expirytrack_dagster.warehouse.connection import Warehouse
from expirytrack_dagster.warehouse.encryption import connect

if TYPE_CHECKING:
    from pathlib import Path

ADD = "INSERT INTO main.expiries VALUES (?, DATE '2025-08-28', 'NSE_INDEX|Nifty 50', now())"
COUNT = "SELECT count(*) FROM expiries"


def count(warehouse: Warehouse) -> int:
    """Return how many expiries are stored."""
    with warehouse.reading() as connection:
        return int((connection.execute(COUNT).fetchone() or (-1,))[0])


def test_naming_a_warehouse_opens_nothing(tmp_path: Path) -> None:
    """Definitions are built in every process, so making the object must be free of effects."""
    Warehouse(tmp_path / "home" / "a.duckdb")
    assert list(tmp_path.iterdir()) == []


def test_the_first_reader_sees_empty_tables(warehouse: Warehouse) -> None:
    """Nobody has to write first; the folder is made too."""
    assert count(warehouse) == 0
    assert warehouse.database.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no modes of folders")
def test_the_home_is_private(warehouse: Warehouse) -> None:
    """Other users of the machine have no business in it."""
    assert count(warehouse) == 0
    assert warehouse.database.parent.stat().st_mode & 0o777 == 0o700


def test_a_block_that_ends_well_is_stored(warehouse: Warehouse) -> None:
    """And nothing stays open or half written behind it."""
    with warehouse.writing() as connection:
        connection.execute(ADD, ["NIFTY"])
    assert count(warehouse) == 1
    assert not warehouse.database.with_suffix(".duckdb.wal").exists()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_block_that_fails_stores_nothing(warehouse: Warehouse, error: type[BaseException]) -> None:
    """The caller's own error comes out unchanged, also the user's Ctrl-C."""

    def fail() -> None:
        with warehouse.writing() as connection:
            connection.execute(ADD, ["NIFTY"])
            raise error

    with pytest.raises(error):
        fail()
    assert count(warehouse) == 0


def test_a_broken_constraint_is_a_storage_error(warehouse: Warehouse) -> None:
    """The statements before it in the same block are undone as well."""

    def twice() -> None:
        with warehouse.writing() as connection:
            connection.execute(ADD, ["NIFTY"])
            connection.execute(ADD, ["NIFTY"])

    with pytest.raises(StorageError, match=r"nothing was changed.*duplicate key"):
        twice()
    assert count(warehouse) == 0


def test_a_reader_cannot_write(warehouse: Warehouse) -> None:
    """DuckDB itself refuses, not a convention of ours."""

    def write() -> None:
        with warehouse.reading() as connection:
            connection.execute(ADD, ["NIFTY"])

    assert count(warehouse) == 0
    with pytest.raises(StorageError, match="read-only"):
        write()


def test_the_session_is_in_utc(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """A naive text becomes the same instant on every machine."""
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    with warehouse.writing() as connection:
        assert connection.execute("SELECT current_setting('TimeZone')").fetchone() == ("UTC",)
        micros = connection.execute("SELECT epoch_us('2025-08-01 03:45:00'::TIMESTAMPTZ)").fetchone()
    assert micros == (1754019900000000,)


def test_settings_reach_the_engine(tmp_path: Path, key: bytes | None) -> None:
    """The memory limit is the one that was asked for, for readers and writers."""
    warehouse = Warehouse(tmp_path / "a.duckdb", settings={"memory_limit": "256MiB", "threads": 1}, key=key)
    for use in (warehouse.writing, warehouse.reading):
        with use() as connection:
            found = connection.execute("SELECT current_setting('memory_limit'), current_setting('threads')").fetchone()
        assert found == ("256.0 MiB", 1)


def test_a_newer_file_is_refused_to_readers_and_writers(warehouse: Warehouse) -> None:
    """An old program would misread it."""
    with warehouse.writing() as connection:
        connection.execute("INSERT INTO main.schema_version (version, name) VALUES (99, 'of the future')")
    with pytest.raises(SchemaTooNew), warehouse.reading():
        pass
    with pytest.raises(SchemaTooNew), warehouse.writing():
        pass


def test_a_reader_brings_an_older_file_up_to_date(warehouse: Warehouse, key: bytes | None) -> None:
    """A file without our tables stands for every older one: a reader never meets an old schema."""
    warehouse.database.parent.mkdir()
    connect(warehouse.database, key, read_only=False, config={}).close()
    assert count(warehouse) == 0


def test_threads_write_one_after_the_other(warehouse: Warehouse, key: bytes | None) -> None:
    """All of them succeed and no row is lost, with a shared object or one each, readers among them."""
    start = Barrier(6)

    def write(number: int) -> None:
        own = warehouse if number % 2 else Warehouse(warehouse.database, lock_timeout=30.0, key=key)
        start.wait()
        for step in range(3):
            with own.writing() as connection:
                connection.execute(ADD, [f"U{number}-{step}"])
            count(own)

    warehouse.lock_timeout = 30.0
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, range(6)))
    assert count(warehouse) == 18


def test_a_handle_of_this_process_is_named(warehouse: Warehouse, key: bytes | None) -> None:
    """A notebook that reads with its own handle blocks the writer, who says where to look."""
    assert count(warehouse) == 0
    impatient = Warehouse(warehouse.database, lock_timeout=0.2, key=key)
    with (
        connect(warehouse.database, key, read_only=True, config={}),
        pytest.raises(DatabaseLocked, match="held open by another part of this same process: close it there"),
        impatient.writing(),
    ):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no modes of folders")
def test_a_folder_without_permission_is_a_storage_error(tmp_path: Path) -> None:
    """The sentence says what is not permitted."""
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StorageError, match="Permission denied"), Warehouse(tmp_path / "a.duckdb").writing():
            pass
    finally:
        tmp_path.chmod(0o700)


def test_a_home_that_is_a_file_is_a_storage_error(tmp_path: Path) -> None:
    """The operating system's errors come out in the tree too."""
    (tmp_path / "home").write_text("not a folder")
    with pytest.raises(StorageError, match="could not be used"), Warehouse(tmp_path / "home" / "a.duckdb").reading():
        pass
    assert (tmp_path / "home").read_text() == "not a folder"


def test_duckdb_draws_no_progress_bar(warehouse: Warehouse) -> None:
    """It would stand in the middle of a command's result."""
    for opened in (warehouse.writing, warehouse.reading):
        with opened() as connection:
            assert connection.execute("SELECT current_setting('enable_progress_bar')").fetchone() == (False,)
