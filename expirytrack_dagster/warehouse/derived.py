"""Making the derived tables: one SQL file of `derivations/` a table, one transaction a cell.

Each transaction also writes down, in `derived_cells`, from which version of the candles the rows were made. A derived
cell can always be made again, so nothing here is precious. What the tables hold is written in their migration, the
mathematics in `analytics/`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal

import duckdb
import pyarrow as pa
from duckdb.func import FunctionNullHandling, PythonUDFType
from duckdb.sqltypes import BOOLEAN, DOUBLE, VARCHAR

from expirytrack_dagster.observe.metrics import metrics
from expirytrack_dagster.warehouse.stores import Commit
from expirytrack_dagster.warehouse.versions import candles_version

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import date

    from expirytrack_dagster.warehouse.connection import Warehouse

CellTable = Literal["daily_bars", "option_chain", "implied_volatility", "chain_metrics"]
CELL_TABLES: tuple[CellTable, ...] = ("daily_bars", "option_chain", "implied_volatility", "chain_metrics")
"""Tables of one cell, each after those that it is made from."""
CONTINUOUS = "continuous_futures"
"""The table of one underlying."""

_BLACK76 = "black76"

_MODEST = "SET memory_limit = '300MB'"
"""A cell of 2,300,000 candles takes as long as without it, and 0.5 GB instead of 0.8: what does not fit is spilled."""

_NOTE = """
DELETE FROM main.derived_cells
WHERE asset = $asset AND underlying = $underlying AND expiry IS NOT DISTINCT FROM $expiry::DATE;

INSERT INTO main.derived_cells BY NAME
SELECT $asset AS asset, $underlying AS underlying, $expiry::DATE AS expiry, $source_version AS source_version,
    $rate AS rate, $rows AS rows, now() AS derived_at;
