"""What readers get: the last committed state, versions by content, what a new version changed, and what is kept."""

from __future__ import annotations

import os
import shutil
import time
from datetime import date
from typing import TYPE_CHECKING

import duckdb
import pytest

from expirytrack_dagster.errors import StorageError
from expirytrack_dagster.sandbox.bars import joined
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket
from expirytrack_dagster.warehouse import published
from expirytrack_dagster.warehouse.connection import Warehouse
from expirytrack_dagster.warehouse.derived import derive
from expirytrack_dagster.warehouse.migrate import migrations
from expirytrack_dagster.warehouse.published import (
    READ_ENCRYPTED,
    File,
    accept_key,
    load,
    publish,
)
from expirytrack_dagster.warehouse.seals import seal_if_finished
from expirytrack_dagster.warehouse.versions import Change
from expirytrack_dagster_tests.market import store_bars, store_cell

if TYPE_CHECKING:
    from pathlib import Path

    from expirytrack_dagster.sandbox.bars import Bars

EXPIRY, WEEKLY = date(2025, 8, 28), date(2025, 8, 21)
MARKET = SyntheticMarket(strikes=1, days=1, today=date(2025, 9, 15))


@pytest.fixture
def stored(tmp_path: Path) -> Warehouse:
    """Give an archive with one finished cell, published."""
    warehouse = Warehouse(tmp_path / "a.duckdb", lock_timeout=5.0)
    store_cell(warehouse, MARKET, "NIFTY", EXPIRY, tmp_path)
    publish(warehouse, "NIFTY", EXPIRY)
    return warehouse


def files(warehouse: Warehouse, table: str = "candles") -> list[File]:
    """Return what is published of a table."""
    manifest = load(warehouse.published)
    assert manifest is not None
    return [file for file in manifest.files if file.table == table]


def future(warehouse: Warehouse) -> tuple[str, Bars]:
    """Return the cell's future and its minutes."""
    with warehouse.reading() as connection:
        found = connection.execute("SELECT instrument_key FROM contracts WHERE instrument_type = 'FUT'").fetchone()
    assert found is not None
    minutes = MARKET.minutes(found[0])
    assert minutes is not None
    return str(found[0]), minutes


def test_a_first_version_adds_all_rows(tmp_path: Path) -> None:
    """There is nothing before it."""
    warehouse = Warehouse(tmp_path / "a.duckdb")
    rows = store_cell(warehouse, MARKET, "NIFTY", EXPIRY, tmp_path)
    (change,) = publish(warehouse).values()
    assert change == Change(change.version, None, rows, added=rows, removed=0, changed=0)
    (file,) = files(warehouse)
    assert (file.rows, file.version, file.sealed) == (rows, change.version, True)


def test_publishing_again_does_nothing(stored: Warehouse) -> None:
    """Neither a file nor the manifest is written when everything is there."""
    folder = stored.published
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert publish(stored) == {}
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_the_version_is_that_of_the_content(stored: Warehouse, tmp_path: Path) -> None:
    """Another archive with the same candles, stored in another order, names them alike."""
    other = Warehouse(tmp_path / "other" / "a.duckdb")
    store_cell(other, MARKET, "NIFTY", EXPIRY, tmp_path)
    key, minutes = future(other)
    store_bars(other, "NIFTY", EXPIRY, {key: minutes}, tmp_path)  # to the end of the table
    publish(other)
    assert files(other)[0].version == files(stored)[0].version


def test_a_refetch_tells_what_it_changed(stored: Warehouse, tmp_path: Path) -> None:
    """Three rows gone, two with another price, one new: seen in the change, and the old version is kept."""
    key, minutes = future(stored)
    (before,) = files(stored)
    first = minutes.take(slice(0, 1))
    first.time[0] -= 60
    changed = minutes.take(slice(3, None))
    changed.close[:2] += 1.0
    changed.high[:2] += 1.0
    store_bars(stored, "NIFTY", EXPIRY, {key: joined([first, changed])}, tmp_path)
    (change,) = publish(stored, "NIFTY", EXPIRY).values()
    assert (change.previous, change.added, change.removed, change.changed) == (before.version, 1, 3, 2)
    manifest = load(stored.published)
    assert manifest is not None
    assert [file.version for file in manifest.kept] == [before.version]
    assert (stored.published / before.path).exists()


def test_a_version_that_comes_back_is_not_kept_twice(stored: Warehouse, tmp_path: Path) -> None:
    """The API may return to what it said before."""
    key, minutes = future(stored)
    (first,) = files(stored)
    store_bars(stored, "NIFTY", EXPIRY, {key: minutes.take(slice(1, None))}, tmp_path)
    publish(stored)
    (second,) = files(stored)
    store_bars(stored, "NIFTY", EXPIRY, {key: minutes}, tmp_path)
    publish(stored)
    manifest = load(stored.published)
    assert manifest is not None
    assert files(stored)[0].version == first.version != second.version
    assert [file.version for file in manifest.kept] == [second.version]


def test_derived_rows_are_published_with_their_source(stored: Warehouse) -> None:
    """The file of a derived cell names the version of the candles that it was made from."""
    derive(stored, "option_chain", "NIFTY", EXPIRY, 0.065)
    publish(stored, "NIFTY", EXPIRY)
    (chain,) = files(stored, "option_chain")
    assert chain.version == files(stored)[0].version
    derive(stored, "option_chain", "NIFTY", EXPIRY, 0.07)
    publish(stored, "NIFTY", EXPIRY)
    assert files(stored, "option_chain")[0].path != chain.path


