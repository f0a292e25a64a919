"""Queries that a person writes, against an archive that they cannot change.

One statement that only reads and names only the archive (`reach.py`); it is open read-only and confined besides
(`Warehouse.querying`), so that whatever these might let through still changes nothing. How answers are printed is up to
the command; our own queries are in `reader.py`.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import duckdb

from expirytrack_dagster.errors import QueryRefused
from expirytrack_dagster.warehouse.reach import require_within

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from expirytrack_dagster.warehouse.connection import Warehouse

_READING = {duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN}  # SHOW, DESCRIBE and SUMMARIZE are SELECTs
_MISTAKES = (duckdb.ProgrammingError, duckdb.DataError, duckdb.NotSupportedError, duckdb.PermissionException)
BATCH = 10_000
"""Rows of a batch."""


@contextmanager
def answered(warehouse: Warehouse, sql: str) -> Iterator[pa.RecordBatchReader]:
    """Yield the answer in batches; the archive stays open, and locked for writers, until the block ends.

    Raises:
        QueryRefused: it is not one statement that reads, reaches outside the archive, or is no valid SQL.
        DatabaseLocked: and all else that `Warehouse.reading` raises.
    """
    with warehouse.querying() as connection, _mistakes():
        statements = connection.extract_statements(sql)
        if len(statements) != 1:
            raise QueryRefused(f"One query at a time, please: this is {len(statements)}.")
        if statements[0].type not in _READING:
            kind = str(statements[0].type).rpartition(".")[2]
            raise QueryRefused(f"{kind} is not for reading: the archive is only read here, and nothing was changed.")
        require_within(sql)
        yield connection.execute(statements[0]).to_arrow_reader(BATCH)


@contextmanager
def _mistakes() -> Iterator[None]:
    try:
        yield
    except _MISTAKES as error:
        raise QueryRefused(f"{str(error).partition(chr(10))[0].rstrip('!.')}.") from error
