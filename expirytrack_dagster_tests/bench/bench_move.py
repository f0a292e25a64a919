"""How fast an archive moves to another address, proved, beside DuckDB's own copy of the same tables.

The floor attaches both files to one session and copies each table with one statement: nothing is proved, nothing could
go on, and nobody else could use the source. The move reads every row of both sides twice to prove them.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from expirytrack_dagster.address import standard
from expirytrack_dagster.moving.archive import copy_archive
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket
from expirytrack_dagster.warehouse.connection import Warehouse
from expirytrack_dagster.warehouse.derived import CELL_TABLES, derive
from expirytrack_dagster.warehouse.stores import store_of
from expirytrack_dagster_tests.bench.figures import Figure
from expirytrack_dagster_tests.bench.load import TODAY
from expirytrack_dagster_tests.bench.timing import timed
from expirytrack_dagster_tests.market import store_cell

if TYPE_CHECKING:
    from collections.abc import Iterator

_RATE = 0.065


def run(*, quick: bool) -> Iterator[Figure]:
    """Yield rows a second to a DuckDB file and to a lake; quick, there are few."""
    strikes, days, count = (4, 2, 2) if quick else (20, 20, 4)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        source = Warehouse(folder / "source.duckdb")
        market = SyntheticMarket(strikes=strikes, days=days, today=TODAY)
        for day in (market.expiries("NSE_INDEX|Nifty 50") or [])[-count:]:
            store_cell(source, market, "NIFTY", day, folder)
            for table in CELL_TABLES:
                derive(source, table, "NIFTY", day, _RATE)
        floor, rows = _floor(source.database, folder / "floor.duckdb")
        for kind in ("duckdb", "ducklake:sqlite"):
            target = Warehouse(store_of(standard(kind, folder / "there")))
            seconds, moved = timed(partial(copy_archive, source, target))
            yield Figure(
                name=f"move, rows a second to {kind}",
                value=rows / seconds,
                unit="rows/s",
                beside=f"DuckDB's own INSERT of all tables: {rows / floor:,.0f} rows/s",
                ratio=floor / seconds,
                bar="proved equal",
                passed=moved.equal,
                note=f"{rows:,} rows in {count} cells, {seconds:.1f} s; both sides are read twice to prove them",
            )


def _floor(source: Path, target: Path) -> tuple[float, int]:
    """Return the seconds of copying all tables, and how many rows they have."""
    with duckdb.connect() as session:
        session.execute(f"ATTACH '{source}' AS source (READ_ONLY)")
        session.execute(f"ATTACH '{target}' AS target")
        names = session.execute(
            "SELECT table_name, string_agg(column_name, ', ' ORDER BY column_index) FROM duckdb_columns()"
            " JOIN duckdb_tables() USING (database_name, table_name)"
            " WHERE database_name = 'source' AND NOT coalesce(column_default LIKE 'CAST%' OR column_default LIKE '%(%',"
            " false) GROUP BY ALL"
        ).fetchall()

        def copy() -> int:
            for table, columns in names:
                session.execute(f"CREATE TABLE target.{table} AS SELECT {columns} FROM source.{table}")  # noqa: S608 -- the file's own names
            session.execute("CHECKPOINT target")
            counted = (session.execute(f"SELECT count(*) FROM target.{table}").fetchone() for table, _ in names)  # noqa: S608 -- as above
            return sum(found[0] for found in counted if found)

        return timed(copy)
