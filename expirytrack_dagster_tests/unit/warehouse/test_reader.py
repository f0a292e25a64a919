"""What the archive answers: types after the round trip, order, limits, and sums that agree with the rows."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from expirytrack_dagster.warehouse import reader
from expirytrack_dagster.warehouse.cells import write_contracts, write_expiries

if TYPE_CHECKING:
    from expirytrack_dagster.warehouse.connection import Warehouse
    from expirytrack_dagster_tests.unit.warehouse.conftest import Cell

MORE_PLACES = dict.fromkeys(
    (
        "test_an_empty_archive_answers_with_empty_frames",
        "test_contracts_come_by_key_with_their_types",
        "test_statuses_come_by_key_with_their_types",
        "test_quarantined_rows_can_be_limited_and_narrowed",
        "test_chain_days_follow_the_indian_day",
        "test_cells_sum_the_states",
    ),
    ("lake",),
)
EXPIRY = date(2025, 8, 28)
OPEN = datetime(2025, 8, 1, 3, 45, tzinfo=UTC)
UTC_MICROS = "datetime64[us, UTC]"


def sessions(*minutes: datetime) -> pd.DataFrame:
    """Return sessions of one minute each."""
    times = pd.Series(list(minutes), dtype=UTC_MICROS)
    return pd.DataFrame({"first": times, "last": times})


@pytest.fixture
def filled(warehouse: Warehouse, cell: Cell) -> Warehouse:
    """Give a listed cell: two calls with rows, a put proven empty, a refused put, and a future never asked for."""
    write_expiries(warehouse, "NIFTY", pd.DataFrame({"expiry": [EXPIRY, date(2025, 8, 21)], "underlying_key": "k"}))
    contracts = pd.DataFrame(
        {
            "instrument_key": ["e", "d", "c", "b", "a"],
            "instrument_type": ["FUT", "PE", "PE", "CE", "CE"],
            "strike_price": [None, 200.0, 100.0, 200.0, 100.0],
            "weekly": [None, True, True, False, True],
            "tick_size": 5.0,
        }
    )
    write_contracts(warehouse, "NIFTY", EXPIRY, contracts)
    cell.add("a", good=3, bad=2).add("b", good=2, status="partial").add("c", good=0)
    cell.add("d", good=0, status="refused", error_code="UDAPI1021").write(warehouse)
    return warehouse


def test_an_empty_archive_answers_with_empty_frames(warehouse: Warehouse) -> None:
    """Every question can be asked before anything was collected, and has its columns and types then too."""
    cell = (warehouse, "NIFTY", EXPIRY)
    frames = [reader.expiries(warehouse, "NIFTY"), reader.contracts(*cell), reader.statuses(*cell)]
    frames += [
        reader.quarantined(*cell),
        reader.minutes(*cell),
        reader.trades(*cell, sessions()),
        reader.cells(warehouse),
    ]
    assert all(frame.empty and len(frame.columns) for frame in frames)
    assert reader.listed(warehouse) == {}
    assert list(reader.chain_days(*cell)) == []
    assert reader.minutes(*cell)["ts"].dtype == UTC_MICROS


def test_expiries_ascend(filled: Warehouse) -> None:
    """Dates are dates, times are UTC, and another underlying has none."""
    frame = reader.expiries(filled, "NIFTY")
    assert list(frame["expiry"]) == [date(2025, 8, 21), EXPIRY]
    assert frame["discovered_at"].dtype == UTC_MICROS
    assert reader.expiries(filled, "nifty").empty
    assert reader.listed(filled) == {"NIFTY": {"2025-08-21", "2025-08-28"}}


def test_contracts_come_by_key_with_their_types(filled: Warehouse) -> None:
    """A flag that the API does not give stays unknown; a future has no strike."""
    frame = reader.contracts(filled, "NIFTY", EXPIRY).set_index("instrument_key")
    assert list(frame.index) == ["a", "b", "c", "d", "e"]
    assert frame["weekly"].dtype == pd.BooleanDtype()
    assert list(frame["weekly"].isna()) == [False, False, False, False, True]
    assert list(frame["strike_price"].isna()) == [False, False, False, False, True]
    assert reader.contracts(filled, "NIFTY", date(2025, 8, 21)).empty


def test_statuses_come_by_key_with_their_types(filled: Warehouse) -> None:
    """Only contracts that were asked for; times in UTC, missing ones as NaT."""
    frame = reader.statuses(filled, "NIFTY", EXPIRY).set_index("instrument_key")
    assert list(frame["status"]) == ["complete", "partial", "empty_proven", "refused"]
    assert frame["candles"].to_dict() == {"a": 3, "b": 2, "c": 0, "d": 0}
    assert frame["candles"].dtype == "int64"
    assert frame["first_ts"].dtype == UTC_MICROS
    assert frame.loc["a", "last_ts"] == OPEN + timedelta(minutes=2)
    assert list(frame["last_ts"].isna()) == [False, False, True, True]
    assert frame.loc["d", "error_code"] == "UDAPI1021"


def test_quarantined_rows_can_be_limited_and_narrowed(filled: Warehouse) -> None:
    """By contract and time; a limit takes the first, and contracts can be left out."""
    frame = reader.quarantined(filled, "NIFTY", EXPIRY)
    assert list(frame["ts"]) == [OPEN + timedelta(minutes=3), OPEN + timedelta(minutes=4)]
    assert set(frame["rule"]) == {"low_above_high"}
    assert frame["ts"].dtype == UTC_MICROS
    assert len(reader.quarantined(filled, "NIFTY", EXPIRY, limit=1)) == 1
    assert reader.quarantined(filled, "NIFTY", EXPIRY, limit=0).empty
    assert reader.quarantined(filled, "NIFTY", EXPIRY, except_keys=["a"]).empty


@pytest.mark.parametrize(
    ("narrowed", "contracts", "traded"),
    [
        ({}, [2, 2, 1], [0, 2, 1]),
        ({"keys": ["b"]}, [1, 1], [0, 1]),
        ({"keys": []}, [], []),
        ({"except_keys": ["b"]}, [1, 1, 1], [0, 1, 1]),
        ({"keys": ["a", "b"], "except_keys": ["a", "b"]}, [], []),
    ],
)
def test_minutes_count_contracts_and_trades(
    filled: Warehouse, narrowed: dict[str, Any], contracts: list[int], traded: list[int]
) -> None:
    """Bars of the first minute have no volume here; no key at all is not the same as every key."""
    frame = reader.minutes(filled, "NIFTY", EXPIRY, **narrowed)
    assert list(frame.columns) == ["ts", "contracts", "traded"]
    assert list(frame["ts"]) == [OPEN + timedelta(minutes=step) for step in range(len(contracts))]
    assert list(frame["contracts"]) == contracts
    assert list(frame["traded"]) == traded


def test_chain_days_follow_the_indian_day(filled: Warehouse) -> None:
    """A bar at 18:30 UTC belongs to the next day in India; a future's strike is missing."""
    with filled.writing() as connection:
        connection.execute(
            "INSERT INTO main.candles "
            "SELECT 'NIFTY', DATE '2025-08-28', 'e', epoch_us(ts) // 60000000, 1, 1, 1, 1, 1, 1"
            " FROM (VALUES (TIMESTAMPTZ '2025-08-01 18:29:00+00'), (TIMESTAMPTZ '2025-08-01 18:30:00+00')) AS given(ts)"
        )
    days = list(reader.chain_days(filled, "NIFTY", EXPIRY))
    assert [len(day) for day in days] == [6, 1]
    assert list(days[0]["instrument_key"]) == ["a", "a", "a", "b", "b", "e"]
    assert days[0]["instrument_key"].dtype == "category"
    assert days[1]["strike_price"].isna().all()


