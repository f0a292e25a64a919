"""A data catalog of NautilusTrader: bars and instruments as Parquet, for `ParquetDataCatalog`.

Read off version 1.221: `data/bar/BAR_TYPE/` and `data/option_contract/ID/` hold files named by the first and the last
`ts_init` in them. Prices and quantities are whole numbers of 128 bits scaled by 10^16, on Windows of 64 bits scaled by
10^9: its own programs read no other width there. A bar is known when it is over, so its times are those of its end.
Open interest has no place in a bar. Prices are per unit and quantities in units, so the multiplier is one.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, time
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.export.written import Written, writing
from expirytrack_dagster.ist import IST

if TYPE_CHECKING:
    from pathlib import Path

    from expirytrack_dagster.export.cell import Cell

_WIDTH, _SCALE = (8, 9) if sys.platform == "win32" else (16, 16)
_VALUES = ("open", "high", "low", "close", "volume")
_MINUTE = 60_000_000_000
_CLOSING = time(15, 30, tzinfo=IST)
_EXCHANGES = {"BSE": "XBSE", "BCD": "XBSE", "MCX": "XIMC"}
_VENUES = {"XNSE": "NSE", "XBSE": "BSE", "XIMC": "MCX"}
_PLACES = 2
_RUPEES = {"margin_init": "0", "margin_maint": "0", "maker_fee": "0", "taker_fee": "0"}


def write(cell: Cell, folder: Path) -> Written:
    """Write the contracts of a cell that have bars, one query each, so that one contract is in memory at a time."""
    files: dict[str, int] = {}
    bars = 0
    for contract in cell.contracts.to_pylist():
        places = _places(contract["tick_size"])
        exact = f"{{0}}::DECIMAL(18, {places})::DECIMAL(38, {_SCALE}) AS {{0}}"
        columns = ", ".join(
            [*(exact.format(name) for name in _VALUES[:-1]), f"volume::DECIMAL(38, {_SCALE}) AS volume"]
        )
        query = f"{cell.select(f'minute, {columns}')} WHERE instrument_key = $key ORDER BY minute"
        table = cell.connection.execute(query, {**cell.bound, "key": contract["instrument_key"]}).to_arrow_table()
        if table.num_rows == 0:
            continue
        exchange = _EXCHANGES.get(str(contract["segment"])[:3], "XNSE")
        # An ampersand in an identifier ends the catalog's own SQL.
        identity = f"{contract['openalgo_symbol'].replace('&', '_')}.{_VENUES[exchange]}"
        for kind, name, rows in (
            ("bar", f"{identity}-{_specification(cell)}-LAST-EXTERNAL", _bars(table, cell, identity, places)),
            _instrument(contract, identity, exchange, places, int(table["minute"][0].as_py()) * _MINUTE),
        ):
            times = rows["ts_init"]
            path = f"data/{kind}/{name}/{_moment(times[0].as_py())}_{_moment(times[-1].as_py())}.parquet"
            with writing(folder / path):
                if (folder / path).parent.exists():
                    raise ConfigurationError(f"Two contracts would be called {identity}: export one of them at a time.")
                (folder / path).parent.mkdir(parents=True)
                pq.write_table(rows, folder / path)
            files[path] = rows.num_rows
        bars += table.num_rows
    return Written(bars, files)


def _bars(table: pa.Table, cell: Cell, identity: str, places: int) -> pa.Table:
    ends = (table["minute"].to_numpy() + cell.interval.minutes).astype("uint64") * np.uint64(_MINUTE)
    fields = [pa.field(name, pa.binary(_WIDTH), nullable=False) for name in _VALUES]
    fields += [pa.field(name, pa.uint64(), nullable=False) for name in ("ts_event", "ts_init")]
    about = {
        "bar_type": f"{identity}-{_specification(cell)}-LAST-EXTERNAL",
        "instrument_id": identity,
        "price_precision": str(places),
        "size_precision": "0",
    }
    values = [_scaled(table[name]) for name in _VALUES]
    return pa.Table.from_arrays([*values, pa.array(ends), pa.array(ends)], schema=pa.schema(fields, about))


def _scaled(column: pa.ChunkedArray) -> pa.Array:
    """Return decimals as the whole numbers that they are kept as: 128 bits, the least significant byte first."""
    kept = np.frombuffer(column.combine_chunks().buffers()[1], dtype="<i8").reshape(-1, 2)
    raw = np.ascontiguousarray(kept[:, : _WIDTH // 8])
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(_WIDTH), len(column), [None, pa.py_buffer(raw)])


def _instrument(
    contract: dict[str, Any], identity: str, exchange: str, places: int, first: int
) -> tuple[str, str, pa.Table]:
    """Return an option or a future as one row; it counts as listed from its first bar on."""
    future = contract["instrument_type"] == "FUT"
    closing = datetime.combine(contract["expiry"], _CLOSING)
    kind = {"CE": "CALL", "PE": "PUT"}.get(contract["instrument_type"])
    option = {} if future else {"option_kind": kind, "strike_price": f"{contract['strike_price']:.{places}f}"}
    known = {name: contract[name] for name in ("instrument_key", "trading_symbol", "underlying_key")}
    tick = contract["tick_size"]
    row = {
        "id": identity,
        "raw_symbol": contract["trading_symbol"],
        "underlying": contract["underlying"],
        "asset_class": _asset_class(contract),
        "exchange": exchange,
        **option,
        "currency": "INR",
        "activation_ns": first,
        "expiration_ns": int(closing.timestamp()) * 1_000_000_000,
        "price_precision": places,
        "size_precision": 0,
        "price_increment": f"{(tick / 100 if tick and tick > 0 else 10**-places):.{places}f}",
        "size_increment": "1",
        "multiplier": "1",
        "lot_size": str(int(contract["lot_size"] or 1)),
        **_RUPEES,
        "info": json.dumps(known).encode(),
        "ts_event": first,
        "ts_init": first,
    }
    unsigned = {"activation_ns", "expiration_ns", "ts_event", "ts_init"}
    types = {name: pa.uint64() for name in unsigned} | {"price_precision": pa.uint8(), "size_precision": pa.uint8()}
    fields = [(name, types.get(name, pa.binary() if name == "info" else pa.string())) for name in row]
    name = "FuturesContract" if future else "OptionContract"
    table = pa.Table.from_pylist([row], pa.schema(fields, {"class": name}))
    return "futures_contract" if future else "option_contract", identity, table


def _asset_class(contract: dict[str, Any]) -> str:
    key = str(contract["underlying_key"])
    if "_INDEX|" in key:
        return "INDEX"
    if "_EQ|" in key:
        return "EQUITY"
    return "FX" if str(contract["segment"]) in {"NCD_FO", "BCD_FO"} else "COMMODITY"


def _places(tick: float | None) -> int:
    """Return how many decimals prices have: two, or four where the tick (in paise) is a fraction of a paisa."""
    return _PLACES if tick is None or float(tick).is_integer() else 2 * _PLACES


def _specification(cell: Cell) -> str:
    minutes = cell.interval.minutes
    named = {60: "1-HOUR", 1440: "1-DAY"}
    return named.get(minutes, f"{minutes}-MINUTE")


def _moment(nanoseconds: int) -> str:
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H-%M-%S}-{rest:09}Z"
