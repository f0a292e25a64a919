"""A lake as `archive.py` reads it: one read-only session of this process, in which each question sees the last commit.

It is the counterpart of `room.py`, which reads the published files of an archive in one file.
"""

from __future__ import annotations

from contextlib import closing, contextmanager
from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING, Any

from expirytrack_dagster.warehouse.faults import translated
from expirytrack_dagster.warehouse.history import listed
from expirytrack_dagster.warehouse.room import ORDER, Answer, Version
from expirytrack_dagster.warehouse.schema import CURRENT_SNAPSHOT, PRESENTED, STORE
from expirytrack_dagster.warehouse.versions import candles_version

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from datetime import date

    import duckdb

    from expirytrack_dagster.warehouse.connection import Warehouse

_SESSION = f"SET TimeZone = 'UTC'; SET search_path = 'memory.{PRESENTED},{STORE}.main'"

_CELLS = f"""
SELECT underlying, expiry, sealed_at IS NOT NULL, format('{{{{:016x}}}}', checksum), rows,
    coalesce(sealed_at, checked_at)
FROM (
    SELECT underlying, expiry, sum(candles)::BIGINT AS rows, max(checked_at) AS checked_at
    FROM {STORE}.main.contract_status {{at}} GROUP BY ALL HAVING sum(candles) > 0
) LEFT JOIN {STORE}.main.cell_seals {{at}} USING (underlying, expiry)
WHERE ($underlying IS NULL OR underlying = $underlying) AND ($expiry::DATE IS NULL OR expiry = $expiry)
ORDER BY underlying, expiry
"""  # noqa: S608 -- our own name

_DAYS = "SELECT DISTINCT expiry FROM chain_metrics WHERE underlying = $underlying AND forward IS NOT NULL ORDER BY ALL"


_DESCRIBED = f"""
CREATE SCHEMA described;
CREATE TABLE described.columns AS
SELECT table_name, column_name, data_type, comment FROM duckdb_columns() WHERE schema_name = '{PRESENTED}'
"""  # noqa: S608 -- our own name


class LakeRoom:
    """The session of one lake, or of what it was; threads may share it."""

    def __init__(self, warehouse: Warehouse) -> None:
        """Open nothing yet."""
        self._warehouse = warehouse
        self._lock = Lock()
        self._memory: duckdb.DuckDBPyConnection | None = None

    def snapshot(self) -> int:
        """Return the number of the last commit.

        Raises:
            StorageError: the lake cannot be read.
        """
        with self._cursor() as cursor:
            (number,) = cursor.execute(CURRENT_SNAPSHOT).fetchone() or (0,)
        return int(number)

    def versions(self, underlying: str | None, expiry: date | None) -> Iterator[Version]:
        """Yield the candles of cells as they are and, of one cell, as they were whenever it was finished."""
        with self._cursor() as cursor:
            found = _versions(cursor, underlying, expiry)
        yield from found
        if underlying is None or expiry is None:
            return
        known = {None, *(one.version for one in found)}
        with self._cursor() as cursor:
            history = listed(cursor, underlying, expiry)
        for snapshot in history:
            if (version := snapshot.version(underlying, expiry)) in known:
                continue
            known.add(version)
            with self._cursor() as cursor:
                past = _versions(cursor, underlying, expiry, f"AT (VERSION => {snapshot.number:d})")
            yield from (replace(one, source=snapshot.number, current=False) for one in past)

    def candles(self, version: Version) -> Answer:
        """Return all candles of a version, by contract and time."""
        query, bound = _selecting("candles", version.underlying, version.expiry)
        if not isinstance(version.source, int):
            return self.ask(query, bound)
        with self._warehouse.at(version.source).reading() as connection:
            return Answer(connection.execute(query, bound).to_arrow_table())

    def days_with_forward(self, underlying: str) -> list[date]:
        """Return the expiries that can say what the spot was, ascending."""
        with self._cursor() as cursor:
            return [day for (day,) in cursor.execute(_DAYS, {"underlying": underlying}).fetchall()]

    def rows(self, table: str, underlying: str, expiry: date | None) -> Answer:
        """Return a table's rows of an underlying or of a cell, in its order."""
        return self.ask(*_selecting(table, underlying, expiry))

    def ask(
        self,
        query: str,
        bound: Mapping[str, Any],
        underlying: str | None = None,  # noqa: ARG002 -- what a query names tells DuckLake which files to open
        expiries: Iterable[date] | None = None,  # noqa: ARG002 -- as above
    ) -> Answer:
        """Return the answer to a query over all that there is."""
        with self._cursor() as cursor:
            return Answer(cursor.execute(query, dict(bound)).to_arrow_table())

    @contextmanager
    def _cursor(self) -> Iterator[duckdb.DuckDBPyConnection]:
        with self._lock:
            if self._memory is None:
                self._memory = self._warehouse.stay()
                self._memory.execute(_DESCRIBED)
            cursor = self._memory.cursor()
        with closing(cursor), translated(self._warehouse.store.place):
            cursor.execute(_SESSION)
            yield cursor


def _selecting(table: str, underlying: str, expiry: date | None) -> tuple[str, dict[str, Any]]:
    columns = "* EXCLUDE (minute)" if table == "candles" else "*"
    query = f"""SELECT {columns} FROM {table}
    WHERE underlying = $underlying AND ($expiry::DATE IS NULL OR expiry = $expiry) ORDER BY {ORDER[table]}"""  # noqa: S608 -- our own names
    return query, {"underlying": underlying, "expiry": expiry}


def _versions(
    cursor: duckdb.DuckDBPyConnection, underlying: str | None, expiry: date | None, at: str = ""
) -> list[Version]:
    found = cursor.execute(_CELLS.format(at=at), {"underlying": underlying, "expiry": expiry}).fetchall()
    return [
        Version(
            symbol,
            day,
            seal or candles_version(cursor, {"underlying": symbol, "expiry": day}),
            rows,
            complete=complete,
            published_at=at,
            current=True,
        )
        for symbol, day, complete, seal, rows, at in found
    ]
