"""Cells of the sandbox's market, put into an archive as a collection leaves them, but without asking for them.

For tests and benchmarks of what is made from candles; whether they arrive whole is tested elsewhere.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from expirytrack_dagster.warehouse import cells

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import date
    from pathlib import Path

    from expirytrack_dagster.sandbox.bars import Bars
    from expirytrack_dagster.sandbox.market import Market
    from expirytrack_dagster.sandbox.synthetic import SyntheticMarket
    from expirytrack_dagster.warehouse.connection import Warehouse

SYMBOLS = {"NIFTY": "NSE_INDEX|Nifty 50", "BANKNIFTY": "NSE_INDEX|Nifty Bank", "RELIANCE": "NSE_EQ|INE002A01018"}
_COLUMNS = [
    "instrument_key",
    "instrument_type",
    "strike_price",
    "trading_symbol",
    "lot_size",
    "tick_size",
    "weekly",
    "underlying_key",
]


def store_cell(warehouse: Warehouse, market: SyntheticMarket, symbol: str, expiry: date, folder: Path) -> int:
    """List an expiry, its contracts and all their minutes; return how many candles there are."""
    return store_bars(warehouse, symbol, expiry, list_cell(warehouse, market, symbol, expiry)[1], folder)


def store_recorded(warehouse: Warehouse, market: Market, symbol: str, key: str, expiry: date, folder: Path) -> int:
    """The same for an underlying of any market; return how many candles there are."""
    return store_bars(warehouse, symbol, expiry, _list(warehouse, market, symbol, key, expiry)[1], folder)


def list_cell(
    warehouse: Warehouse, market: SyntheticMarket, symbol: str, expiry: date
) -> tuple[pd.DataFrame, dict[str, Bars]]:
    """List an expiry and its contracts; return these, and the minutes of each that the market has."""
    return _list(warehouse, market, symbol, SYMBOLS[symbol], expiry)


def _list(
    warehouse: Warehouse, market: Market, symbol: str, key: str, expiry: date
) -> tuple[pd.DataFrame, dict[str, Bars]]:
    rows = (market.option_contracts(key, expiry) or []) + (market.future_contracts(key, expiry) or [])
    contracts = pd.DataFrame(rows).reindex(columns=_COLUMNS)
    contracts["weekly"] = contracts["weekly"].astype("boolean")
    cells.write_expiries(warehouse, symbol, pd.DataFrame({"expiry": [expiry], "underlying_key": key}))
    cells.write_contracts(warehouse, symbol, expiry, contracts)
    found = {name: market.minutes(name) for name in sorted(contracts["instrument_key"])}
    return contracts, {name: bars for name, bars in found.items() if bars is not None}


def store_bars(warehouse: Warehouse, symbol: str, expiry: date, found: dict[str, Bars], folder: Path) -> int:
    """Write the candles of contracts, replacing those that they have; return how many."""
    table = pa.concat_tables([_table(key, bars) for key, bars in found.items()])
    staged = folder / f"{symbol}-{expiry}.parquet"
    pq.write_table(table, staged)
    counts = {key: len(bars) for key, bars in found.items()}
    checked = datetime(2025, 9, 15, tzinfo=UTC)
    status = pd.DataFrame(
        {
            "instrument_key": list(counts),
            "status": ["complete" if count else "empty_proven" for count in counts.values()],
            "requests": 1,
            "received": list(counts.values()),
            "candles": list(counts.values()),
            "quarantined": 0,
            "duplicates": 0,
            "first_ts": _instants(bars.time.min() if len(bars) else None for bars in found.values()),
            "last_ts": _instants(bars.time.max() if len(bars) else None for bars in found.values()),
            "checked_at": pd.Series([checked] * len(counts), dtype="datetime64[us, UTC]"),
        }
    )
    cells.write_candles(warehouse, symbol, expiry, [staged], status, "test")
    staged.unlink()
    return int(table.num_rows)


def _instants(seconds: Iterable[int | None]) -> pd.Series:
    instants = [None if second is None else datetime.fromtimestamp(int(second), UTC) for second in seconds]
    return pd.Series(instants, dtype="datetime64[us, UTC]")


def _table(key: str, bars: Bars) -> pa.Table:
    size = len(bars)
    nothing = pa.nulls(size, pa.string())
    return pa.table(
        {
            "instrument_key": pa.array(np.full(size, key), pa.string()),
            "ts": pa.array(bars.time * 1_000_000, pa.timestamp("us", tz="UTC")),
            **{name: getattr(bars, name) for name in ("open", "high", "low", "close", "volume", "open_interest")},
            "rule": nothing,
            "detail": nothing,
        }
    )
