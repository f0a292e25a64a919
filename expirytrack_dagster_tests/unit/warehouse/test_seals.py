"""Seals: given when the last contract is final, broken and renewed with the rows, never renewed over damage."""

from __future__ import annotations

from datetime import date, timedelta
from importlib.resources import files
from typing import TYPE_CHECKING

import duckdb
import pandas as pd
import pytest

from expirytrack_dagster.collect.states import State, status_frame
from expirytrack_dagster.errors import StorageError
from expirytrack_dagster.warehouse import cells, reader
from expirytrack_dagster.warehouse.connection import Warehouse
from expirytrack_dagster.warehouse.seals import HASHES, WIDTH
from expirytrack_dagster_tests.unit.conftest import EMPTY, EXPIRY, IN_A_LAKE_TOO, OPEN, UNCOLLECTED, bars, keys, status

if TYPE_CHECKING:
    from pathlib import Path

    from expirytrack_dagster_tests.unit.conftest import SmallArchive

SEALS = "SELECT expiry, contracts, candles, checksum FROM cell_seals ORDER BY expiry"
CHECKSUM = f"SELECT ({HASHES} % {WIDTH})::UBIGINT FROM candles"  # noqa: S608 -- our own constants
GOLDEN = 5035764549719534421
A, B, C = keys()


def contracts(*names: str) -> pd.DataFrame:
    """Return a contract list."""
    return pd.DataFrame({"instrument_key": list(names), "instrument_type": "CE"}, dtype="str")


@IN_A_LAKE_TOO
def test_finished_cells_are_sealed_and_shown_so(archive: SmallArchive) -> None:
    """A cell of final contracts and one that lists none are sealed; one that was never asked is not."""
    (full, empty) = archive.rows(SEALS)
    assert full == (EXPIRY, 3, 120, archive.rows(CHECKSUM)[0][0])
    assert empty == (EMPTY, 0, 0, 0)
    shown = reader.cells(archive.warehouse).set_index("expiry")["sealed"]
    assert shown.to_dict() == {EXPIRY: True, EMPTY: True, UNCOLLECTED: False}
    assert reader.is_sealed(archive.warehouse, "NIFTY", EMPTY)
    assert not reader.is_sealed(archive.warehouse, "NIFTY", UNCOLLECTED)


def test_a_cell_that_its_exchange_never_listed_is_not_sealed(archive: SmallArchive) -> None:
    """An empty list of a date that is no expiry proves nothing."""
    cells.write_contracts(archive.warehouse, "NIFTY", date(2025, 8, 22), contracts())
    assert [seal[0] for seal in archive.rows(SEALS)] == [EXPIRY, EMPTY]


@IN_A_LAKE_TOO
def test_an_unfinished_contract_breaks_the_seal_and_a_finished_one_renews_it(archive: SmallArchive) -> None:
    """The seal follows the states in the same transaction, and names the rows as they are now."""
    before = archive.rows(SEALS)[0]
    archive.store([status(C, State.FAILED)], bars(C, 0, 0), bars(C, 0, 0))
    assert [seal[0] for seal in archive.rows(SEALS)] == [EMPTY]
    first, last = OPEN, OPEN + timedelta(minutes=1)
    archive.store(
        [status(C, State.COMPLETE, received=2, candles=2, first_ts=first, last_ts=last)], bars(C, 0, 2), bars(C, 0, 0)
    )
    after = archive.rows(SEALS)[0]
    assert after == (EXPIRY, 3, 122, archive.rows(CHECKSUM)[0][0])
    assert after[3] != before[3]


@IN_A_LAKE_TOO
def test_a_longer_list_breaks_the_seal_and_a_shorter_one_fits_it(archive: SmallArchive) -> None:
    """A contract more is one that was not asked; a contract that the API withdraws leaves the others final."""
    checksum = archive.rows(SEALS)[0][3]
    cells.write_contracts(archive.warehouse, "NIFTY", EXPIRY, contracts(A, B))
    assert archive.rows(SEALS)[0] == (EXPIRY, 2, 120, checksum)
    cells.write_contracts(archive.warehouse, "NIFTY", EXPIRY, contracts(A, B, C, "NSE_FO|40004|21-08-2025"))
    assert [seal[0] for seal in archive.rows(SEALS)] == [EMPTY]


