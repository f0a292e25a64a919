"""Rows of one archive put into another, whatever kinds of store the two are.

What is stored is read by the names of the session and written by bare names, so that neither side's kind matters. When
an archive moves, and how that is proved, is decided elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from expirytrack_dagster.warehouse.encryption import quoted
from expirytrack_dagster.warehouse.migrate import migrations
from expirytrack_dagster.warehouse.schema import tables

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import date

    import duckdb

    from expirytrack_dagster.warehouse.connection import Warehouse
    from expirytrack_dagster.warehouse.schema import Table

_BATCH = 122_880
"""Rows that are on the way at once."""

VERSIONS = "schema_version"
"""The table that says how a store came to be, which is each store's own."""


def copy_all(source: Warehouse, target: Warehouse) -> None:
    """Put all rows, as they are at one moment, into an archive that holds none; raises like `Warehouse.write`."""
    with source.moment() as read, target.writing() as written:
        for table in tables(migrations()[-1].version):
            if table.name == VERSIONS:
                written.execute(f"DELETE FROM main.{VERSIONS}")  # noqa: S608 -- our own name
            copy_rows(read, written, table)


def copy_rows(
    source: duckdb.DuckDBPyConnection,
    target: duckdb.DuckDBPyConnection,
    table: Table,
    condition: str = "true",
    bound: Mapping[str, str | date] | None = None,
) -> int:
    """Put the rows of a table that meet a condition into the other archive's table of its name, and count them.

    They come in the order in which they are stored. Both connections are within their caller's transactions.
    """
    names = ", ".join(quoted(column.name) for column in table.columns)
    asked = f"SELECT {names} FROM {quoted(table.name)} WHERE {condition}"  # noqa: S608 -- names of our own migrations
    target.register("poured", source.execute(asked, dict(bound or {})).to_arrow_reader(_BATCH))
    try:
        inserted = target.execute(f"INSERT INTO main.{quoted(table.name)} BY NAME FROM poured").fetchone()
    finally:
        target.unregister("poured")
    return int(inserted[0]) if inserted else 0
