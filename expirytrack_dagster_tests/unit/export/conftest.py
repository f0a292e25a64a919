"""An archive to export: NIFTY monthly and weekly, and a share whose name is awkward and whose cell is not complete.

Call and put prices follow from one forward, so that what is at the money is known for each minute.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from expirytrack_dagster.collect.staging import CellStaging
from expirytrack_dagster.collect.states import ContractStatus, State, status_frame
from expirytrack_dagster.export.exporting import Exported, export
from expirytrack_dagster.settings import load_settings
from expirytrack_dagster.warehouse import cells
from expirytrack_dagster.warehouse.connection import Warehouse

if TYPE_CHECKING:
    from pathlib import Path

MONTHLY, WEEKLY = date(2025, 8, 28), date(2025, 9, 2)
DAYS = (date(2025, 8, 26), date(2025, 8, 28))
MINUTES = 12
STRIKES = (24300, 24400, 24500, 24600, 24700, 24800)
# At the money on the first day: 24500 throughout. On the second: 24500 until it jumps to 24700.
FORWARDS = {DAYS[0]: [24510.0] * MINUTES, DAYS[1]: [24490.0] * 6 + [24690.0] * 6}


@dataclass(frozen=True)
class Shop:
    """The archive, and a way to export it into a folder of the test."""

    warehouse: Warehouse
    folder: Path

    def export(self, *formats: str, to: str = "out", **options: Any) -> Exported:
        """Export and return what was made."""
        return export(load_settings(), self.warehouse, self.folder / to, formats, **options)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Return the answer of the archive to a query."""
        with self.warehouse.reading() as connection:
            return connection.execute(sql).fetchall()


def price(kind: str, strike: float | None, forward: float) -> float:
    """Return what the contract costs: intrinsic value and a time value that is the same for call and put."""
    if strike is None:
        return forward
    intrinsic = max(forward - strike, 0) if kind == "CE" else max(strike - forward, 0)
    return round(intrinsic + max(60 - abs(forward - strike) / 10, 0.05), 2)


def contract(
    underlying: str, expiry: date, kind: str, strike: float | None, token: int, segment: str
) -> dict[str, Any]:
    """Return a row of the table `contracts`."""
    day = f"{expiry:%d %b %y}".upper()
    name = f"{underlying} FUT {day}" if strike is None else f"{underlying} {strike:g} {kind} {day}"
    return {
        "instrument_key": f"NSE_FO|{token}|{expiry:%d-%m-%Y}", "instrument_type": kind, "strike_price": strike,
        "trading_symbol": name, "exchange_token": str(token), "lot_size": 75, "tick_size": 5.0, "minimum_lot": 75,
        "freeze_quantity": 1800.0, "weekly": None if strike is None else expiry == WEEKLY, "segment": "NSE_FO",
        "name": underlying, "underlying_key": segment,
    }  # fmt: skip


def bars(row: dict[str, Any], days: tuple[date, ...]) -> pd.DataFrame:
    """Return a bar a minute from 09:15 in India; every value says where it belongs."""
    made = []
    for day in days:
        for minute, forward in enumerate(FORWARDS[day]):
            close = price(row["instrument_type"], row["strike_price"], forward)
            made.append(
                {
                    "instrument_key": row["instrument_key"],
                    "ts": datetime(day.year, day.month, day.day, 3, 45, tzinfo=UTC) + timedelta(minutes=minute),
                    "open": close + 1, "high": close + 2.5, "low": close, "close": close,
                    "volume": 75 * (minute + 1), "open_interest": 75 * (1000 + minute),
                }
            )  # fmt: skip
    return pd.DataFrame(made).astype({"ts": "datetime64[us, UTC]"})


def status(row: dict[str, Any], state: State, **counts: Any) -> ContractStatus:
    """Return the state of a contract that was asked for once."""
    return ContractStatus(instrument_key=row["instrument_key"], status=state, checked_at=START, requests=1, **counts)


def store(
    warehouse: Warehouse, staging: Path, underlying: str, expiry: date, rows: list[dict[str, Any]], failed: int
) -> None:
    """Write a cell as the assets do; the last contracts have failed and have no bars."""
    cells.write_contracts(warehouse, underlying, expiry, pd.DataFrame(rows))
    frames, states = [], []
    for number, row in enumerate(rows):
        if number >= len(rows) - failed:
            states.append(status(row, State.FAILED))
            continue
        frame = bars(row, DAYS)
        frames.append(frame)
        first, last = (moment.to_pydatetime() for moment in (frame["ts"].min(), frame["ts"].max()))
        counts = {"received": len(frame), "candles": len(frame), "first_ts": first, "last_ts": last}
        states.append(status(row, State.COMPLETE, **counts))
    room = CellStaging(staging / underlying / expiry.isoformat())
    good = pd.concat(frames)
    batch = room.write(good, good.iloc[:0].assign(rule="", detail=""), states)
    cells.write_candles(warehouse, underlying, expiry, [batch.path], status_frame(states), "run-1")


START = datetime(2025, 9, 3, tzinfo=UTC)


@pytest.fixture(scope="session")
def stocked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fill the archive once and return its file."""
    folder = tmp_path_factory.mktemp("stocked")
    warehouse = Warehouse(folder / "archive.duckdb")
    fill(warehouse, folder)
    return warehouse.database


def fill(warehouse: Warehouse, folder: Path) -> None:
    """Write the cells; batches are staged in the folder."""
    index, share = "NSE_INDEX|Nifty 50", "NSE_EQ|INE101A01026"
    for underlying, key, days in (("NIFTY", index, [MONTHLY, WEEKLY]), ("M&M", share, [MONTHLY])):
        dates = pd.DataFrame({"expiry": days, "underlying_key": key, "discovered_at": START})
        cells.write_expiries(warehouse, underlying, dates.astype({"discovered_at": "datetime64[us, UTC]"}))
    for expiry, token in ((MONTHLY, 40000), (WEEKLY, 50000)):
        legs = [(kind, float(strike)) for strike in STRIKES for kind in ("CE", "PE")]
        rows = [contract("NIFTY", expiry, kind, strike, token + n, index) for n, (kind, strike) in enumerate(legs)]
        rows += [contract("NIFTY", expiry, "FUT", None, token + 99, index)] * (expiry == MONTHLY)
        store(warehouse, folder, "NIFTY", expiry, rows, failed=0)
    awkward = [
        contract("M&M", MONTHLY, "CE", strike, 60000 + n, share) for n, strike in enumerate((24400.0, 24487.5, 24500.0))
    ]
    store(warehouse, folder, "M&M", MONTHLY, awkward, failed=1)


@pytest.fixture
def shop(stocked: Path, tmp_path: Path) -> Shop:
    """Give the archive; exporting only reads it."""
    return Shop(Warehouse(stocked, lock_timeout=5.0), tmp_path / "shop")