def test_replaced_files_go_when_nobody_can_read_them(stored: Warehouse, tmp_path: Path) -> None:
    """A chain that was made again: its old file stays for a while, and is removed by a later publication."""
    folder = stored.published
    derive(stored, "option_chain", "NIFTY", EXPIRY, 0.065)
    publish(stored)
    (old,) = files(stored, "option_chain")
    derive(stored, "option_chain", "NIFTY", EXPIRY, 0.07)
    publish(stored)
    assert (folder / old.path).exists()
    long_ago = time.time() - 3600
    os.utime(folder / old.path, (long_ago, long_ago))
    store_cell(stored, MARKET, "NIFTY", WEEKLY, tmp_path)
    publish(stored)
    assert not (folder / old.path).exists()
    assert all((folder / file.path).exists() for file in files(stored))


def test_what_a_killed_process_left_is_made_up_for(stored: Warehouse, tmp_path: Path) -> None:
    """Committed and not published, with a half-written file beside: the next call that covers the cell publishes it."""
    store_cell(stored, MARKET, "NIFTY", WEEKLY, tmp_path)
    (stored.published / "candles" / "NIFTY" / "2025-08-21-0000.parquet").write_bytes(b"PAR1 half")
    assert [file.expiry for file in files(stored)] == [EXPIRY]
    publish(stored)
    assert sorted(file.expiry for file in files(stored) if file.expiry) == [WEEKLY, EXPIRY]


@pytest.mark.parametrize("harm", ["removed", "cut off"])
def test_a_file_that_is_not_whole_is_published_anew(stored: Warehouse, harm: str) -> None:
    """After a loss of power, or somebody's tidying up; the version stays what it was."""
    (before,) = files(stored)
    path = stored.published / before.path
    path.unlink() if harm == "removed" else path.write_bytes(path.read_bytes()[:100])
    assert publish(stored) == {}
    (after,) = files(stored)
    assert (after.version, after.rows) == (before.version, before.rows)
    assert (stored.published / after.path).stat().st_size == before.size


def test_another_schema_publishes_everything_anew(stored: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of an older program may lack a column."""
    before = files(stored)
    current = migrations()
    monkeypatch.setattr(published, "migrations", lambda: current[:-1])
    publish(stored, "NIFTY", WEEKLY)  # whatever was asked for
    after = files(stored)
    assert [file.version for file in after] == [file.version for file in before]
    assert after[0].path != before[0].path


def test_a_broken_manifest_is_said(stored: Warehouse) -> None:
    """The sentence says what to do, because everything can be made again."""
    (stored.published / "manifest.json").write_text("{")
    with pytest.raises(StorageError, match="remove the folder"):
        publish(stored)


def test_a_cell_that_is_finished_later_is_marked(tmp_path: Path) -> None:
    """Its candles stay the same file; only then is the version one that is kept."""
    warehouse = Warehouse(tmp_path / "a.duckdb")
    store_cell(warehouse, MARKET, "NIFTY", EXPIRY, tmp_path)
    with warehouse.writing() as connection:
        connection.execute("DELETE FROM main.cell_seals")
    publish(warehouse)
    (open_,) = files(warehouse)
    with warehouse.writing() as connection:
        seal_if_finished(connection, {"underlying": "NIFTY", "expiry": EXPIRY})
    assert publish(warehouse) == {}
    (sealed,) = files(warehouse)
    assert (open_.sealed, sealed.sealed) == (False, True)
    assert (open_.path, open_.version) == (sealed.path, sealed.version)


def test_an_encrypted_archive_publishes_nothing_readable(tmp_path: Path) -> None:
    """Neither keys nor prices stand in the files; with the archive's key they are the same rows."""
    warehouse = Warehouse(tmp_path / "a.duckdb", key=bytes(range(32)))
    rows = store_cell(warehouse, MARKET, "NIFTY", EXPIRY, tmp_path)
    publish(warehouse)
    folder = warehouse.published
    (file,) = files(warehouse)
    assert all(b"NSE_FO" not in path.read_bytes() for path in folder.rglob("*.parquet"))
    with duckdb.connect() as connection:
        with pytest.raises(duckdb.Error):
            connection.execute("FROM read_parquet($path)", {"path": str(folder / file.path)})
        accept_key(connection, bytes(range(32)))
        read = f"SELECT count(*) FROM read_parquet($path{READ_ENCRYPTED})"  # noqa: S608 -- our own constant
        assert connection.execute(read, {"path": str(folder / file.path)}).fetchone() == (rows,)


def test_a_plain_copy_does_not_outlive_encryption(stored: Warehouse, tmp_path: Path) -> None:
    """Once the archive has a key, what was published plainly is gone, and a change is still told apart."""
    plain = {file.path for file in files(stored)}
    locked = Warehouse(tmp_path / "other" / "a.duckdb", key=bytes(32))
    store_cell(locked, MARKET, "NIFTY", EXPIRY, tmp_path)
    stored.database.unlink()
    shutil.move(locked.database, stored.database)
    warehouse = Warehouse(stored.database, key=bytes(32))
    (change,) = publish(warehouse).values()
    assert change.previous is None
    assert not any((stored.published / path).exists() for path in plain)
    key, minutes = future(warehouse)
    store_bars(warehouse, "NIFTY", EXPIRY, {key: minutes.take(slice(2, None))}, tmp_path)
    (change,) = publish(warehouse).values()
    assert (change.added, change.removed, change.changed) == (0, 2, 0)