"""

_BARS_VERSION = """
SELECT format('{:016x}', (coalesce(sum(hash(expiry, source_version)), 0) % 18446744073709551616)::UBIGINT)
FROM derived_cells WHERE asset = 'daily_bars' AND underlying = $underlying
"""

_CELLS = """
SELECT underlying, expiry, format('{:016x}', checksum) AS version
FROM (SELECT underlying, expiry FROM contract_status GROUP BY ALL HAVING sum(candles) > 0)
LEFT JOIN cell_seals USING (underlying, expiry)
WHERE $underlying IS NULL OR underlying = $underlying
ORDER BY expiry DESC, underlying
"""

_MADE = """
SELECT asset FROM derived_cells
WHERE underlying = $underlying AND expiry = $expiry AND source_version = $version AND coalesce(rate, $rate) = $rate
"""

_COLUMNS = """
SELECT column_name, data_type, comment FROM duckdb_columns()
WHERE database_name = current_database() AND schema_name = current_schema() AND table_name = $table
ORDER BY column_index
"""


@dataclass(frozen=True, slots=True)
class Derived:
    """Rows that were made, the version of what they are made from, and columns as (name, type, meaning)."""

    rows: int
    source_version: str
    columns: list[tuple[str, str, str]]


def derive(
    warehouse: Warehouse, table: CellTable, underlying: str, expiry: date, rate: float, run_id: str | None = None
) -> Derived:
    """Make a table's rows of a cell anew; a cell without candles has none.

    Args:
        warehouse: the archive.
        table: which one; those before it in `CELL_TABLES` must have been made from the same candles.
        underlying: short symbol.
        expiry: the cell's date.
        rate: a year, continuously compounded.
        run_id: the run that makes them.

    Raises:
        StorageError: the old rows stay.
    """
    cell: dict[str, Any] = {"underlying": underlying, "expiry": expiry}

    def work(connection: duckdb.DuckDBPyConnection) -> Derived:
        connection.execute(_MODEST)
        if table == "implied_volatility":
            _register(connection)
        version = candles_version(connection, cell)
        rows = _run(connection, _script(table), {**cell, "rate": rate})
        used = None if table == "daily_bars" else rate
        if table == "implied_volatility":
            connection.remove_function(_BLACK76)  # it would not outlive this cursor, but be called by others
        note = {**cell, "asset": table, "source_version": version, "rate": used, "rows": rows}
        _run(connection, _NOTE, note)
        return Derived(rows, version, _columns(connection, table))

    with metrics().insert_seconds.labels(table).time():
        return warehouse.write(work, Commit(table, ((underlying, expiry),), run_id, ()))


def derive_continuous(warehouse: Warehouse, underlying: str, run_id: str | None = None) -> Derived:
    """Make the continuous futures of an underlying anew, from the daily bars that are there.

    Raises:
        StorageError: the old rows stay.
    """
    bound: dict[str, Any] = {"underlying": underlying}

    def work(connection: duckdb.DuckDBPyConnection) -> Derived:
        (version,) = connection.execute(_BARS_VERSION, bound).fetchone() or ("",)
        rows = _run(connection, _script(CONTINUOUS), bound)
        note = {**bound, "asset": CONTINUOUS, "expiry": None, "source_version": version, "rate": None, "rows": rows}
        _run(connection, _NOTE, note)
        return Derived(rows, str(version), _columns(connection, CONTINUOUS))

    with metrics().insert_seconds.labels(CONTINUOUS).time():
        return warehouse.write(work, Commit(CONTINUOUS, ((underlying, None),), run_id, (CONTINUOUS,)))


def derivable(warehouse: Warehouse, underlying: str | None = None) -> list[tuple[str, date]]:
    """Return the cells that hold candles, the newest first."""
    with warehouse.reading() as connection:
        found = connection.execute(_CELLS, {"underlying": underlying}).fetchall()
    return [(symbol, expiry) for symbol, expiry, _ in found]


def outdated(warehouse: Warehouse, rate: float, underlying: str | None = None) -> list[tuple[str, date]]:
    """Return the cells, the newest first, of which a derived table is missing or made from other candles or rates."""
    found = []
    with warehouse.reading() as connection:
        for symbol, expiry, seal in connection.execute(_CELLS, {"underlying": underlying}).fetchall():
            cell = {"underlying": symbol, "expiry": expiry}
            version = seal or candles_version(connection, cell)
            made = connection.execute(_MADE, {**cell, "version": version, "rate": rate}).fetchall()
            if {asset for (asset,) in made} != set(CELL_TABLES):
                found.append((symbol, expiry))
    return found


def _columns(connection: duckdb.DuckDBPyConnection, table: str) -> list[tuple[str, str, str]]:
    return connection.execute(_COLUMNS, {"table": table}).fetchall()


@cache
def _script(table: str) -> str:
    return (files(__package__) / "derivations" / f"{table}.sql").read_text(encoding="utf-8")


def _run(connection: duckdb.DuckDBPyConnection, script: str, bound: Mapping[str, Any]) -> int:
    """Execute a script's statements, each with the parameters that it names; return what the last one counted."""
    count = 0
    for statement in connection.extract_statements(script):
        named = {name: bound[name] for name in statement.named_parameters}
        (count,) = connection.execute(statement, named).fetchone() or (0,)
    return int(count)


def _register(connection: duckdb.DuckDBPyConnection) -> None:
    """Give SQL the function black76(price, forward, strike, years, rate, is_call)."""
    answer = duckdb.struct_type(
        dict.fromkeys(("volatility", "delta", "gamma", "vega", "theta", "rho"), DOUBLE) | {"reason": VARCHAR}
    )
    connection.create_function(
        _BLACK76,
        _black76,
        [DOUBLE, DOUBLE, DOUBLE, DOUBLE, DOUBLE, BOOLEAN],
        answer,
        type=PythonUDFType.ARROW,
        null_handling=FunctionNullHandling.SPECIAL,
    )


def _black76(
    price: pa.ChunkedArray,
    forward: pa.ChunkedArray,
    strike: pa.ChunkedArray,
    years: pa.ChunkedArray,
    rate: pa.ChunkedArray,
    is_call: pa.ChunkedArray,
) -> pa.StructArray:
    from expirytrack_dagster.analytics.black76 import Reason, implied  # noqa: PLC0415 -- scipy, for this table alone

    p, f, k, t, r, call = (column.to_numpy() for column in (price, forward, strike, years, rate, is_call))
    found = implied(p, f, k, t, r, call)
    labels = pa.array([reason.label for reason in Reason], pa.string())
    names = ("volatility", "delta", "gamma", "vega", "theta", "rho")
    values = [pa.array(getattr(found, name), from_pandas=True) for name in names]
    return pa.StructArray.from_arrays([*values, labels.take(pa.array(found.reason))], [*names, "reason"])
