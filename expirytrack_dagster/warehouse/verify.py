"""Proving the archive from itself: is every row where the books say, once, in order, and as it was sealed?

First the evidence of an underlying (or of one cell) is gathered into small temporary tables, one row a contract, by one
pass over the candles of each cell; then each question is one query over them. All of it happens in one read-only
snapshot, so a collection under way cannot look like damage. What the answers are worth and what to do about them is
said in `verification.py`; minutes missing across the chain are judged by `quality/`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from expirytrack_dagster.warehouse.seals import FINAL, HASHES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import date

    import duckdb
    import pandas as pd

    from expirytrack_dagster.warehouse.connection import Warehouse


@dataclass(frozen=True, slots=True)
class Fact:
    """One answer that is not as it should be: what kind, where (no expiry: in many cells), how many, an example."""

    kind: str
    underlying: str
    expiry: date | None
    count: int
    example: str


@dataclass(frozen=True, slots=True)
class Totals:
    """How much was looked at: listed cells, sealed ones, and rows of the tables."""

    cells: int = 0
    sealed: int = 0
    contracts: int = 0
    candles: int = 0
    quarantined: int = 0

    def __add__(self, other: Totals) -> Totals:
        """Return the sums."""
        return Totals(
            self.cells + other.cells,
            self.sealed + other.sealed,
            self.contracts + other.contracts,
            self.candles + other.candles,
            self.quarantined + other.quarantined,
        )


_GATHER = {
    "dates": "SELECT * FROM expiries WHERE {of}",
    "listed": "SELECT * FROM contracts WHERE {of}",
    "states": f"SELECT *, status IN {FINAL} AS final FROM contract_status WHERE {{of}}",  # noqa: S608 -- our own constant
    "seals": "SELECT * FROM cell_seals WHERE {of}",
    "held": "SELECT expiry, instrument_key, count(*) AS rows FROM quarantine WHERE {of} GROUP BY ALL",
}

_READ = {
    "stored": "expiry DATE, instrument_key TEXT, rows BIGINT, first_ts TIMESTAMPTZ, last_ts TIMESTAMPTZ, "
    "hashes HUGEINT, runs BIGINT, backwards BIGINT, late BIGINT",
    "repeated": "expiry DATE, instrument_key TEXT, rows BIGINT",
}

_OF_CELL = "underlying = $underlying AND expiry = $expiry"

# Which rows of a contract break the order is read off the rows as they are stored: a window without ORDER BY streams.
# Midnight in India after the expiry is 18:30 of that day in UTC, the session's zone.
_STORED = f"""
SELECT expiry, instrument_key, count(*) AS rows, min(ts) AS first_ts, max(ts) AS last_ts, {HASHES} AS hashes,
    count(*) FILTER (before_key IS DISTINCT FROM instrument_key) AS runs,
    count(*) FILTER (before_key = instrument_key AND before_minute >= minute) AS backwards,
    count(*) FILTER (ts >= (expiry + INTERVAL '18:30')::TIMESTAMPTZ) AS late
FROM (
    SELECT *, lag(instrument_key) OVER () AS before_key, lag(minute) OVER () AS before_minute
    FROM candles WHERE {_OF_CELL}
)
GROUP BY expiry, instrument_key
"""  # noqa: S608 -- our own constants

# A contract that stands in one piece and never steps back holds no minute twice: only the others are sorted.
_REPEATED = f"""
SELECT expiry, instrument_key, count(*) - count(DISTINCT minute) AS rows FROM candles
WHERE {_OF_CELL} AND instrument_key IN
    (SELECT instrument_key FROM stored WHERE expiry = $expiry AND (runs > 1 OR backwards > 0))
