"""The kinds of store that an archive can be in, each with how a session opens it and brings its schema up to date.

All that is written names bare tables (`main.candles`), all that is asked names what the migrations describe
(`candles`). In a DuckDB file these are the same. A SQLite file holds the bare columns, and a session puts DuckDB's
types, generated columns, views and macros over them (`schema.py`), so that no caller asks which kind it has. A lake
does the same, and is a module of its own (`lake.py`). Locks and the time for which a store is open belong to
`connection.py`.
"""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import duckdb

from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.warehouse import encryption, migrate
from expirytrack_dagster.warehouse.data_path import DataPath
from expirytrack_dagster.warehouse.encryption import load, quoted
from expirytrack_dagster.warehouse.faults import is_locked
from expirytrack_dagster.warehouse.schema import STORE, Table, migrated, presenting, tables, viewing
from expirytrack_dagster.warehouse.spilling import spilling_safely

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager
    from datetime import date, datetime

    from expirytrack_dagster.address import Address

# Where each kind of file has its mark, and what it is; an encrypted DuckDB file has it too.
_MARKS = {"duckdb": (8, b"DUCK"), "sqlite": (0, b"SQLite format 3\0")}
_NAMES = {"duckdb": "a DuckDB file", "sqlite": "a SQLite file"}

# DuckDB opens a SQLite file as one, with an extension that it fetches from the network.
_NO_OTHER: dict[str, str | int] = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}

# What SQLite lacks is kept in what it has: `update` cannot bind a time, and 64 bits without a sign do not fit.
_SQLITE_TYPES = {"BOOLEAN": "BIGINT", "INTEGER": "BIGINT", "FLOAT": "DOUBLE", "VARCHAR": "TEXT"} | dict.fromkeys(
    ("TIMESTAMP WITH TIME ZONE", "UBIGINT"), "TEXT"
)


@dataclass(frozen=True, slots=True)
class Commit:
    """What a transaction is about: what it writes, of which cells, for which run.

    In a lake, transactions that name the same cell take turns, and the history tells all of this. A cell without an
    expiry stands for all of an underlying's; no cell, for the whole archive. `tables` are those whose keys are proved
    where the store itself has none; all if None.
    """

    what: str
    cells: tuple[tuple[str, date | None], ...] = ()
    run_id: str | None = None
    tables: tuple[str, ...] | None = None