def test_cells_sum_the_states(filled: Warehouse) -> None:
    """One row a listed cell, also where nothing was asked yet; the states add up to the contracts."""
    empty, full = reader.cells(filled).to_dict("records")
    assert (empty["expiry"], empty["contracts"], empty["unasked"], empty["candles"]) == (date(2025, 8, 21), 0, 0, 0)
    assert pd.isna(empty["first_ts"])
    states = ["complete", "empty_proven", "partial", "refused", "failed", "unasked"]
    assert [full[name] for name in states] == [1, 1, 1, 1, 0, 1]
    assert full["contracts"] == 5
    assert (full["candles"], full["quarantined"]) == (5, 2)
    assert (full["first_ts"], full["last_ts"]) == (OPEN, OPEN + timedelta(minutes=2))


def test_a_withdrawn_contract_is_not_counted(filled: Warehouse) -> None:
    """Its candles stay in the archive, but it is none of the contracts that the cell must have."""
    kept = reader.contracts(filled, "NIFTY", EXPIRY).query("instrument_key != 'a'")
    write_contracts(filled, "NIFTY", EXPIRY, kept.drop(columns=["underlying", "expiry"]))
    full = reader.cells(filled).iloc[1]
    assert (full["contracts"], full["complete"], full["candles"]) == (4, 0, 2)
    assert len(reader.minutes(filled, "NIFTY", EXPIRY)) == 3


def test_no_connection_stays_open(filled: Warehouse) -> None:
    """A frame that is still in use, and a half-read iteration, must not keep a writer out."""
    frame = reader.minutes(filled, "NIFTY", EXPIRY)
    days = reader.chain_days(filled, "NIFTY", EXPIRY)
    next(days)
    with filled.writing() as connection:
        connection.execute("DELETE FROM main.candles")
    assert len(frame) == 3
    assert list(days) == []
