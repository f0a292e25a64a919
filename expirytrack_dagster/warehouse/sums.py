"""Every table of an archive as two numbers: how many rows, and the sum of their hashes; for telling copies apart.

Like a seal's, a sum finds accidents, not forgery, and belongs to the version of DuckDB that hashed. All blocks of all
tables are read for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from expirytrack_dagster.warehouse.encryption import quoted
from expirytrack_dagster.warehouse.seals import WIDTH

if TYPE_CHECKING:
    import duckdb

    from expirytrack_dagster.warehouse.connection import Warehouse

_TABLES = """
SELECT DISTINCT table_name FROM duckdb_tables()
WHERE schema_name = 'main' AND NOT internal AND NOT temporary ORDER BY table_name
"""


class TableSum(NamedTuple):
    """Rows of a table, and the sum of their hashes modulo 2^64."""

    rows: int
    checksum: int


def table_sums(warehouse: Warehouse) -> dict[str, TableSum]:
    """Return the numbers of every table by its name.

    Raises:
        StorageError: also DatabaseCorrupt: a block cannot be read.
    """
    with warehouse.reading() as connection:
        return sums_of(connection)


def sums_of(connection: duckdb.DuckDBPyConnection) -> dict[str, TableSum]:
    """Return the numbers of every table of the database in use by its name."""
    return {
        name: TableSum(
            *connection.execute(
                f"SELECT count(*), (coalesce(sum(hash(one)), 0) % {WIDTH})::UBIGINT FROM {quoted(name)} AS one"  # noqa: S608 -- names that the catalogue gave
            ).fetchall()[0]
        )
        for (name,) in connection.execute(_TABLES).fetchall()
    }
