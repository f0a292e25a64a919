"""The published files of a home as tables of a database in memory: what every answer of `archive.py` is read from.

How they are found again after each publishing, opened, decrypted and asked belongs here; what is asked is up to
`archive.py`, how they are written to `published.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

from expirytrack_dagster.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import date, datetime
    from pathlib import Path

    import duckdb
    import pandas as pd
    import polars as pl
    import pyarrow as pa

    from expirytrack_dagster.warehouse.connection import Warehouse
    from expirytrack_dagster.warehouse.published import Manifest

ORDER = {
    "candles": "instrument_key, minute",
    "option_chain": "ts, strike_price",
    "implied_volatility": "ts, strike_price, instrument_type",
    "chain_metrics": "ts",
    "daily_bars": "day, instrument_key",
    "contracts": "expiry, strike_price, instrument_type",
}
"""In which order readers get the rows of a table."""


@dataclass(frozen=True, slots=True, repr=False)
class Answer:
    """The rows of an answer, as pandas, polars or Arrow; whatever reads Arrow's stream interface takes it as it is."""

    table: pa.Table

    def df(self) -> pd.DataFrame:
        """Return a pandas DataFrame: times datetime64[us, UTC], dates `datetime.date`, nulls NaN or None."""
        frame: pd.DataFrame = self.table.to_pandas()
        return frame

    def pl(self) -> pl.DataFrame:
        """Return a polars DataFrame; polars has to be installed."""
        import polars as pl  # noqa: PLC0415 -- optional

        frame = pl.from_arrow(self.table)
        if not isinstance(frame, pl.DataFrame):
            raise TypeError(frame)
        return frame

    def arrow(self) -> pa.Table:
        """Return an Arrow table."""
        return self.table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Hand the rows over to another library without copying them."""
        return self.table.__arrow_c_stream__(requested_schema)

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self.table.num_rows)

    def __repr__(self) -> str:
        """Return size and columns."""
        return f"<{len(self):,} rows: {', '.join(self.table.column_names)}; .df(), .pl() or .arrow()>"


@dataclass(frozen=True, slots=True)
class Version:
    """A cell's candles in one version, as `archive.Cell`; `source` is a file, or a snapshot of a lake that is past."""

    underlying: str
    expiry: date
    version: str
    rows: int
    complete: bool
    published_at: datetime
    current: bool
    source: Path | int | None = None


class Reading(Protocol):
    """What `archive.py` asks of the archive, however that is stored."""

    def versions(self, underlying: str | None, expiry: date | None) -> Iterable[Version]:
        """Return the candles of cells, by underlying and expiry; of one cell first as they are, then as they were."""

    def candles(self, version: Version) -> Answer:
        """Return all candles of a version, by contract and time."""

    def days_with_forward(self, underlying: str) -> list[date]:
        """Return the expiries that can say what the spot was, ascending."""

    def rows(self, table: str, underlying: str, expiry: date | None) -> Answer:
        """Return a table's rows of an underlying or of a cell, in its order."""

    def ask(
        self,
        query: str,
        bound: Mapping[str, Any],
        underlying: str | None = None,
        expiries: Iterable[date] | None = None,
    ) -> Answer:
        """Return the answer to a query; who names an underlying or expiries asks for nothing else."""


