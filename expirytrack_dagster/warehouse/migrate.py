"""How the schema grows: numbered SQL files, each applied once and whole, forward only.

`migrations/NNNN_name.sql` holds the statements of version NNNN, numbered from 1 without gaps; a file that has been
released is never edited. The table `schema_version` says which were applied and when (UTC). What the tables are
belongs in those files; opening the database belongs to `connection.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

import duckdb

from expirytrack_dagster.errors import SchemaTooNew

if TYPE_CHECKING:
    from pathlib import Path


APPLIED = "INSERT INTO main.schema_version (version, name) VALUES (?, ?)"
"""Notes a step; its number and name are bound."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema: its number, its name and its statements."""

    version: int
    name: str
    sql: str


@cache
def migrations() -> tuple[Migration, ...]:
    """Return the steps that this program knows, in order; the files are read once in a process."""
    found = []
    for entry in (files(__package__) / "migrations").iterdir():
        number, _, name = entry.name.removesuffix(".sql").partition("_")
        if entry.name.endswith(".sql"):
            found.append(Migration(int(number), name, entry.read_text(encoding="utf-8")))
    return tuple(sorted(found, key=lambda migration: migration.version))


def is_current(connection: duckdb.DuckDBPyConnection, database: Path | str) -> bool:
    """Say whether every step has been applied; one query.

    Raises:
        SchemaTooNew: steps have been applied that this program does not know.
    """
    return version_of(connection, database) == migrations()[-1].version


def migrate(connection: duckdb.DuckDBPyConnection, database: Path | str) -> None:
    """Apply the steps that are missing, each in a transaction of its own; one query when there are none.

    Raises:
        SchemaTooNew: steps have been applied that this program does not know; nothing was changed.
    """
    version = version_of(connection, database)
    for migration in migrations():
        if migration.version <= version:
            continue
        connection.begin()
        try:
            connection.execute(migration.sql)
            connection.execute(APPLIED, [migration.version, migration.name])
            connection.commit()
        except duckdb.Error:
            connection.rollback()
            raise


def version_of(connection: duckdb.DuckDBPyConnection, database: Path | str) -> int:
    """Return the number of the last step that was applied, 0 for a new store.

    Args:
        connection: an open one.
        database: what is named in the sentence.

    Raises:
        SchemaTooNew: steps have been applied that this program does not know.
    """
    try:
        asked = connection.execute("SELECT coalesce(max(version), 0) FROM schema_version")
        (version,) = asked.fetchone() or (0,)
    except duckdb.CatalogException:
        return 0  # a new file has no such table yet
    known = migrations()[-1].version
    if version > known:
        raise SchemaTooNew(
            f"The database {database} has schema version {version}, and this program knows only {known}: "
            "update ExpiryTrack; nothing was changed."
        )
    return int(version)