GROUP BY expiry, instrument_key
"""  # noqa: S608 -- a constant condition

# Every question returns expiry, how many, and an example; no row where all is well.
_QUESTIONS = {
    "unasked": """
        SELECT expiry, count(*), min(instrument_key) FROM listed ANTI JOIN states USING (expiry, instrument_key)
        GROUP BY expiry
    """,
    "unfinished": """
        SELECT expiry, count(*), min(instrument_key || ' ' || status || coalesce(': ' || message, ''))
        FROM states SEMI JOIN listed USING (expiry, instrument_key) WHERE NOT final GROUP BY expiry
    """,
    "uncollected": """
        SELECT NULL AS expiry, count(*), min(expiry) FROM dates ANTI JOIN listed USING (expiry)
        ANTI JOIN seals USING (expiry) ANTI JOIN states USING (expiry) HAVING count(*) > 0
    """,
    "counts": """
        SELECT expiry, count(*), min(format('{} has {} candles, its state counts {}', instrument_key,
            coalesce(stored.rows, 0), coalesce(states.candles, 0)))
        FROM states FULL JOIN stored USING (expiry, instrument_key)
        WHERE (coalesce(states.candles, 0), states.first_ts, states.last_ts)
            IS DISTINCT FROM (coalesce(stored.rows, 0), stored.first_ts, stored.last_ts)
        AND (states.status IS NOT NULL OR (expiry, instrument_key) IN (SELECT (expiry, instrument_key) FROM listed))
        GROUP BY expiry
    """,
    "quarantine_counts": """
        SELECT expiry, count(*), min(format('{} has {} rows in quarantine, its state counts {}', instrument_key,
            coalesce(held.rows, 0), coalesce(states.quarantined, 0)))
        FROM states FULL JOIN held USING (expiry, instrument_key)
        WHERE coalesce(states.quarantined, 0) <> coalesce(held.rows, 0)
        AND (states.status IS NOT NULL OR (expiry, instrument_key) IN (SELECT (expiry, instrument_key) FROM listed))
        GROUP BY expiry
    """,
    "received": """
        SELECT expiry, count(*), min(format('{}: {} received, {} accounted for', instrument_key,
            coalesce(received, 0), candles + quarantined + duplicates + discarded))
        FROM states WHERE received IS DISTINCT FROM candles + quarantined + duplicates + discarded GROUP BY expiry
    """,
    "duplicates": "SELECT expiry, sum(rows), min(instrument_key) FROM repeated WHERE rows > 0 GROUP BY expiry",
    "order": """
        SELECT expiry, count(*), min(instrument_key)
        FROM stored ANTI JOIN (FROM repeated WHERE rows > 0) AS double USING (expiry, instrument_key)
        WHERE runs > 1 OR backwards > 0 GROUP BY expiry
    """,
    "after_expiry": "SELECT expiry, sum(late), min(instrument_key) FROM stored WHERE late > 0 GROUP BY expiry",
    "orphan_rows": """
        SELECT expiry, sum(rows), min(instrument_key)
        FROM (SELECT expiry, instrument_key, rows FROM stored UNION ALL
              SELECT expiry, instrument_key, rows FROM held)
        ANTI JOIN listed USING (expiry, instrument_key) ANTI JOIN states USING (expiry, instrument_key)
        GROUP BY expiry
    """,
    "withdrawn": """
        SELECT expiry, count(*), min(instrument_key) FROM states ANTI JOIN listed USING (expiry, instrument_key)
        GROUP BY expiry
    """,
    "no_expiry": """
        SELECT expiry, count(*), min(instrument_key)
        FROM (SELECT expiry, instrument_key FROM listed UNION SELECT expiry, instrument_key FROM states)
        ANTI JOIN dates USING (expiry) GROUP BY expiry
    """,
    "unsealed": """
        SELECT expiry, count(*), '' FROM listed LEFT JOIN states USING (expiry, instrument_key)
        ANTI JOIN seals USING (expiry) GROUP BY expiry HAVING bool_and(coalesce(final, false))
    """,
    "seal": """
        WITH now AS (
            SELECT expiry, sum(rows) AS candles, (sum(hashes) % 18446744073709551616)::UBIGINT AS checksum
            FROM stored GROUP BY expiry
        ),
        today AS (SELECT expiry, count(*) AS contracts FROM listed GROUP BY expiry),
        open AS (
            SELECT DISTINCT expiry FROM listed LEFT JOIN states USING (expiry, instrument_key)
            WHERE NOT coalesce(final, false)
        )
        SELECT expiry, 1, CASE
            WHEN expiry IN (FROM open) THEN 'not every contract is final'
            WHEN seals.contracts <> coalesce(today.contracts, 0)
                THEN format('{} contracts sealed, {} listed', seals.contracts, coalesce(today.contracts, 0))
            WHEN seals.candles <> coalesce(now.candles, 0)
                THEN format('{} candles sealed, {} stored', seals.candles, coalesce(now.candles, 0)::BIGINT)
            ELSE 'a value was changed' END
        FROM seals LEFT JOIN now USING (expiry) LEFT JOIN today USING (expiry)
        WHERE expiry IN (FROM open) OR (seals.contracts, seals.candles, seals.checksum)
            IS DISTINCT FROM (coalesce(today.contracts, 0), coalesce(now.candles, 0), coalesce(now.checksum, 0))
    """,
}

_TOTALS = """
SELECT (SELECT count(*) FROM dates), (SELECT count(*) FROM seals), (SELECT count(*) FROM listed),
    (SELECT coalesce(sum(rows), 0) FROM stored), (SELECT coalesce(sum(rows), 0) FROM held)
