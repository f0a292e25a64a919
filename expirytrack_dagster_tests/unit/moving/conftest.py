"""An archive with everything in it that can be moved: finished cells, one with bad rows, and what is derived."""

from __future__ import annotations

import shutil
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from expirytrack_dagster.sandbox.synthetic import SyntheticMarket
from expirytrack_dagster.warehouse import cells
from expirytrack_dagster.warehouse.connection import Warehouse
from expirytrack_dagster.warehouse.derived import CELL_TABLES, derive, derive_continuous
from expirytrack_dagster_tests.market import store_cell

if TYPE_CHECKING:
    from pathlib import Path

TODAY = date(2025, 9, 15)
CELLS = (("NIFTY", date(2025, 8, 28)), ("NIFTY", date(2025, 8, 21)), ("RELIANCE", date(2025, 8, 28)))
UNASKED = date(2025, 9, 9)

_REVIEW = """
INSERT INTO main.reviews BY NAME
SELECT $1 AS reviewed_at, 'a person' AS reviewer, 'discard' AS action, underlying, expiry, instrument_key,
    'ohlc' AS rule, 'run' AS run_id, 1 AS rows
FROM contracts LIMIT 1
"""
_BAD_ROWS = """
INSERT INTO main.quarantine BY NAME
SELECT underlying, expiry, instrument_key, ts, open, high, low, close, volume, open_interest, 'ohlc' AS rule,
    'high 1 is below low 2' AS detail, 'run' AS run_id, now() AS quarantined_at
FROM candles LIMIT 7
"""


@pytest.fixture(scope="session")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the archive once; nobody may write into it."""
    folder = tmp_path_factory.mktemp("collected")
    warehouse = Warehouse(folder / "expirytrack.duckdb")
    market = SyntheticMarket(strikes=2, days=2, today=TODAY)
    for symbol, day in CELLS:
        store_cell(warehouse, market, symbol, day, folder)
    for table in CELL_TABLES:
        derive(warehouse, table, *CELLS[0], rate=0.065)
    derive(warehouse, "daily_bars", *CELLS[2], rate=0.065)
    derive_continuous(warehouse, "RELIANCE")
    later = pd.DataFrame({"expiry": [UNASKED], "underlying_key": "NSE_INDEX|Nifty 50"})
    cells.write_expiries(warehouse, "NIFTY", later)
    with warehouse.writing() as connection:
        connection.execute(_REVIEW, [datetime(2025, 9, 1, tzinfo=UTC)])
        connection.execute(_BAD_ROWS)
    return warehouse.database


@pytest.fixture
def source(collected: Path, tmp_path: Path) -> Warehouse:
    """Give a copy of the archive."""
    path = tmp_path / "source" / "expirytrack.duckdb"
    path.parent.mkdir()
    shutil.copyfile(collected, path)
    return Warehouse(path, lock_timeout=5.0)
