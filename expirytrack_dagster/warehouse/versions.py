"""The version of a cell's candles: a hash of their content, by which others say what they were made from.

Two archives that hold the same candles of a cell give it the same version, in whichever order the rows were stored. It
is the checksum of the seal (`seals.py`), so it is there for every cell, finished or not. All functions run inside the
caller's transaction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from expirytrack_dagster.warehouse.seals import HASHES, WIDTH

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import date

    import duckdb


@dataclass(frozen=True, slots=True)
class Change:
    """What a new version of a cell's candles changed: rows of contracts and minutes.

    `previous` is None for a first version, whose rows are all added.
    """

    version: str
    previous: str | None
    rows: int
    added: int
    removed: int
    changed: int


_OF_CELL = "underlying = $underlying AND expiry = $expiry"

_VERSION = f"""
SELECT format('{{:016x}}', ({HASHES} % {WIDTH})::UBIGINT) FROM candles WHERE {_OF_CELL}
"""  # noqa: S608 -- our own constants

_CONTENT = f"""
SELECT instrument_key, (count(*), sum(hash(minute, open, high, low, close, volume, open_interest)))
FROM candles WHERE {_OF_CELL} GROUP BY ALL
"""  # noqa: S608 -- our own constant

_NAMED = f"candles WHERE {_OF_CELL} AND instrument_key IN (SELECT unnest($keys::TEXT[]))"

_DIFFERENCE = """
WITH before AS (SELECT *, hash(open, high, low, close, volume, open_interest) AS bar FROM {before}),
later AS (SELECT *, hash(open, high, low, close, volume, open_interest) AS bar FROM {later}),
differing AS (
    SELECT instrument_key
    FROM (SELECT instrument_key, sum(hash(minute, bar)) AS content FROM before GROUP BY ALL) AS old
    FULL JOIN (SELECT instrument_key, sum(hash(minute, bar)) AS content FROM later GROUP BY ALL) AS new
    USING (instrument_key)
    WHERE old.content IS DISTINCT FROM new.content
)
SELECT
    count(*) FILTER (old.bar IS NULL),
    count(*) FILTER (new.bar IS NULL),
    count(*) FILTER (old.bar <> new.bar)
FROM (FROM before SEMI JOIN differing USING (instrument_key)) AS old
FULL JOIN (FROM later SEMI JOIN differing USING (instrument_key)) AS new USING (instrument_key, minute)
"""


def candles_version(connection: duckdb.DuckDBPyConnection, cell: Mapping[str, str | date]) -> str:
    """Return the version of a cell as 16 hexadecimal digits; zeros when it has no candles. 50 ms a million rows."""
    (version,) = connection.execute(_VERSION, cell).fetchone() or ("",)
    return str(version)


def difference(before: str, later: str) -> str:
    """Return the query that counts rows of contracts and minutes that were added, removed and changed.

    Args:
        before: what stands behind FROM for the earlier candles of a cell.
        later: the same for the later ones.
    """
    return _DIFFERENCE.format(before=before, later=later)


def change_between(
    earlier: duckdb.DuckDBPyConnection, later: duckdb.DuckDBPyConnection, cell: Mapping[str, str | date]
) -> Change:
    """Compare a cell as two connections see it: one from before a transaction, and that transaction's own.

    Rows of contracts that differ are held in memory, 100 bytes each.
    """
    old, new = (dict(side.execute(_CONTENT, cell).fetchall()) for side in (earlier, later))
    version, rows = candles_version(later, cell), sum(count for count, _ in new.values())
    if not old:
        return Change(version, None, rows, added=rows, removed=0, changed=0)
    named = {**cell, "keys": [key for key in old | new if old.get(key) != new.get(key)]}
    later.register("earlier", earlier.execute(f"FROM {_NAMED}", named).to_arrow_table())
    try:
        added, removed, changed = later.execute(difference("earlier", _NAMED), named).fetchone() or (0, 0, 0)
    finally:
        later.unregister("earlier")  # the session goes on
    return Change(version, candles_version(earlier, cell), rows, added, removed, changed)
