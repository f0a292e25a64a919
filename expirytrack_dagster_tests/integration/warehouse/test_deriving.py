"""Deriving from a big cell: the memory of a whole process."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from expirytrack_dagster.warehouse.connection import Warehouse

if TYPE_CHECKING:
    from pathlib import Path

CONTRACTS = """
INSERT INTO main.contracts BY NAME
SELECT 'NSE_FO|' || n || '|28-08-2025' AS instrument_key, 'NIFTY' AS underlying, DATE '2025-08-28' AS expiry,
    CASE n % 2 WHEN 0 THEN 'CE' ELSE 'PE' END AS instrument_type, 20000 + n // 2 * 50 AS strike_price
FROM range(200) AS r(n)
"""
# Every option trades in every minute of 31 days: a bell of time value around 22,500 upon what it is worth at once.
CANDLES = """
INSERT INTO main.candles BY NAME
WITH priced AS (
    SELECT *, greatest(0, CASE instrument_type WHEN 'CE' THEN 1 ELSE -1 END * (22500 - strike_price))
        + 0.05 + 300 * exp(-((strike_price - 22500) / 1000) ** 2) AS price
    FROM contracts
)
SELECT underlying, expiry, instrument_key, (epoch(expiry) // 60 - 330 + 555 - 1440 * (30 - day) + m)::INT AS minute,
    price AS open, price AS high, price AS low, price AS close, 75 AS volume, 750 AS open_interest
FROM priced, range(31) AS d(day), range(375) AS e(m)
ORDER BY instrument_key, minute
"""
DERIVE = """
import sys
from datetime import date
from pathlib import Path
from expirytrack_dagster.warehouse.connection import Warehouse
from expirytrack_dagster.warehouse.derived import CELL_TABLES, derive
rows = [derive(Warehouse(Path(sys.argv[1])), table, "NIFTY", date(2025, 8, 28), 0.065).rows for table in CELL_TABLES]
# Not getrusage: what it tells begins with the size of the process that started this one.
(peak,) = (line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line[:6] == "VmHWM:")
print(*rows, int(peak) // 1000)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell the peak in this way")
def test_a_big_cell_is_derived_in_little_memory(tmp_path: Path) -> None:
    """2,325,000 candles, all four tables in one process: what does not fit is spilled (0.5 GB; 0.8 without a limit)."""
    warehouse = Warehouse(tmp_path / "a.duckdb")
    with warehouse.writing() as connection:
        connection.execute(CONTRACTS)
        connection.execute(CANDLES)
    done = subprocess.run(
        [sys.executable, "-c", DERIVE, str(warehouse.database)], check=True, capture_output=True, text=True
    )
    *rows, peak = map(int, done.stdout.split())
    assert rows == [200 * 31, 100 * 31 * 375, 200 * 31 * 375, 31 * 375]
    assert peak <= 650