@pytest.mark.parametrize("write", ["contracts", "candles"])
def test_writing_nothing_new_does_not_hide_damage(archive: SmallArchive, write: str) -> None:
    """Materializing a finished cell again leaves its seal alone, so a changed value is still found."""
    sealed = archive.rows(SEALS)[0]
    archive.run("UPDATE main.candles SET close = 1 WHERE volume = 75")
    if write == "contracts":
        cells.write_contracts(archive.warehouse, "NIFTY", EXPIRY, contracts(A, B, C))
    else:
        cells.write_candles(archive.warehouse, "NIFTY", EXPIRY, [], status_frame([]), "run-2")
    assert archive.rows(SEALS)[0] == sealed
    assert archive.rows(CHECKSUM)[0][0] != sealed[3]


def test_a_lost_seal_comes_back_without_a_row_written(archive: SmallArchive) -> None:
    """Materializing a finished cell that has no seal gives it one."""
    sealed = archive.rows(SEALS)
    archive.run("DELETE FROM main.cell_seals")
    cells.write_candles(archive.warehouse, "NIFTY", EXPIRY, [], status_frame([]), "run-2")
    cells.write_contracts(archive.warehouse, "NIFTY", EMPTY, contracts())
    assert archive.rows(SEALS) == sealed


def test_rows_that_were_received_and_lost_are_not_written(archive: SmallArchive) -> None:
    """Rows received that are neither candle nor quarantined nor duplicate stop the write, and nothing changes."""
    before = archive.rows("SELECT * FROM contract_status ORDER BY ALL"), archive.rows(SEALS)
    first, last = OPEN, OPEN + timedelta(minutes=1)
    with pytest.raises(StorageError, match=r"3 rows of NSE_FO\|40003\|21-08-2025 were received, but 2 candles, 0 bad"):
        archive.store(
            [status(C, State.COMPLETE, received=3, candles=2, first_ts=first, last_ts=last)],
            bars(C, 0, 2),
            bars(C, 0, 0),
        )
    assert (archive.rows("SELECT * FROM contract_status ORDER BY ALL"), archive.rows(SEALS)) == before


def test_the_checksum_is_the_same_for_ever() -> None:
    """It knows no order but sees a row twice; another value here means that DuckDB hashes otherwise: seal again."""
    prices = ", ".join(f"{price}::DOUBLE" for price in (1.0, 2.0, 0.5, 1.5))
    row = f"('NSE_FO|1|21-08-2025', TIMESTAMPTZ '2025-08-21 03:45:00+00', {prices}, 75::BIGINT, 750::BIGINT)"
    other = row.replace("NSE_FO|1|", "NSE_FO|2|")

    def checksum(*rows: str) -> int:
        names = "candles(instrument_key, ts, open, high, low, close, volume, open_interest)"
        sql = f"WITH {names} AS (VALUES {', '.join(rows)}) {CHECKSUM}"
        with duckdb.connect() as connection:
            (value,) = connection.execute(sql).fetchone() or (0,)
        return int(value)

    assert checksum(row) == GOLDEN
    assert checksum(row, other) == checksum(other, row)
    assert len({checksum(row), checksum(row, row), checksum(row, other), checksum(row, row, row)}) == 4


def test_an_archive_of_the_first_version_is_sealed_when_it_is_upgraded(archive: SmallArchive, tmp_path: Path) -> None:
    """Finished cells get the seal that writing them would have given; counts and rows are kept."""
    old = tmp_path / "old.duckdb"
    first = (files("expirytrack_dagster.warehouse") / "migrations" / "0001_initial.sql").read_text(encoding="utf-8")
    with duckdb.connect(old) as connection:
        connection.execute(first)
        connection.execute("INSERT INTO main.schema_version (version, name) VALUES (1, 'initial')")
        connection.execute(f"ATTACH '{archive.warehouse.database}' AS new (READ_ONLY)")
        connection.execute("INSERT INTO main.candles SELECT * EXCLUDE (minute) FROM new.candles")
        for table in ("expiries", "contracts", "quarantine"):
            connection.execute(f"INSERT INTO {table} SELECT * FROM new.{table}")  # noqa: S608 -- constants
        connection.execute(
            "INSERT INTO main.contract_status SELECT * EXCLUDE (received, discarded, agrees) FROM new.contract_status"
        )
        connection.execute(
            "INSERT INTO main.contracts (instrument_key, underlying, expiry, instrument_type) "
            "VALUES ('unasked', 'NIFTY', '2025-09-04', 'CE')"
        )
    with Warehouse(old).reading() as connection:
        assert connection.execute(SEALS).fetchall() == archive.rows(SEALS)[:1]
        states = "SELECT * FROM contract_status ORDER BY ALL"
        assert connection.execute(states).fetchall() == archive.rows(states)
        assert connection.execute("SELECT count(*) FROM reviews").fetchall() == [(0,)]