class Room:
    """The published files of one home, as views of a database in memory; threads may share it."""

    def __init__(self, home: Path) -> None:
        """Find the files; nothing is opened yet."""
        self._home = home
        self._folder = home / "published"
        self._lock = Lock()
        self._seen: tuple[int, int] | None = None
        self._manifest: Manifest | None = None
        self._memory: duckdb.DuckDBPyConnection | None = None

    def manifest(self) -> Manifest:
        """Return what is published now; where nothing is, the archive is published first."""
        with self._lock:
            seen = self._stamp()
            if seen is None:
                self._publish()
                seen = self._stamp()
            if self._manifest is None or seen != self._seen:
                from expirytrack_dagster.warehouse import published  # noqa: PLC0415 -- importing this module is cheap

                before, self._manifest, self._seen = self._manifest, published.load(self._folder), seen
                if before is not None and self._manifest is not None and before.key_id != self._manifest.key_id:
                    self._memory = None  # encrypted meanwhile, or no longer, or with another key
            if self._manifest is None:
                raise ConfigurationError(f"{self._folder} was removed while it was read: try again.")
            return self._manifest

    def versions(self, underlying: str | None, expiry: date | None) -> list[Version]:
        """Return what the manifest says of files of candles; the replaced ones of one cell too."""
        manifest = self.manifest()
        files = [file for file in manifest.files if file.table == "candles" and (file.rows or expiry)]
        older = manifest.kept if expiry else ()
        mine = [
            file
            for file in (*sorted(files, key=lambda file: (file.underlying, str(file.expiry))), *older)
            if underlying in {None, file.underlying} and expiry in {None, file.expiry}
        ]
        return [
            Version(
                file.underlying,
                file.expiry,
                file.version,
                file.rows,
                complete=file.sealed,
                published_at=file.published_at,
                current=file not in older,
                source=self._folder / file.path,
            )
            for file in mine
            if file.expiry is not None and file.version is not None
        ]

    def candles(self, version: Version) -> Answer:
        """Return what is in a file, and nothing else."""
        query = "SELECT * EXCLUDE (minute) FROM candles ORDER BY instrument_key, minute"
        return self._ask(query, {}, {**self._paths(None, set()), "candles": [str(version.source)]})

    def days_with_forward(self, underlying: str) -> list[date]:
        """Return the expiries of which the metrics of a chain are published, ascending."""
        return sorted(
            file.expiry
            for file in self.manifest().files
            if file.table == "chain_metrics" and file.underlying == underlying and file.expiry is not None and file.rows
        )

    def rows(self, table: str, underlying: str, expiry: date | None) -> Answer:
        """Return the rows of files, which lie in order: sorting 190,000 daily bars again takes longer than reading."""
        query = f"SELECT * FROM {table} WHERE $expiry::DATE IS NULL OR expiry = $expiry"  # noqa: S608 -- our own names
        return self.ask(query, {"expiry": expiry}, underlying, None if expiry is None else [expiry])

    def ask(
        self,
        query: str,
        bound: Mapping[str, Any],
        underlying: str | None = None,
        expiries: Iterable[date] | None = None,
    ) -> Answer:
        """Return the answer to a query over the files of an underlying and some expiries, or over all."""
        return self._ask(query, bound, self._paths(underlying, None if expiries is None else set(expiries)))

    def _ask(self, query: str, bound: Mapping[str, Any], paths: dict[str, list[str]]) -> Answer:
        with self._connection().cursor() as cursor:
            cursor.execute("SET TimeZone = 'UTC'")
            cursor.execute("SET VARIABLE files = $1", [paths])
            return Answer(cursor.execute(query, dict(bound)).to_arrow_table())

    def _paths(self, underlying: str | None, expiries: set[date] | None) -> dict[str, list[str]]:
        from expirytrack_dagster.warehouse.published import TABLES  # noqa: PLC0415 -- as above

        paths: dict[str, list[str]] = {table: [] for table in TABLES}
        for file in self.manifest().files:
            mine = underlying in {None, file.underlying}
            if mine and (expiries is None or file.expiry is None or file.expiry in expiries):
                paths[file.table].append(str(self._folder / file.path))
        return {table: found or [str(self._folder / "empty" / f"{table}.parquet")] for table, found in paths.items()}

    def _connection(self) -> duckdb.DuckDBPyConnection:
        with self._lock:
            if self._memory is None:
                self._memory = self._opened()
            return self._memory

    def _opened(self) -> duckdb.DuckDBPyConnection:
        """Make a database in memory with the archive's schema and macros, its tables replaced by views of the files."""
        import duckdb  # noqa: PLC0415 -- as above

        from expirytrack_dagster.warehouse.migrate import migrate  # noqa: PLC0415
        from expirytrack_dagster.warehouse.published import (  # noqa: PLC0415
            BY_CELL,
            READ_ENCRYPTED,
            TABLES,
            accept_key,
            physical_columns,
        )
        from expirytrack_dagster.warehouse.spilling import spilling, spilling_safely  # noqa: PLC0415

        key = self._warehouse().key
        memory = duckdb.connect(config=(spilling if key is None else spilling_safely)(self._folder))
        memory.execute("SET parquet_metadata_cache = true; SET TimeZone = 'UTC'")
        if key is not None:
            accept_key(memory, key)
        migrate(memory, self._folder)
        memory.execute(
            "CREATE SCHEMA described; CREATE TABLE described.columns AS "
            "SELECT table_name, column_name, data_type, comment FROM duckdb_columns() WHERE NOT internal"
        )
        empty = {table: [str(self._folder / "empty" / f"{table}.parquet")] for table in TABLES}
        memory.execute("SET VARIABLE files = $1", [empty])
        for table in TABLES:
            generated = physical_columns(memory, table)[1] if table in BY_CELL else {}
            more = "".join(f", {expression} AS {name}" for name, expression in generated.items())
            memory.execute(f"DROP TABLE {table}")
            source = f"read_parquet(getvariable('files').{table}{READ_ENCRYPTED if key else ''})"
            memory.execute(f"CREATE VIEW {table} AS SELECT *{more} FROM {source}")  # noqa: S608 -- our own names
        return memory

    def _stamp(self) -> tuple[int, int] | None:
        try:
            found = (self._folder / "manifest.json").stat()
        except FileNotFoundError:
            return None
        return found.st_mtime_ns, found.st_ino

    def _publish(self) -> None:
        from expirytrack_dagster.warehouse.published import publish  # noqa: PLC0415 -- as above

        publish(self._warehouse())

    def _warehouse(self) -> Warehouse:
        from expirytrack_dagster.settings import load_settings  # noqa: PLC0415 -- as above
        from expirytrack_dagster.warehouse.connection import open_warehouse  # noqa: PLC0415

        return open_warehouse(load_settings(home=self._home))


@lru_cache(maxsize=16)
def room_of(home: Path, snapshot: int | datetime | None = None) -> Reading:
    """Return the room of a home, or of what its lake was, the same one for every caller of this process.

    Raises:
        ConfigurationError: there is no such snapshot, or its archive is no lake.
    """
    from expirytrack_dagster.settings import load_settings  # noqa: PLC0415 -- importing this module is cheap

    settings = load_settings(home=home)
    if snapshot is None and not settings.address.is_lake:
        return Room(home)
    from expirytrack_dagster.warehouse.connection import open_warehouse  # noqa: PLC0415 -- as above
    from expirytrack_dagster.warehouse.lake_room import LakeRoom  # noqa: PLC0415

    warehouse = open_warehouse(settings)
    return LakeRoom(warehouse if snapshot is None else warehouse.at(snapshot))
