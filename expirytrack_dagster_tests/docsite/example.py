"""The home that examples, notebook and tests of the documentation share: two cells of the sandbox's market.

Their futures overlap by some days, so that the continuous one rolls over a known gap. It is stored without asking
for it; how cells are asked for is tested elsewhere.
"""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

from expirytrack_dagster.sandbox.synthetic import SyntheticMarket
from expirytrack_dagster.warehouse.connection import Warehouse
from expirytrack_dagster.warehouse.derived import CELL_TABLES, derive, derive_continuous
from expirytrack_dagster.warehouse.published import publish
from expirytrack_dagster_tests.market import store_cell

if TYPE_CHECKING:
    from pathlib import Path

MARKET = SyntheticMarket(strikes=6, days=22, today=date(2025, 9, 15))
EXPIRIES = (date(2025, 7, 31), date(2025, 8, 28))
_RATE = 0.065


def store_example(home: Path) -> None:
    """Make the archive of a home: NIFTY at two monthly expiries, derived and published."""
    home.mkdir(parents=True, exist_ok=True)
    warehouse = Warehouse(home / "expirytrack.duckdb")
    for expiry in EXPIRIES:
        store_cell(warehouse, MARKET, "NIFTY", expiry, home)
        for table in CELL_TABLES:
            derive(warehouse, table, "NIFTY", expiry, _RATE)
    derive_continuous(warehouse, "NIFTY")
    publish(warehouse)
