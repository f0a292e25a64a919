"""Loading a big cell: within little memory, in little room, and rewritten without growing for ever."""

from __future__ import annotations

import time
from datetime import date
from typing import TYPE_CHECKING

import duckdb

from expirytrack_dagster.warehouse.cells import CellWrite, write_candles
from expirytrack_dagster.warehouse.connection import Warehouse

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

EXPIRY = date(2025, 8, 28)
CONTRACTS, DAYS, MINUTES = 120, 15, 375
ROWS = CONTRACTS * DAYS * MINUTES

# Prices walk in ticks of 0.05, bars are wider where prices are higher, volumes are log-normal lots, open interest
# moves in every other minute. Contracts arrive in no order.
GENERATE = f"""
COPY (
    WITH walk AS (
        SELECT c, d, m, 40 + (c * 7919) % 20000 + sum(round((random() - 0.5) * (2 + c)))
            OVER (PARTITION BY c ORDER BY d, m) AS o, 1 + (c % 30) AS width
        FROM range({CONTRACTS}) a(c), range({DAYS}) b(d), range({MINUTES}) e(m)
    ), bars AS (
        SELECT *, greatest(1, o) AS o1, greatest(1, o + round((random() - 0.5) * width)) AS c1 FROM walk
    )
    SELECT 'NSE_FO|' || (40000 + (c * 37) % {CONTRACTS}) || '|28-08-2025' AS instrument_key,
        TIMESTAMPTZ '2025-06-02 03:45:00+00' + d * INTERVAL 1 DAY + m * INTERVAL 1 MINUTE AS ts,
        round(o1 * 0.05, 2) AS open,
        round((greatest(o1, c1) + round(random() * width / 2)) * 0.05, 2) AS high,
        round(greatest(1, least(o1, c1) - round(random() * width / 2)) * 0.05, 2) AS low,
        round(c1 * 0.05, 2) AS close,
        (exp(random() * (1 + c % 7)) * 75)::BIGINT // 75 * 75 AS volume,
        ((1000 + c * 500 + (d * {MINUTES} + m) // 2 + (random() * 40)::BIGINT) * 75)::BIGINT AS open_interest,
        NULL::TEXT AS rule, NULL::TEXT AS detail
    FROM bars
) TO $path (FORMAT parquet, COMPRESSION zstd)
"""  # noqa: S608 -- the numbers above


def staged(folder: Path) -> tuple[Path, pd.DataFrame]:
    """Put the rows on disk and return the file and its states."""
    path = folder / "batch-00001.parquet"
    with duckdb.connect() as connection:
        connection.execute(GENERATE, {"path": str(path)})
        states = connection.execute(
            "SELECT instrument_key, 'complete' AS status, 1 AS requests, count(*) AS received, count(*) AS candles,"
            " 0 AS quarantined, 0 AS duplicates, max(ts) AS checked_at FROM read_parquet(?) GROUP BY ALL",
            [str(path)],
        ).to_arrow_table()
    status: pd.DataFrame = states.to_pandas()
    return path, status


def test_a_big_cell_needs_little_room_and_memory(tmp_path: Path) -> None:
    """Sorted within 160 MB, and writing it again and again reuses the room.

    The limit on bytes guards the layout (a key on candles takes 73); how far below it rows come depends on how liquid
    the contracts are, and every one of these trades in every minute.
    """
    path, status = staged(tmp_path)
    warehouse = Warehouse(tmp_path / "a.duckdb", settings={"memory_limit": "160MB", "threads": 2})
    sizes = []
    for _ in range(4):
        began = time.perf_counter()
        assert write_candles(warehouse, "NIFTY", EXPIRY, [path], status, "run-1") == CellWrite(ROWS, 0)
        sizes.append(warehouse.database.stat().st_size / ROWS)
        rate = ROWS / (time.perf_counter() - began)
        print(f"{ROWS} candles: {rate:,.0f} rows/s, {sizes[-1]:.1f} bytes a candle")  # noqa: T201  a measured figure
    assert sizes[0] <= 24
    assert max(sizes) <= 2.3 * sizes[0]  # the old rows and the new ones, until the commit
    with warehouse.reading() as connection:
        assert connection.execute("SELECT count(*) FROM candles").fetchone() == (ROWS,)
