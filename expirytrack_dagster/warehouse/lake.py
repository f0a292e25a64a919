"""An archive in a DuckLake: a catalogue in PostgreSQL or SQLite, and Parquet files in a folder or an object store.

Writers and readers of any number of processes, with PostgreSQL of any number of hosts, use it at once: a reader sees
the last commit before its query, and waits for nobody. DuckLake has no keys, checks, generated columns and macros.
The session has the rest as over SQLite (`schema.py`); what keys and checks refuse in a file is refused here before the
commit. Which commits exclude each other is in docs/decisions/0111-turns-in-a-lake.md.

Every file is encrypted with a key of its own; these keys lie in the catalogue, so who may read that may read all.
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import msgspec

from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.warehouse import migrate
from expirytrack_dagster.warehouse.encryption import load, load_extension, quoted
from expirytrack_dagster.warehouse.faults import is_away
from expirytrack_dagster.warehouse.schema import (
    PRESENTED,
    SEARCH_PATH,
    STORE,
    Growth,
    Table,
    growth,
    presenting,
    tables,
)
from expirytrack_dagster.warehouse.sessions import Sessions
from expirytrack_dagster.warehouse.spilling import spilling_safely
from expirytrack_dagster.warehouse.stores import Commit, committed, require_kind
from expirytrack_dagster.warehouse.turns import file_turn, server_turn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from expirytrack_dagster.address import Address
    from expirytrack_dagster.warehouse.data_path import DataPath

_EXTENSIONS = {"ducklake:sqlite": "sqlite_scanner", "ducklake:postgres": "postgres_scanner"}

# Rows of up to a hundred lie in the catalogue until maintenance writes them out: a seal or a note of a derived table
# would be a file of one row each.
_OPTIONS = {"parquet_compression": "zstd", "parquet_version": "2", "data_inlining_row_limit": "100"}

# A cell's rows stay in files of their own, so that its next version replaces files and rewrites none.
_BY_CELL = ("candles", "option_chain", "implied_volatility", "chain_metrics")

# What DuckLake and the engines of its catalogue say when a transaction came second. In SQLite every transaction that
# another one overtakes is refused; in PostgreSQL those that touch the same rows.
_SECOND = (
    "Transaction conflict",
    "database is locked",
    "could not serialize access",
    "deadlock detected",
    "duplicate key value violates unique constraint",
    "UNIQUE constraint failed",
    'relation "ducklake_metadata" already exists',  # two have made it
    "Current transaction is aborted",  # by what the statement before has met
    "Table with name ducklake_inlined_data",  # made by another one since this session has read which there are
)

# The versions of the finished cells of some underlyings.
_VERSIONS = f"""
SELECT underlying, expiry, format('{{:016x}}', checksum) FROM {STORE}.main.cell_seals
WHERE underlying IN (SELECT unnest($names::TEXT[]))
"""  # noqa: S608 -- our own name

_ELSEWHERE = re.compile(r'existing data path in the catalog "([^"]*)"')
_IS_PRESENTED = "SELECT 1 FROM duckdb_schemas() WHERE database_name = 'memory' AND schema_name = $1"
_NO_SNAPSHOT = "No snapshot found"
_NOT_THERE = ("creating a new DuckLake is explicitly disabled", "unable to open database file")

_SESSIONS = Sessions()


@dataclass(frozen=True, slots=True)
class Lake:
    """A DuckLake as it is, or, only to be read, as it was after a commit or at a time.

    Its files are always encrypted, with keys of its own, so that it takes none.
    """

    address: Address
    data: DataPath
    spill: Path
    snapshot: int | datetime | None = None
    file: None = None
    key: None = None

    @property
    def place(self) -> str:
        """The address."""
        return str(self.address)

    @property
    def readable(self) -> tuple[str, ...]:
        """Where its files lie."""
        return (self.data.place,)

    def exists(self) -> bool:
        """Say whether there is a catalogue.

        Raises:
            ConfigurationError: its files are elsewhere.
            duckdb.Error: the server cannot be asked.
        """
        if isinstance(self.address.place, Path):
            return self.address.place.exists()
        try:
            with closing(duckdb.connect(":memory:")) as connection, self._explained():
                self._load(connection)
                self._attach_known(connection, read_only=True)
        except duckdb.Error as error:
            if _is_missing(error):
                return False
            raise
        return True

    def at(self, snapshot: int | datetime) -> Lake:
        """Return it as it was after a commit, or at a time."""
        return replace(self, snapshot=snapshot)

    def connect(self, *, read_only: bool, config: Mapping[str, str | int]) -> duckdb.DuckDBPyConnection:
        """Attach the lake to a database in memory; one that is not there yet is made."""
        key = (self, read_only, _newest(), *sorted(config.items()))
        connection = _SESSIONS.take(key, config, lambda: self._connect(read_only=read_only, config=config))
        connection.execute(f"SET search_path = 'memory.main,{STORE}.main'")
        return connection

    def close(self, connection: duckdb.DuckDBPyConnection, *, failed: bool) -> None:
        """Keep the session for the next use."""
        (_SESSIONS.forget if failed else _SESSIONS.give_back)(connection)

    def _connect(self, *, read_only: bool, config: Mapping[str, str | int]) -> duckdb.DuckDBPyConnection:
        connection = duckdb.connect(":memory:", config={**spilling_safely(self.spill), **config})
        try:
            self._load(connection)
            self.data.prepare(connection)
            with self._explained():
                self._attach(connection, read_only=read_only)
        except BaseException:
            connection.close()
            raise
        return connection

    def is_current(self, connection: duckdb.DuckDBPyConnection) -> bool:
        """Ask the table `schema_version`, and present the rest; what is past has the schema that it had."""
        version = migrate.version_of(connection, self.place)
        if version != _newest() and self.snapshot is None:
            return False
        if version == 0:
            raise ConfigurationError(f"{self.snapshot} is from before the archive {self.place} was made.")
        if connection.execute(_IS_PRESENTED, [PRESENTED]).fetchone():
            connection.execute(SEARCH_PATH)
        else:
            connection.execute(presenting(version))
        return True

    def migrate(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Make the tables, or apply the steps that are missing, in one transaction of the lake."""
        if self.is_current(connection):
            return
        connection.execute(f"SET search_path = '{STORE}.main'")
        with self.transaction(connection, Commit("schema"), 60.0):
            version = migrate.version_of(connection, self.place)
            if version == 0:
                self._make(connection)
            else:
                for step in growth(version):
                    _apply(connection, step)
            for migration in migrate.migrations()[version:]:
                connection.execute(migrate.APPLIED, [migration.version, migration.name])
        connection.execute(f"SET search_path = 'memory.main,{STORE}.main'")
        connection.execute(presenting(_newest()))

    @contextmanager
    def transaction(self, connection: duckdb.DuckDBPyConnection, commit: Commit, patience: float) -> Iterator[None]:
        """Wait for the turn, commit what the block does if keys and checks hold, and tell the history what it was."""
        with self._turn(connection, commit, patience) as require_held, committed(connection):
            yield
            if commit.what != "schema":
                _require_sound(connection, commit)
            _tell(connection, commit)
            require_held()

    def may_pass(self, error: BaseException) -> bool:
        """Say whether another transaction was first, or a server was away."""
        return is_away(error) or (isinstance(error, duckdb.Error) and any(sign in str(error) for sign in _SECOND))

    def _load(self, connection: duckdb.DuckDBPyConnection) -> None:
        load_extension(connection)
        for extension in ("ducklake", _EXTENSIONS[self.address.kind]):
            load(connection, extension)

    def _attach(self, connection: duckdb.DuckDBPyConnection, *, read_only: bool) -> None:
        try:
            self._attach_known(connection, read_only=read_only)
        except duckdb.Error as error:
            if self.snapshot is not None or not _is_missing(error):
                raise
            try:
                self._require_new(connection)
            except ConfigurationError as refused:
                self._attach_made_meanwhile(connection, refused, read_only=read_only)
                return
            self._attach_known(connection, read_only=False, make=True)
            if read_only:
                connection.execute("SET search_path = 'memory.main'")
                connection.execute(f"DETACH {STORE}")
                self._attach_known(connection, read_only=True)

    def _attach_made_meanwhile(
        self, connection: duckdb.DuckDBPyConnection, refused: ConfigurationError, *, read_only: bool
    ) -> None:
        """Attach what another process has made since the lake was found missing; if none has, the refusal is right."""
        try:
            self._attach_known(connection, read_only=read_only)
        except duckdb.Error as error:
            raise (refused if _is_missing(error) else error) from None

    def _require_new(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Refuse to make a lake of what is there already.

        Raises:
            ConfigurationError: the catalogue's file has tables of another program, or the folder files of another lake,
                which maintenance would remove.
        """
        if isinstance(self.address.place, Path) and self.address.place.exists():
            path = str(self.address.place).replace("'", "''")
            connection.execute(f"ATTACH '{path}' AS other (TYPE sqlite, READ_ONLY)")
            found = connection.execute("SELECT 1 FROM duckdb_tables() WHERE database_name = 'other' LIMIT 1").fetchone()
            connection.execute("DETACH other")
            if found:
                raise ConfigurationError(
                    f"{self.address.place} is a SQLite file of another purpose: name a new file in "
                    "EXPIRYTRACK_WAREHOUSE."
                )
        if connection.execute("SELECT 1 FROM glob($1) LIMIT 1", [f"{self.data.place}**/*.parquet"]).fetchone():
            raise ConfigurationError(
                f"{self.data.place} holds Parquet files already, and a lake removes what it does not know there: name "
                "an empty place in EXPIRYTRACK_DATA_PATH."
            )

    def _attach_known(self, connection: duckdb.DuckDBPyConnection, *, read_only: bool, make: bool = False) -> None:
        engine = self.address.kind.removeprefix("ducklake:")
        if isinstance(self.address.place, Path):
            self.address.place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        where, data = (str(one).replace("'", "''") for one in (self.address.place, self.data.place))
        options = ["READ_ONLY" if read_only else "READ_WRITE", f"DATA_PATH '{data}'", "ENCRYPTED"]
        options.append(f"CREATE_IF_NOT_EXISTS {make}")
        if engine == "sqlite" and not read_only:
            options += ["META_JOURNAL_MODE 'WAL'", "META_BUSY_TIMEOUT 10000"]
        if isinstance(self.snapshot, datetime):
            options.append(f"SNAPSHOT_TIME '{self.snapshot.astimezone(UTC).isoformat()}'")
        elif self.snapshot is not None:
            options.append(f"SNAPSHOT_VERSION {self.snapshot:d}")
        connection.execute(f"ATTACH 'ducklake:{engine}:{where}' AS {STORE} ({', '.join(options)})")
        connection.execute(f"SET search_path = 'memory.main,{STORE}.main'")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say what can be done about a lake that does not open as it is named.

        Raises:
            ConfigurationError: its files are elsewhere, it has no such snapshot, or its catalogue is no SQLite file.
        """
        try:
            yield
        except duckdb.Error as error:
            if found := _ELSEWHERE.search(str(error)):
                raise ConfigurationError(
                    f"The archive {self.place} keeps its files in {found[1]}, not in {self.data.place}: set "
                    f"EXPIRYTRACK_DATA_PATH to that."
                ) from error
            if _NO_SNAPSHOT in str(error):
                raise ConfigurationError(
                    f"The archive {self.place} is not kept as it was at {self.snapshot}: 'expirytrack snapshots' lists "
                    "what is."
                ) from error
            if isinstance(self.address.place, Path):
                require_kind(self.address.place, "sqlite")
            raise

    def _turn(
        self, connection: duckdb.DuckDBPyConnection, commit: Commit, patience: float
    ) -> AbstractContextManager[Callable[[], None]]:
        if isinstance(self.address.place, Path):
            return file_turn(self.address.place, patience)
        return server_turn(connection, commit, patience)

    def _make(self, connection: duckdb.DuckDBPyConnection) -> None:
        for name, value in _OPTIONS.items():
            connection.execute(f"CALL {STORE}.set_option('{name}', '{value}')")
        for table in tables(_newest()):
            connection.execute(_bare(table))
            if table.name in _BY_CELL:
                connection.execute(f"ALTER TABLE {quoted(table.name)} SET PARTITIONED BY (underlying, expiry)")


def _is_missing(error: duckdb.Error) -> bool:
    return any(sign in str(error) for sign in _NOT_THERE)


def _newest() -> int:
    return migrate.migrations()[-1].version


def _apply(connection: duckdb.DuckDBPyConnection, step: Growth) -> None:
    connection.execute(_bare(step) if isinstance(step, Table) else step)


def _bare(table: Table) -> str:
    """Return the statement that makes what DuckLake can hold of a table."""
    columns = [
        f"{quoted(column.name)} {column.type}{' NOT NULL' if column.required else ''}"
        f"{f' DEFAULT {column.default}' if column.default else ''}"
        for column in table.columns
    ]
    return f"CREATE TABLE {quoted(table.name)} ({', '.join(columns)})"


def _tell(connection: duckdb.DuckDBPyConnection, commit: Commit) -> None:
    """Write into the history what a commit is about, as `history.py` reads it."""
    told: dict[str, object] = {"what": commit.what, "cells": commit.cells, "run_id": commit.run_id}
    if commit.cells and (commit.tables is None or "cell_seals" in commit.tables):
        names = sorted({name for name, _ in commit.cells})
        seals = connection.execute(_VERSIONS, {"names": names}).fetchall()
        versions = {(underlying, expiry): version for underlying, expiry, version in seals}
        told["versions"] = [versions.get(cell) for cell in commit.cells]
    connection.execute(
        f"CALL ducklake_set_commit_message('{STORE}', 'expirytrack', $what, extra_info => $told)",
        {"what": _sentence(commit), "told": msgspec.json.encode(told).decode()},
    )


def _sentence(commit: Commit) -> str:
    cells = ", ".join(f"{name} {day}" if day else name for name, day in commit.cells)
    return f"{commit.what} of {cells}" if cells else commit.what


def _require_sound(connection: duckdb.DuckDBPyConnection, commit: Commit) -> None:
    """Prove of the cells that were written what the keys and checks of their tables promise.

    Raises:
        duckdb.ConstraintException: as a file would have raised it.
    """
    for table in tables(_newest()):
        if commit.tables is not None and table.name not in commit.tables:
            continue
        bare, where, bound = f"{STORE}.main.{quoted(table.name)}", *_written(table, commit)
        for check in table.checks:
            if connection.execute(f"SELECT 1 FROM {bare} WHERE {where} AND NOT ({check}) LIMIT 1", bound).fetchone():  # noqa: S608 -- names of our own migrations
                raise duckdb.ConstraintException(f"CHECK constraint failed on table {table.name}: {check}.")
        if not table.key:
            continue
        key = ", ".join(map(quoted, table.key))
        if not {"underlying", "expiry"} & set(table.key):  # rows of other cells may have the same
            where = f"({key}) IN (SELECT {key} FROM {bare} WHERE {where})"  # noqa: S608 -- as above
        twice = f"SELECT {key} FROM {bare} WHERE {where} GROUP BY ALL HAVING count(*) > 1 LIMIT 1"  # noqa: S608 -- as above
        if found := connection.execute(twice, bound).fetchone():
            told = ", ".join(f"{name}: {value}" for name, value in zip(table.key, found, strict=True))
            raise duckdb.ConstraintException(f'Duplicate key "{told}" violates primary key constraint.')


def _written(table: Table, commit: Commit) -> tuple[str, dict[str, object]]:
    """Return a condition on the rows that a commit may have written."""
    names = {column.name for column in table.columns}
    if not commit.cells or "underlying" not in names:
        return "true", {}
    of_cells = "underlying IN (SELECT unnest($names::TEXT[]))"
    bound: dict[str, object] = {"names": sorted({name for name, _ in commit.cells})}
    days = {day for _, day in commit.cells}
    if "expiry" not in names or None in days:
        return of_cells, bound
    return f"{of_cells} AND expiry IN (SELECT unnest($days::DATE[]))", bound | {"days": list(days)}
