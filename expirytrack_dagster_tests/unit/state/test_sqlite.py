"""A state database in a SQLite file: WAL, damage, the schema's number, and the errors of the real thing."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from expirytrack_dagster.errors import DatabaseCorrupt, DiskFull, SchemaTooNew, StateLocked, StorageError
from expirytrack_dagster.state import StateDatabase
from expirytrack_dagster_tests.statements import sql

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import TextClause


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateDatabase]:
    """Give a database in a folder that does not exist yet."""
    with StateDatabase(tmp_path / "new" / "state.sqlite") as database:
        yield database


def track(symbol: str, key: str) -> TextClause:
    """Return the statement that tracks an underlying."""
    return sql("INSERT INTO underlyings VALUES (?, ?, 0)", symbol, key)


def write(state: StateDatabase, *statements: TextClause) -> None:
    """Run statements in one transaction."""
    with state.transaction() as connection:
        for statement in statements:
            connection.execute(statement)


def test_first_use_creates_folder_tables_and_wal(state: StateDatabase) -> None:
    """The first query creates the file with every table, in WAL mode."""
    tables = {name for (name,) in state.query(sql("SELECT name FROM sqlite_master WHERE type = 'table'"))}
    assert {"requests", "cooldowns", "underlyings", "learned"} <= tables
    assert state.query(sql("PRAGMA journal_mode")) == [("wal",)]
    assert state.query(sql("PRAGMA foreign_keys")) == [(1,)]


def test_lock_of_another_program_is_named(tmp_path: Path) -> None:
    """Waiting for another transaction ends in StateLocked with the path."""
    path = tmp_path / "state.sqlite"
    with StateDatabase(path) as holder, StateDatabase(path, timeout=0.05) as waiter:
        waiter.query(sql("SELECT 1"))
        with holder.transaction(), pytest.raises(StateLocked, match=r"state\.sqlite"), waiter.transaction():
            pass


def copies(path: Path) -> list[Path]:
    """Return the kept copies of a damaged file, without their logs."""
    return [copy for copy in path.parent.glob(f"{path.name}.damaged-*") if copy.name.endswith("Z")]


@pytest.mark.parametrize("damage", [b"no database at all " * 300, b"SQLite format 3\x00" + b"\xff" * 4096])
def test_damaged_file_is_kept_and_replaced(tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """A file that is no database becomes a copy beside a new one, with a warning that names it."""
    path = tmp_path / "state.sqlite"
    path.write_bytes(damage)
    with StateDatabase(path) as state:
        assert state.query(sql("SELECT count(*) FROM underlyings")) == [(0,)]
        (copy,) = copies(path)
        assert state.query(sql("SELECT kept_as, lost_at > 1e9 FROM losses")) == [(copy.name, 1)]
    assert copy.read_bytes() == damage
    assert copy.name in caplog.text
    assert sorted(left.name for left in tmp_path.iterdir()) == sorted([path.name, f"{path.name}.lock", copy.name])


def damage_table(path: Path, table: str) -> None:
    """Overwrite the root page of a table or index, as a failing disk might."""
    with StateDatabase(path) as state:
        page = state.query(sql("SELECT rootpage FROM sqlite_master WHERE name = ?", table))[0][0]
        size = state.query(sql("PRAGMA page_size"))[0][0]
        state.query(sql("PRAGMA wal_checkpoint(TRUNCATE)"))
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xee" * size)


def test_tracked_underlyings_are_saved_from_a_damaged_file(tmp_path: Path) -> None:
    """Damage elsewhere costs no underlying, and processes that had the old file open go over to the new one."""
    path = tmp_path / "state.sqlite"
    with StateDatabase(path) as state, StateDatabase(path) as other:
        write(state, track("NIFTY", "NSE_INDEX|Nifty 50"), track("SENSEX", "BSE_INDEX|SENSEX"))
        state.close()
        other.query(sql("SELECT 1"))
        damage_table(path, "cooldowns")
        assert state.query(sql("SELECT * FROM cooldowns")) == []
        assert len(copies(path)) == 1
        for handle in (state, other):
            assert handle.query(sql("SELECT symbol FROM underlyings ORDER BY 1")) == [("NIFTY",), ("SENSEX",)]
        write(other, track("BANKNIFTY", "NSE_INDEX|Nifty Bank"))
        assert state.query(sql("SELECT count(*) FROM underlyings")) == [(3,)]


def test_damage_inside_a_transaction_is_named_and_the_next_one_works(tmp_path: Path) -> None:
    """The block cannot be repeated for its caller, so DatabaseCorrupt says to run again."""
    path = tmp_path / "state.sqlite"
    with StateDatabase(path) as state:
        state.query(sql("SELECT 1"))
    damage_table(path, "learned")
    with StateDatabase(path) as state:
        with pytest.raises(DatabaseCorrupt, match="replaced"), state.transaction() as connection:
            connection.execute(sql("INSERT INTO learned VALUES ('x', '', 0)"))
        write(state, sql("INSERT INTO learned VALUES ('x', '', 0)"))
        assert state.query(sql("SELECT name FROM learned")) == [("x",)]


def test_newer_schema_is_refused(tmp_path: Path) -> None:
    """A file of a later version is not touched."""
    path = tmp_path / "state.sqlite"
    with StateDatabase(path) as state:
        state.query(sql("SELECT 1"))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 999")
    with StateDatabase(path) as state, pytest.raises(SchemaTooNew, match="999"):
        state.query(sql("SELECT 1"))


def test_full_disk_is_named(state: StateDatabase) -> None:
    """SQLite's own page limit stands for a full disk."""
    state.query(sql("SELECT 1"))
    with pytest.raises(DiskFull):
        write(state, sql("PRAGMA max_page_count = 1"), sql("INSERT INTO learned VALUES ('x', ?, 0)", "x" * 1_000_000))


def test_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """A file where the folder should be is a storage error with the path."""
    (tmp_path / "file").write_text("")
    with StateDatabase(tmp_path / "file" / "state.sqlite") as state, pytest.raises(StorageError, match="cannot be"):
        state.query(sql("SELECT 1"))
