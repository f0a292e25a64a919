"""An archive copied to another address is equal there, whatever kinds the two are, and nothing else is touched."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from expirytrack_dagster.address import KINDS, Address
from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.moving import archive as moving
from expirytrack_dagster.moving.archive import copy_archive
from expirytrack_dagster.verification import verify_archive
from expirytrack_dagster.warehouse import cells
from expirytrack_dagster.warehouse.connection import Warehouse
from expirytrack_dagster.warehouse.data_path import DataPath
from expirytrack_dagster.warehouse.stores import store_of
from expirytrack_dagster.warehouse.sums import table_sums
from expirytrack_dagster_tests.unit.moving.conftest import CELLS

if TYPE_CHECKING:
    from pathlib import Path

    from expirytrack_dagster.address import Kind

TARGETS = (*KINDS, "encrypted")
UNITS = 5
"""Cells of the archive: four dates, and what is made of all dates of an underlying."""


@pytest.fixture
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Warehouse:
    """Give an archive of the kind that a test names (DuckDB, if none), which is not there yet."""
    named: Any = getattr(request, "param", "duckdb")
    kind: Kind = "duckdb" if named == "encrypted" else named
    place = request.getfixturevalue("postgres") if kind == "ducklake:postgres" else tmp_path / "target" / "archive"
    key = bytes(range(32)) if named == "encrypted" else None
    data = DataPath(f"{tmp_path}/target/lake/") if kind.startswith("ducklake") else None
    return Warehouse(store_of(Address(kind, place), key, data), lock_timeout=5.0)


def interrupted(done: int, total: int) -> None:
    """Stop a copy after its first cell."""
    del done, total
    raise KeyboardInterrupt


@pytest.mark.parametrize("target", TARGETS, indirect=True)
def test_there_and_back_nothing_is_different(source: Warehouse, target: Warehouse, tmp_path: Path) -> None:
    """Rows, seals and their checksums, bad rows, reviews and derived tables come along through every kind of store."""
    before, back = table_sums(source), Warehouse(tmp_path / "back" / "archive.duckdb")
    there = copy_archive(source, target)
    returned = copy_archive(target, back)
    assert there.equal
    assert returned.equal
    assert there.copied == returned.copied == UNITS
    assert {name: tuple(one) for name, (one, _) in there.tables.items()} == {
        name: tuple(one) for name, (one, _) in returned.tables.items()
    }
    after = table_sums(back)
    assert {name: after[name] for name in before if name != "schema_version"} == {
        name: one for name, one in before.items() if name != "schema_version"
    }
    proofs = [verify_archive(archive, tmp_path / "staging") for archive in (source, back)]
    assert proofs[0].totals.sealed == len(CELLS)
    assert proofs[0] == proofs[1]


def test_a_copy_that_is_done_is_not_done_again(source: Warehouse, target: Warehouse) -> None:
    """The second one only compares."""
    copy_archive(source, target)
    written = target.database.stat().st_mtime_ns
    again = copy_archive(source, target)
    assert (again.copied, again.there, again.rows, again.equal) == (0, UNITS, 0, True)
    assert target.database.stat().st_mtime_ns == written


def test_a_copy_that_was_cut_off_goes_on(source: Warehouse, target: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """What had arrived is not copied again."""
    monkeypatch.setattr(moving, "SMALL", 0)
    with pytest.raises(KeyboardInterrupt):
        copy_archive(source, target, interrupted)
    rest = copy_archive(source, target)
    assert (rest.copied, rest.there, rest.equal) == (UNITS - 1, 1, True)


def test_a_cell_that_has_changed_is_copied_anew(source: Warehouse, target: Warehouse) -> None:
    """And no other one."""
    copy_archive(source, target)
    with source.writing() as connection:
        connection.execute("DELETE FROM main.quarantine")
        connection.execute("UPDATE main.reviews SET reviewed_at = now()")
    again = copy_archive(source, target)
    assert (again.copied, again.equal) == (1, True)


def test_what_changes_meanwhile_is_told(source: Warehouse, target: Warehouse) -> None:
    """It is named, and not taken for equal; the next copy makes up for it."""

    def collect(done: int, total: int) -> None:
        if done == total:
            new = pd.DataFrame({"expiry": [date(2025, 9, 11)], "underlying_key": "NSE_EQ|INE002A01018"})
            cells.write_expiries(source, "RELIANCE", new)

    copied = copy_archive(source, target, collect)
    assert copied.changed == (("RELIANCE", date(2025, 9, 11)),)
    assert not copied.equal
    assert copy_archive(source, target).equal


def test_another_archive_is_not_written_into(source: Warehouse, target: Warehouse) -> None:
    """The same cell, discovered in another microsecond, is of another archive."""
    known = pd.DataFrame({"expiry": [date(2025, 8, 28)], "underlying_key": "NSE_INDEX|Nifty 50"})
    cells.write_expiries(target, "NIFTY", known)
    before = table_sums(target)
    with pytest.raises(ConfigurationError, match="NIFTY 2025-08-28, which is not of this archive"):
        copy_archive(source, target)
    assert table_sums(target) == before


def test_an_archive_that_went_on_is_not_set_back(source: Warehouse, target: Warehouse) -> None:
    """Whoever has collected at the target since the move does not lose it by moving again."""
    copy_archive(source, target)
    with target.writing() as connection:
        connection.execute("UPDATE main.contract_status SET checked_at = $1", [datetime(2030, 1, 1, tzinfo=UTC)])
    with pytest.raises(ConfigurationError, match="it has been used since"):
        copy_archive(source, target)


def test_the_source_is_not_touched(source: Warehouse, target: Warehouse) -> None:
    """Not one byte of it."""
    before = source.database.read_bytes()
    copy_archive(source, target)
    assert source.database.read_bytes() == before
