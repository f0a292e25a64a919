"""Tables: Parquet, CSV and Feather, a file of candles and a file of contracts for each cell.

DuckDB writes Parquet and CSV itself, in one pass that holds no more than a row group. A line of CSV is put together
as text: measured, that is faster than a dozen columns, each looked through for a quote. No value can need one, since
names are checked when the cell is opened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from expirytrack_dagster.export.written import Written, writing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from expirytrack_dagster.export.cell import Cell

_LISTED = """
SELECT instrument_key, underlying, expiry, instrument_type, strike_price, trading_symbol, openalgo_symbol,
    exchange_token, lot_size, tick_size, minimum_lot, freeze_quantity, weekly, segment, name, underlying_key
FROM chosen
"""
_BATCH = 100_000

CSV_COLUMNS = (
    "openalgo_symbol,date,time,instrument,expiry,strike,option_type,trading_symbol,timestamp,"
    "open,high,low,close,volume,oi"
)
"""The header that users of ExpiryTrack's exports know."""

_LABELS = """
CREATE OR REPLACE TEMP TABLE labels AS
SELECT
    instrument_key AS label_key,
    openalgo_symbol || ',' AS before,
    concat(',', concat_ws(',', underlying, expiry, strike, instrument_type, trading_symbol), ',') AS between
FROM chosen
"""

# A cell has some thousand different minutes and a thousand times as many rows: each is put into words once.
_CLOCK = """
CREATE OR REPLACE TEMP TABLE clock AS
SELECT
    minute,
    strftime(make_timestamp((minute + 330)::BIGINT * 60000000), '%Y-%m-%d,%H:%M:%S') AS day_and_time,
    strftime(make_timestamp((minute + 330)::BIGINT * 60000000), '%Y-%m-%dT%H:%M:%S+05:30,') AS moment
FROM (SELECT DISTINCT minute FROM ({bars}) AS bars)
"""

_LINES = """
SELECT concat(before, day_and_time, between, moment, open, ',', high, ',', low, ',', close, ',', volume, ',',
    open_interest) AS "{header}"
FROM ({bars}) AS bars
JOIN labels ON label_key = instrument_key
JOIN clock USING (minute)
"""


def write_parquet(cell: Cell, folder: Path) -> Written:
    """Write `candles.parquet` with the columns of the archive's table and `contracts.parquet`, joined by their keys.

    Times are UTC instants.
    """
    options = "FORMAT parquet, COMPRESSION zstd"
    with cell.candles() as query:
        bars = _copy(cell, query, cell.bound, folder / "candles.parquet", options)
    contracts = _copy(cell, _LISTED, {}, folder / "contracts.parquet", options)
    return Written(bars, {"candles.parquet": bars, "contracts.parquet": contracts})


def write_csv(cell: Cell, folder: Path) -> Written:
    """Write `candles.csv` and `contracts.csv`.

    `date`, `time` and `timestamp` are the bar's start in India, `expiry` is an ISO date, `strike` is empty and
    `option_type` FUT for a future, `oi` is open interest in units of the underlying.
    """
    cell.connection.execute(_LABELS)
    cell.connection.execute(_CLOCK.format(bars=cell.bars), cell.bound)
    lines = _LINES.format(header=CSV_COLUMNS, bars=cell.bars)
    as_they_are = "FORMAT csv, HEADER, DELIMITER '|', QUOTE '', ESCAPE ''"
    bars = _copy(cell, lines, cell.bound, folder / "candles.csv", as_they_are)
    contracts = _copy(cell, _LISTED, {}, folder / "contracts.csv", "FORMAT csv, HEADER")
    return Written(bars, {"candles.csv": bars, "contracts.csv": contracts})


def write_feather(cell: Cell, folder: Path) -> Written:
    """Write `candles.feather` and `contracts.feather`, which are Arrow IPC files."""
    with cell.candles() as query:
        bars = _stream(cell, query, cell.bound, folder / "candles.feather")
    contracts = _stream(cell, _LISTED, {}, folder / "contracts.feather")
    return Written(bars, {"candles.feather": bars, "contracts.feather": contracts})


def _copy(cell: Cell, query: str, bound: Mapping[str, Any], path: Path, options: str) -> int:
    where = str(path).replace("'", "''")
    with writing(path):
        (rows,) = cell.connection.execute(f"COPY ({query}) TO '{where}' ({options})", bound).fetchone() or (0,)
    return int(rows)


def _stream(cell: Cell, query: str, bound: Mapping[str, Any], path: Path) -> int:
    rows = 0
    with writing(path):
        reader = cell.connection.execute(query, bound).to_arrow_reader(_BATCH)
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, reader.schema, options=options) as sink:
            for batch in reader:
                sink.write_batch(batch)
                rows += batch.num_rows
    return rows