"""

_MINUTES = f"""
SELECT ts, count(*) AS contracts, count(*) FILTER (volume > 0) AS traded
FROM candles WHERE {_OF_CELL} GROUP BY ts ORDER BY ts
"""  # noqa: S608 -- a constant condition

_UNDERLYINGS = """
SELECT underlying, sum(rows) FROM (
    SELECT underlying, 0 AS rows FROM expiries UNION ALL SELECT underlying, 0 FROM contracts
    UNION ALL SELECT underlying, 0 FROM contract_status UNION ALL SELECT underlying, 0 FROM quarantine
    UNION ALL SELECT underlying, count(*) FROM candles GROUP BY underlying
)
GROUP BY underlying ORDER BY underlying
"""

_TABLES = ("expiries", "contracts", "contract_status", "quarantine", "cell_seals", "reviews")


def underlyings(warehouse: Warehouse) -> dict[str, int]:
    """Return the underlyings that any table names, each with its number of candles.

    Every value of the small tables is read on the way, so that damage in any of their blocks is met here.

    Raises:
        StorageError: also DatabaseCorrupt; a block cannot be read.
    """
    with warehouse.reading() as connection:
        for table in _TABLES:
            connection.execute(f"SELECT count(hash(row)) FROM {table} AS row").fetchall()  # noqa: S608 -- our own names
        rows = connection.execute(_UNDERLYINGS).fetchall()
    return {str(underlying): int(number) for underlying, number in rows}


class Snapshot:
    """The evidence of an underlying, or of one of its cells, while its connection is open: `read` first, then ask."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, underlying: str, expiry: date | None = None) -> None:
        """Gather everything but the candles.

        Args:
            connection: from `Warehouse.reading`.
            underlying: short symbol.
            expiry: only this cell; all of the underlying's if None.
        """
        self._connection = connection
        self._bound: dict[str, Any] = {"underlying": underlying}
        self._of = "underlying = $underlying"
        if expiry is not None:
            self._of, self._bound = _OF_CELL, {**self._bound, "expiry": expiry}
        for name, query in _GATHER.items():
            connection.execute(f"CREATE TEMP TABLE {name} AS {query.format(of=self._of)}", self._bound)
        for name, columns in _READ.items():
            connection.execute(f"CREATE TEMP TABLE {name} ({columns})")

    def cells(self) -> dict[date, int]:
        """Return the expiries with candles, ascending, each with their number."""
        counting = f"SELECT expiry, count(*) FROM candles WHERE {self._of} GROUP BY expiry ORDER BY expiry"  # noqa: S608 -- our own condition
        return dict(self._connection.execute(counting, self._bound).fetchall())

    def read(self, expiry: date) -> pd.DataFrame:
        """Pass over the candles of one cell, and return its distinct minutes as `reader.minutes` does."""
        cell = {**self._bound, "expiry": expiry}
        for name, query in (("stored", _STORED), ("repeated", _REPEATED)):
            self._connection.execute(f"INSERT INTO {name} {query}", cell)
        frame: pd.DataFrame = self._connection.execute(_MINUTES, cell).to_arrow_table().to_pandas()
        return frame

    def facts(self) -> Iterator[Fact]:
        """Ask every question and yield what is not as it should be."""
        for kind, question in _QUESTIONS.items():
            for expiry, count, example in self._connection.execute(f"{question} ORDER BY expiry").fetchall():
                yield Fact(kind, self._bound["underlying"], expiry, int(count), str(example))

    def totals(self) -> Totals:
        """Return how much was looked at."""
        return Totals(*(int(number) for number in self._connection.execute(_TOTALS).fetchone() or ()))
