"""The version of a cell's candles: a hash of their content, by which others say what they were made from.

Two archives that hold the same candles of a cell give it the same version, in whichever order the rows were stored. It
is the checksum of the seal (`seals.py`), so it is there for every cell, finished or not. All functions run inside the
caller's transaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from expirytrack_dagster.warehouse.seals import HASHES, WIDTH

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import date

    import duckdb

_VERSION = f"""
SELECT format('{{:016x}}', ({HASHES} % {WIDTH})::UBIGINT) FROM candles
WHERE underlying = $underlying AND expiry = $expiry
"""  # noqa: S608 -- our own constants


def candles_version(connection: duckdb.DuckDBPyConnection, cell: Mapping[str, str | date]) -> str:
    """Return the version of a cell as 16 hexadecimal digits; zeros when it has no candles. 50 ms a million rows."""
    (version,) = connection.execute(_VERSION, cell).fetchone() or ("",)
    return str(version)
