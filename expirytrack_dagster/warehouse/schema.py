"""What the migrations make, read back from an empty database in memory, for stores that cannot run them.

The numbered SQL files are DuckDB's own, and there is one set of them. A store that lacks generated columns, macros,
comments or types holds the bare columns alone; `presenting` returns the statements that put all the rest into a
session, as views of the same names over these. What a store's columns are called and typed belongs to `stores.py`.
"""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, TypeAlias

import duckdb

from expirytrack_dagster.warehouse.encryption import quoted
from expirytrack_dagster.warehouse.migrate import migrations

if TYPE_CHECKING:
    from collections.abc import Iterator

STORE = "store"
"""The name under which a session attaches a store; its bare tables are `main.NAME` in every kind of archive."""
CATALOGUE = f"__ducklake_metadata_{STORE}"
"""The name under which DuckLake then attaches the catalogue of a lake."""
CURRENT_SNAPSHOT = f"FROM ducklake_current_snapshot('{STORE}')"
"""Asks for the number of a lake's newest snapshot."""
PRESENTED = "presented"
"""The schema of the session that holds the views; names without a schema mean what is in it."""
SEARCH_PATH = f"SET search_path = 'memory.{PRESENTED},{STORE}.main'"
"""Lets the names of a session mean what is presented."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column that is stored: DuckDB's type, whether it must have a value, and which it has where none is given."""

    name: str
    type: str
    required: bool
    default: str | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """A table: what is stored, what is made of it when it is asked for, its key, and its checks as SQL."""

    name: str
    columns: tuple[Column, ...]
    order: tuple[str, ...]
    generated: dict[str, str]
    key: tuple[str, ...]
    checks: tuple[str, ...]


Growth: TypeAlias = Table | str
"""What a migration does to bare tables: it makes one, or is a statement that they understand."""


_COLUMNS = """
SELECT column_name, data_type, NOT is_nullable, column_default FROM duckdb_columns()
WHERE table_name = $table ORDER BY column_index
"""
_KEY = """
SELECT unnest(constraint_column_names) FROM duckdb_constraints()
WHERE table_name = $table AND constraint_type = 'PRIMARY KEY'
"""
_CHECKS = """
SELECT expression FROM duckdb_constraints()
WHERE table_name = $table AND constraint_type = 'CHECK' ORDER BY constraint_index
"""
_TABLES = "SELECT table_name FROM duckdb_tables() ORDER BY table_oid"
_MACROS = """
SELECT function_name, parameters, macro_definition FROM duckdb_functions()
WHERE NOT internal AND function_type = 'table_macro' ORDER BY function_oid
"""
_COMMENT = re.compile(r"(?:\s|--.*\n)*COMMENT\s", re.IGNORECASE)
_VIEWS = "SELECT view_name, sql FROM duckdb_views() WHERE NOT internal ORDER BY view_oid"
_COMMENTS = """
SELECT 'VIEW', table_name, comment FROM duckdb_tables() WHERE comment IS NOT NULL
UNION ALL SELECT 'VIEW', view_name, comment FROM duckdb_views() WHERE NOT internal AND comment IS NOT NULL
UNION ALL SELECT 'COLUMN', table_name || '.' || column_name, comment FROM duckdb_columns() WHERE comment IS NOT NULL
"""


def migrated(version: int) -> duckdb.DuckDBPyConnection:
    """Return a database in memory with the schema of a version, its tables empty; the caller closes it."""
    memory = duckdb.connect(":memory:")
    memory.execute("SET TimeZone = 'UTC'")
    for migration in migrations()[:version]:
        memory.execute(migration.sql)
    return memory


@cache
def tables(version: int) -> tuple[Table, ...]:
    """Return the tables of a version of the schema, in the order in which they were made."""
    with closing(migrated(version)) as memory:
        return tuple(_table(memory, name) for (name,) in memory.execute(_TABLES).fetchall())


def growth(version: int) -> Iterator[Growth]:
    """Yield what the migrations after a version do to bare tables, in order.

    Views, macros and comments are the session's. Whatever changes rows names stored columns alone, as a table that was
    made bare has no others.
    """
    with closing(migrated(version)) as memory:
        for migration in migrations()[version:]:
            for statement in memory.extract_statements(migration.sql):
                kind, before = statement.type, {name for (name,) in memory.execute(_TABLES).fetchall()}
                memory.execute(statement)
                if kind == duckdb.StatementType.CREATE:
                    made = [name for (name,) in memory.execute(_TABLES).fetchall() if name not in before]
                    yield from (_table(memory, name) for name in made)
                elif not _COMMENT.match(statement.query):
                    yield statement.query


@cache
def presenting(version: int) -> str:
    """Return the statements that give a session, in which `STORE` is attached, everything that the migrations made."""
    with closing(migrated(version)) as memory:
        views = [viewing(_table(memory, name)) for (name,) in memory.execute(_TABLES).fetchall()]
        macros = [
            f"CREATE MACRO {PRESENTED}.{name}({', '.join(parameters)}) AS TABLE {definition}"
            for name, parameters, definition in memory.execute(_MACROS).fetchall()
        ]
        more = [
            sql.rstrip(";").replace(f"VIEW {name}", f"VIEW {PRESENTED}.{name}", 1)
            for name, sql in memory.execute(_VIEWS).fetchall()
        ]
        comments = [
            f"COMMENT ON {kind} {PRESENTED}.{place} IS {_literal(text)}"
            for kind, place, text in memory.execute(_COMMENTS).fetchall()
        ]
    return ";\n".join([f"CREATE SCHEMA {PRESENTED}", *views, SEARCH_PATH, *macros, *more, *comments])


def viewing(table: Table) -> str:
    """Return the statement that makes a view of a table's bare columns, typed, and with what follows of them."""
    types = {column.name: column.type for column in table.columns}
    typed = ", ".join(f"{quoted(name)}::{kind} AS {quoted(name)}" for name, kind in types.items())
    shown = ", ".join(
        f"{table.generated[name]} AS {quoted(name)}" if name in table.generated else quoted(name)
        for name in table.order
    )
    bare = f"SELECT {typed} FROM {STORE}.main.{quoted(table.name)}"  # noqa: S608 -- names of our own migrations
    return f"CREATE VIEW {PRESENTED}.{quoted(table.name)} AS SELECT {shown} FROM ({bare})"  # noqa: S608 -- as above


def _table(memory: duckdb.DuckDBPyConnection, name: str) -> Table:
    columns, order, generated = [], [], {}
    for column, kind, required, expression in memory.execute(_COLUMNS, {"table": name}).fetchall():
        order.append(column)
        if expression is not None and _names_columns(memory, expression):
            generated[column] = expression
        else:
            columns.append(Column(column, kind, required, expression))
    key, checks = (
        tuple(text for (text,) in memory.execute(query, {"table": name}).fetchall()) for query in (_KEY, _CHECKS)
    )
    return Table(name, tuple(columns), tuple(order), generated, key, checks)


def _names_columns(memory: duckdb.DuckDBPyConnection, expression: str) -> bool:
    """Say whether an expression is that of a generated column; one of a default needs no row."""
    try:
        memory.execute(f"SELECT {expression}")
    except duckdb.BinderException:
        return True
    return False


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
