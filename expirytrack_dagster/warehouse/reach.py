"""What a query may name, judged on the statement as DuckDB parses it: a closed list, and all else is refused.

An open archive cannot be confined by DuckDB's settings alone. Those bind what DuckDB opens itself; the extensions that
attach SQLite, PostgreSQL and a lake open files and servers of their own, and a lake's catalogue, which holds the keys
of its files, is one more attached database. So a query is refused here unless everything that it names is known: the
tables, views and macros that the migrations make, its own common table expressions, the catalogue's description of the
archive, and functions that only compute. A text is no evidence (quotes, comments and `query('...')` hide names), the
parsed statement is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec

from expirytrack_dagster.errors import QueryRefused
from expirytrack_dagster.warehouse.migrate import migrations
from expirytrack_dagster.warehouse.schema import PRESENTED, migrated

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import duckdb

# Of DuckDB's functions that give rows: those that make them of their arguments, and those that describe the archive.
_ROWS = {
    *("generate_series", "json_each", "json_tree", "range", "repeat", "unnest"),
    *("duckdb_columns", "duckdb_functions", "duckdb_tables", "duckdb_views"),
}
# Of its functions that give a value, those that do more than compute: one binds a text as a query, which opens what
# that names, one writes into DuckDB's log, two look up what other databases have.
_DOING = {"json_serialize_plan", "write_log", "nextval", "currval"}
_SHOWN = {'"tables"', "__show_tables_expanded"}  # as SHOW TABLES and SHOW ALL TABLES are parsed

_RELATIONS = "SELECT table_name FROM duckdb_tables() UNION ALL SELECT view_name FROM duckdb_views() WHERE NOT internal"
_FUNCTIONS = """
SELECT function_name, function_type = 'table_macro' FROM duckdb_functions()
WHERE function_type IN ('scalar', 'aggregate', 'macro') OR (function_type = 'table_macro' AND NOT internal)
"""
_PARSED = "SELECT json_serialize_sql($1)"
# Only a SELECT can be had as it is parsed. What follows these words is one, or it is refused like any other text.
_EXPLAIN = re.compile(r"\s*EXPLAIN\s+(?:ANALYZE\s+)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Known:
    """What may be named, in lower case: relations, functions that give rows, and functions that give a value."""

    relations: frozenset[str]
    rows: frozenset[str]
    values: frozenset[str]


def require_within(sql: str) -> None:
    """Refuse SELECTs, or EXPLAIN of one, that name anything but the archive and what computes.

    Raises:
        QueryRefused: they do, or are something else; a sentence.
    """
    explained = _EXPLAIN.match(sql)
    for parsed in _parsed(sql[explained.end() :] if explained else sql):
        for node, local in _nodes(parsed):
            _judge(node, local)


def _parsed(sql: str) -> list[Any]:
    with _empty().cursor() as parser:
        (text,) = parser.execute(_PARSED, [sql]).fetchone() or ("{}",)
    try:
        told = msgspec.json.decode(text)
    except RecursionError:
        raise QueryRefused("The query is nested too deeply to be judged.") from None
    if told["error"]:
        raise QueryRefused("It is no SELECT, or EXPLAIN of one, and nothing else is answered here.")
    statements: list[Any] = told["statements"]
    return statements


def _nodes(statement: object) -> Iterator[tuple[Mapping[str, Any], frozenset[str]]]:
    """Yield all parts of a statement, each with the common table expressions that it sees, in lower case."""
    left: list[tuple[object, frozenset[str]]] = [(statement, frozenset())]
    while left:
        node, local = left.pop()
        if isinstance(node, list):
            left += ((part, local) for part in node)
        elif isinstance(node, dict):
            parts = dict(node)
            for expression in parts.pop("cte_map", {"map": []})["map"]:
                left.append((expression["value"], local))  # it sees those before it
                local |= {expression["key"].lower()}
            if node.get("type") == "RECURSIVE_CTE_NODE":  # what is before its UNION does not see it
                left.append((parts.pop("right"), local | {node["cte_name"].lower()}))
            left += ((part, local) for part in parts.values())
            yield node, local


def _judge(node: Mapping[str, Any], local: frozenset[str]) -> None:
    kind, known = node.get("type"), _known()
    if kind == "BASE_TABLE":
        catalog, schema, name = (node[part].lower() for part in ("catalog_name", "schema_name", "table_name"))
        ours = schema in {"", "main", PRESENTED} and name in known.relations
        if catalog or not (ours or schema == "information_schema" or (not schema and name in local)):
            named = ".".join(part for part in (catalog, schema, name) if part)
            raise QueryRefused(f"{named} is no table of the archive: SHOW TABLES lists what can be asked.")
    elif kind == "SHOW_REF":
        if node["query"] is None and node["table_name"] not in _SHOWN:
            raise QueryRefused("Of all that SHOW can tell, only SHOW TABLES is answered here.")
    elif kind == "TABLE_FUNCTION":
        if (name := node["function"]["function_name"].lower()) not in known.rows:
            raise QueryRefused(f"{name}() may reach outside the archive, and only that is read here.")
    elif "function_name" in node and (name := node["function_name"].lower()) not in known.rows | known.values:
        raise QueryRefused(f"{name}() is none of the functions that only compute, and no other is answered here.")


@cache
def _known() -> _Known:
    with _empty().cursor() as memory:
        relations = frozenset(name.lower() for (name,) in memory.execute(_RELATIONS).fetchall())
        functions = memory.execute(_FUNCTIONS).fetchall()
    rows, values = (frozenset(name.lower() for name, macro in functions if macro is of) for of in (True, False))
    return _Known(relations, rows | _ROWS, values - _DOING)


@cache
def _empty() -> duckdb.DuckDBPyConnection:
    """Return an empty archive in memory, without any extension that opens something; it parses and tells names."""
    return migrated(migrations()[-1].version)