class Store(Protocol):
    """One archive's place."""

    @property
    def place(self) -> Path | str:
        """What sentences call it."""

    @property
    def file(self) -> Path | None:
        """The file that one writes or several read, beside which its lock lies; None where writers and readers meet."""

    @property
    def key(self) -> bytes | None:
        """What its file is encrypted with; None if it is plain, or no file."""

    @property
    def readable(self) -> tuple[str, ...]:
        """The folders and buckets that a query needs beside what is attached."""

    def exists(self) -> bool:
        """Say whether there is anything yet, without making it; raises like `connect`."""

    def at(self, snapshot: int | datetime) -> Store:
        """Return what it was after a commit, by its number, or at a time; that can only be read.

        Raises:
            ConfigurationError: the store keeps nothing of that.
        """

    def connect(self, *, read_only: bool, config: Mapping[str, str | int]) -> duckdb.DuckDBPyConnection:
        """Open it; `is_current` or `migrate` must follow before anything is asked.

        Raises:
            duckdb.Error: as DuckDB raises it.
            ConfigurationError: its address names something else, or a package is missing.
        """

    def close(self, connection: duckdb.DuckDBPyConnection, *, failed: bool) -> None:
        """End a use of `connect`, which has failed or not."""

    def is_current(self, connection: duckdb.DuckDBPyConnection) -> bool:
        """Say whether the schema is up to date, and if so make everything that it describes known to the session.

        Raises:
            SchemaTooNew: a newer version of this program has written it.
        """

    def migrate(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Bring the schema up to date, all of it or nothing, then as `is_current`; raises like it."""

    def transaction(
        self, connection: duckdb.DuckDBPyConnection, commit: Commit, patience: float
    ) -> AbstractContextManager[None]:
        """Commit what the block does, or nothing of it.

        Args:
            connection: after `migrate`.
            commit: what it is about.
            patience: seconds to wait for others who write the same.

        Raises:
            DatabaseLocked: they took longer.
            duckdb.Error: as DuckDB raises it.
        """

    def may_pass(self, error: BaseException) -> bool:
        """Say whether the same transaction, begun anew, may succeed: another one was first, or a server was away."""


class OneFile:
    """What stores in one file have in common: the lock beside it lets nobody else in, so that nothing can conflict."""

    __slots__ = ()

    database: Path
    readable: tuple[str, ...] = ()

    @property
    def place(self) -> Path:
        """The file."""
        return self.database

    @property
    def file(self) -> Path:
        """The file."""
        return self.database

    def exists(self) -> bool:
        """Say whether the file is there."""
        return self.database.exists()

    def close(self, connection: duckdb.DuckDBPyConnection, *, failed: bool) -> None:  # noqa: ARG002 -- a file is let go
        """Close it."""
        connection.close()

    def at(self, snapshot: int | datetime) -> Store:
        """Refuse: who has rewritten a file has no older one."""
        raise ConfigurationError(
            f"The archive {self.database} is one file, which holds nothing of what it was at {snapshot}: only a lake "
            "does (a ducklake: address in EXPIRYTRACK_WAREHOUSE)."
        )

    def transaction(
        self,
        connection: duckdb.DuckDBPyConnection,
        commit: Commit,  # noqa: ARG002 -- a file keeps no history
        patience: float,  # noqa: ARG002 -- and whoever has opened it is alone
    ) -> AbstractContextManager[None]:
        """Begin, and commit or roll back."""
        return committed(connection)

    def may_pass(self, error: BaseException) -> bool:  # noqa: ARG002 -- as above
        """Nobody else can have been in the way."""
        return False


@dataclass(frozen=True, slots=True)
class DuckDBFile(OneFile):
    """A DuckDB file, encrypted with a key or plain: it holds everything itself."""

    database: Path
    key: bytes | None = None

    def connect(self, *, read_only: bool, config: Mapping[str, str | int]) -> duckdb.DuckDBPyConnection:
        """Open the file; that of another engine is not handed to that one."""
        with _explained(self.database, "duckdb"):
            return encryption.connect(self.database, self.key, read_only=read_only, config={**config, **_NO_OTHER})

    def is_current(self, connection: duckdb.DuckDBPyConnection) -> bool:
        """Ask the table `schema_version`."""
        return migrate.is_current(connection, self.database)

    def migrate(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Apply the steps that are missing, each in a transaction of its own."""
        migrate.migrate(connection, self.database)


@dataclass(frozen=True, slots=True)
class SQLiteFile(OneFile):
    """A SQLite file: keys, checks and bare columns lie in it, the rest in the session. It cannot be encrypted."""

    database: Path
    key: None = None

    def connect(self, *, read_only: bool, config: Mapping[str, str | int]) -> duckdb.DuckDBPyConnection:
        """Attach the file to a database in memory."""
        connection = duckdb.connect(":memory:", config={**spilling_safely(self.database), **config})
        try:
            load(connection, "sqlite_scanner")
            with _explained(self.database, "sqlite"):
                self._attach(connection, read_only=read_only)
        except BaseException:
            connection.close()
            raise
        return connection

    def is_current(self, connection: duckdb.DuckDBPyConnection) -> bool:
        """Ask the table `schema_version`, and present the rest."""
        if not migrate.is_current(connection, self.database):
            return False
        connection.execute(presenting(_newest()))
        return True

    def migrate(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Write a new file with the newest schema and the old one's rows, and put it in its place."""
        if self.is_current(connection):
            return
        version = migrate.version_of(connection, self.database)
        if version == 0:
            _require_empty(connection, self.database)
        new = self.database.with_name(f"{self.database.name}.migrating")
        new.unlink(missing_ok=True)
        try:
            self._write_anew(connection, version, new)
            connection.execute(f"DETACH {STORE}")
            new.replace(self.database)
        finally:
            new.unlink(missing_ok=True)
        self._attach(connection, read_only=False)
        connection.execute(presenting(_newest()))

    def _attach(self, connection: duckdb.DuckDBPyConnection, *, read_only: bool) -> None:
        path = str(self.database).replace("'", "''")
        connection.execute(f"ATTACH '{path}' AS {STORE} (TYPE sqlite, {'READ_ONLY' if read_only else 'READ_WRITE'})")
        connection.execute(f"SET search_path = 'memory.main,{STORE}.main'")
        connection.execute("SELECT count(*) FROM duckdb_tables()")  # attaching alone reads nothing

    def _write_anew(self, old: duckdb.DuckDBPyConnection, version: int, new: Path) -> None:
        with closing(sqlite3.connect(new)) as file, file:
            for table in tables(_newest()):
                file.execute(_sqlite_table(table))
        with closing(migrated(0)) as grown:
            load(grown, "sqlite_scanner")
            for migration in migrate.migrations():
                if migration.version == version + 1 and version:
                    _pour(old, tables(version), grown)
                grown.execute(migration.sql)
                if migration.version > version:
                    grown.execute(migrate.APPLIED, [migration.version, migration.name])
            path = str(new).replace("'", "''")
            grown.execute(f"ATTACH '{path}' AS new (TYPE sqlite)")
            grown.begin()
            for table in tables(_newest()):
                names = ", ".join(quoted(column.name) for column in table.columns)
                grown.execute(
                    f"INSERT INTO new.main.{quoted(table.name)} BY NAME SELECT {names} FROM {quoted(table.name)}"  # noqa: S608 -- names of our own migrations
                )
            grown.commit()


@contextmanager
def committed(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Commit what the block does; roll it back when anything is raised."""
    connection.begin()
    try:
        yield
        connection.commit()
    except BaseException:
        with suppress(duckdb.Error):  # a failed commit has ended the transaction already
            connection.rollback()
        raise


def store_of(
    address: Address, key: bytes | None = None, data: DataPath | None = None, spill: Path | None = None
) -> Store:
    """Return the store at an address.

    Args:
        address: kind and place.
        key: what a DuckDB file is encrypted with.
        data: where a lake's files lie; `lake` beside the catalogue's file if None.
        spill: beside what a lake's sessions spill; the catalogue's file if None, or in the system's folder for that.

    Raises:
        ConfigurationError: its kind cannot be encrypted.
    """
    if address.kind == "duckdb":
        return DuckDBFile(address.path, key)
    if address.is_lake:
        from expirytrack_dagster.warehouse.lake import Lake  # noqa: PLC0415 -- most archives are none

        return Lake(address, data or DataPath(f"{address.path.parent / 'lake'}/"), spill or _elsewhere(address))
    if key is not None:
        raise ConfigurationError(
            f"The archive {address} cannot be encrypted: leave it plain, or set EXPIRYTRACK_WAREHOUSE to a duckdb: "
            "address."
        )
    return SQLiteFile(address.path)


def _elsewhere(address: Address) -> Path:
    return address.place if isinstance(address.place, Path) else Path(tempfile.gettempdir()) / "expirytrack"


def _newest() -> int:
    return migrate.migrations()[-1].version


def _pour(old: duckdb.DuckDBPyConnection, described: tuple[Table, ...], grown: duckdb.DuckDBPyConnection) -> None:
    """Put the rows of an older store into the tables of its version in memory."""
    old.execute("CREATE OR REPLACE SCHEMA presented")
    for table in described:
        old.execute(viewing(table))
        names = ", ".join(quoted(column.name) for column in table.columns)
        rows = old.execute(f"SELECT {names} FROM presented.{quoted(table.name)}").to_arrow_table()  # noqa: S608 -- as above
        grown.register("poured", rows)
        grown.execute(f"INSERT INTO {quoted(table.name)} BY NAME FROM poured")
        grown.unregister("poured")
    old.execute("DROP SCHEMA presented CASCADE")


def _require_empty(connection: duckdb.DuckDBPyConnection, database: Path) -> None:
    """Refuse to replace another program's tables.

    Raises:
        ConfigurationError: there are tables, and none of them is ours.
    """
    if connection.execute("SELECT 1 FROM duckdb_tables() WHERE database_name = $1 LIMIT 1", [STORE]).fetchone():
        raise ConfigurationError(
            f"{database} is a SQLite file of another purpose: name a new file in EXPIRYTRACK_WAREHOUSE."
        )


def _sqlite_table(table: Table) -> str:
    columns = [
        f"{quoted(column.name)} {_SQLITE_TYPES.get(column.type, column.type)}{' NOT NULL' if column.required else ''}"
        for column in table.columns
    ]
    columns += [f"PRIMARY KEY ({', '.join(map(quoted, table.key))})"] if table.key else []
    columns += [f"CHECK ({check})" for check in table.checks]
    return f"CREATE TABLE {quoted(table.name)} ({', '.join(columns)})"


@contextmanager
def _explained(database: Path, kind: str) -> Iterator[None]:
    """Say of a file that does not open whether it is of another kind.

    Only then: on POSIX, who closes a file gives up every lock that its process has on it, an open handle's too.
    """
    try:
        yield
    except duckdb.Error as error:
        if not is_locked(error):
            require_kind(database, kind)
        raise


def require_kind(database: Path, kind: str) -> None:
    """Refuse a path that names something else.

    Raises:
        ConfigurationError: it is a folder or a file of another kind.
    """
    if database.is_dir():
        raise ConfigurationError(f"{database} is a folder, not {_NAMES[kind]}: name a file in EXPIRYTRACK_WAREHOUSE.")
    try:
        with database.open("rb") as file:
            start = file.read(16)
    except OSError:
        return  # not there yet, or the engine says why it cannot be read
    for other, (place, mark) in _MARKS.items():
        if other != kind and start[place:].startswith(mark):
            raise ConfigurationError(
                f"{database} is {_NAMES[other]}, not {_NAMES[kind]}: set EXPIRYTRACK_WAREHOUSE to {other}:{database}, "
                "or name another file."
            )
