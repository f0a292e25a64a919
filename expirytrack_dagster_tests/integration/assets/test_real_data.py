"""Real recordings, served as Upstox serves them, collected through the assets, equal to the files row by row."""

from __future__ import annotations

import csv
import json
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from expirytrack_dagster.backfill import Backfill, Outcome, track
from expirytrack_dagster.console import ProgressBars
from expirytrack_dagster.instance import open_instance
from expirytrack_dagster.sandbox.recorded import RecordedMarket
from expirytrack_dagster.sandbox.running import running
from expirytrack_dagster.settings import load_settings
from expirytrack_dagster.warehouse.connection import Warehouse

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

INDIA = timedelta(hours=5, minutes=30)
COLUMNS = ["instrument_key", "ts", "open", "high", "low", "close", "volume", "open_interest"]
WANTED = {
    "NIFTY": ("NSE_INDEX|Nifty 50", date(2025, 8, 28)),
    "NIFTY2021": ("NSE_INDEX|Nifty 50 2021", date(2021, 6, 17)),
    "NIFTY2026": ("NSE_INDEX|Nifty 50 2026", date(2026, 7, 21)),
}


@pytest.fixture(scope="module")
def collected(
    realdata: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Warehouse, dict[str, Outcome], Path]]:
    """Collect all recordings once."""
    with pytest.MonkeyPatch.context() as patch, running(RecordedMarket(realdata)) as upstox:
        patch.setenv("EXPIRYTRACK_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("EXPIRYTRACK_API_URL", upstox.url)
        patch.setenv("EXPIRYTRACK_ACCESS_TOKEN", "x")
        settings = load_settings()
        outcomes = {}
        with open_instance(settings) as instance:
            backfill = Backfill(settings, instance, ProgressBars())
            for symbol, (key, expiry) in WANTED.items():
                track(settings, instance, symbol, key)
                outcomes[symbol] = backfill.collect([symbol], [expiry])
        yield Warehouse(settings.database), outcomes, realdata


def _table(warehouse: Warehouse, sql: str) -> pd.DataFrame:
    with warehouse.reading() as connection:
        frame: pd.DataFrame = connection.execute(sql).to_arrow_table().to_pandas()
    return frame


def _utc(text: str) -> datetime:
    """Read a recording's time: an offset where it has one, else Indian time."""
    moment = datetime.fromisoformat(text)
    return moment.astimezone(UTC) if moment.tzinfo else (moment - INDIA).replace(tzinfo=UTC)


def _rows_of_csv(path: Path, key: str) -> list[tuple[Any, ...]]:
    with path.open(newline="") as file:
        lines = list(csv.reader(file))[1:]
    return [
        (
            key,
            _utc(line[0]),
            *(float(price) for price in line[1:5]),
            int(line[5]),
            int(line[6]) if len(line) == 7 else 0,
        )
        for line in lines
    ]


def test_every_collection_is_complete(collected: tuple[Warehouse, dict[str, Outcome], Path]) -> None:
    """Each of the three cells ends with every listed contract complete or proven empty."""
    _, outcomes, _ = collected
    for outcome in outcomes.values():
        assert outcome.errors == []
        assert outcome.exit_code == 0


def test_expiries_are_those_of_the_recording(collected: tuple[Warehouse, dict[str, Outcome], Path]) -> None:
    """The archive lists exactly the 51 recorded NIFTY expiries."""
    warehouse, _, folder = collected
    body = json.loads((folder / "upstox_recorded" / "expired_expiries__NSE_INDEX_Nifty50.json").read_bytes())
    stored = _table(warehouse, "SELECT expiry::TEXT AS day FROM expiries WHERE underlying = 'NIFTY' ORDER BY expiry")
    assert list(stored["day"]) == body["data"]
    assert len(stored) == 51


def test_contracts_are_those_of_the_recording(collected: tuple[Warehouse, dict[str, Outcome], Path]) -> None:
    """194 options and one future of 2025-08-28 stand in the archive, field by field."""
    warehouse, _, folder = collected
    recorded = []
    for name in ("option", "future"):
        path = folder / "upstox_recorded" / f"expired_{name}_contract__NSE_INDEX_Nifty50__2025-08-28.json"
        recorded += json.loads(path.read_bytes())["data"]
    stored = _table(warehouse, "SELECT * FROM contracts WHERE underlying = 'NIFTY' AND expiry = '2025-08-28'")
    assert len(stored) == len(recorded) == 195
    by_key = {row["instrument_key"]: row for row in stored.to_dict("records")}
    fields = ("instrument_type", "trading_symbol", "exchange_token", "lot_size", "tick_size", "minimum_lot")
    for row in recorded:
        own = by_key[row["instrument_key"]]
        assert {name: own[name] for name in (*fields, "freeze_quantity")} == {
            name: row[name] for name in (*fields, "freeze_quantity")
        }
        assert own["expiry"] == date.fromisoformat(row["expiry"])
        assert (None if pd.isna(own["strike_price"]) else own["strike_price"]) == row.get("strike_price")
        assert (None if pd.isna(own["weekly"]) else own["weekly"]) == row.get("weekly")


def test_the_recorded_future_is_stored_row_by_row(collected: tuple[Warehouse, dict[str, Outcome], Path]) -> None:
    """The 375 recorded minutes come out in UTC, ascending, with the very numbers of the body."""
    warehouse, _, folder = collected
    name = "expired_historical_candle__NSE_FO_64103_28-08-2025__1minute.json"
    recorded = json.loads((folder / "upstox_recorded" / name).read_bytes())["data"]["candles"]
    expected = sorted(("NSE_FO|64103|28-08-2025", _utc(row[0]), *map(float, row[1:5]), *row[5:]) for row in recorded)
    stored = _table(warehouse, f"SELECT {', '.join(COLUMNS)} FROM candles WHERE expiry = '2025-08-28'")  # noqa: S608 -- constants
    assert [tuple(row) for row in stored.itertuples(index=False)] == expected
    assert len(expected) == 375


def test_the_contracts_of_2021_are_stored_row_by_row(collected: tuple[Warehouse, dict[str, Outcome], Path]) -> None:
    """Twelve contracts over two days are equal to their files, the 60 rows after the close included."""
    warehouse, _, folder = collected
    contracts = _table(warehouse, "SELECT * FROM contracts WHERE underlying = 'NIFTY2021'")
    expected = []
    for row in contracts.to_dict("records"):
        name = f"NIFTY21617{row['strike_price']:.0f}{row['instrument_type']}_minute.csv"
        lines = _rows_of_csv(folder / "nifty_2021_06" / name, row["instrument_key"])
        expected += [(*line[:7], 0) for line in lines]
    stored = _table(
        warehouse,
        f"SELECT {', '.join(COLUMNS)} FROM candles WHERE underlying = 'NIFTY2021' ORDER BY instrument_key, ts",  # noqa: S608 -- constants
    )
    assert len(contracts) == 12
    assert [tuple(row) for row in stored.itertuples(index=False)] == sorted(expected)
    assert len(expected) == 12 * 755
    after_close = stored[stored["ts"] >= pd.Timestamp("2021-06-14 15:30", tz="Asia/Kolkata")]
    assert len(after_close) == 60


def test_rows_after_the_close_are_reported(collected: tuple[Warehouse, dict[str, Outcome], Path]) -> None:
    """The check on continuity tells of the 60 rows of 2021-06-14 outside the session."""
    _, outcomes, _ = collected
    check = next(line for line in outcomes["NIFTY2021"].checks if line.name == "timestamp_continuity")
    assert check.passed
    assert "60" in check.summary


def test_the_option_of_2026_is_stored_row_by_row(collected: tuple[Warehouse, dict[str, Outcome], Path]) -> None:
    """375 minutes with open interest come out equal to the file."""
    warehouse, _, folder = collected
    key = "NSE_FO|57352|21-07-2026"
    expected = _rows_of_csv(folder / "upstox_2026_07_15" / "NSE_FO_57352_2026-07-15.csv", key)
    stored = _table(warehouse, f"SELECT {', '.join(COLUMNS)} FROM candles WHERE instrument_key = '{key}'")  # noqa: S608 -- constants
    assert [tuple(row) for row in stored.itertuples(index=False)] == sorted(expected)
    assert len(expected) == 375
