"""Writing the archive, a cell (an underlying at an expiry) at a time: each function is one transaction.

Whatever fails, the cell keeps the rows that it had. Values are bound or read from Arrow and Parquet by the name of
their column, never by position and never as SQL text. A frame is written into the cell that was named, whatever its
own `underlying` and `expiry` columns say. Judging rows belongs to `quality/`, opening the file to `connection.py`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from expirytrack_dagster.errors import StorageError
from expirytrack_dagster.observe.metrics import metrics
from expirytrack_dagster.security.parquet import decrypting
from expirytrack_dagster.warehouse.history import change_in_lake
from expirytrack_dagster.warehouse.seals import keep_seal, reseal, seal_if_finished
from expirytrack_dagster.warehouse.stores import Commit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import date
    from pathlib import Path

    import duckdb

    from expirytrack_dagster.warehouse.connection import Warehouse
    from expirytrack_dagster.warehouse.versions import Change

_ADD_EXPIRIES = (
    """
    UPDATE main.expiries AS known SET underlying_key = listed.underlying_key FROM listed
    WHERE known.underlying = listed.underlying AND known.expiry = listed.expiry
    """,
    "INSERT INTO main.expiries BY NAME FROM listed ANTI JOIN expiries USING (underlying, expiry)",
)

_OF_CELL = "underlying = $underlying AND expiry = $expiry"

_FORGET = tuple(
    f"DELETE FROM main.{table} WHERE {_OF_CELL} AND instrument_key IN (SELECT instrument_key FROM books)"  # noqa: S608 -- our own table names
    for table in ("candles", "quarantine", "contract_status")
)

# A contract's rows stand side by side and in order of time, which packs best and is read by few blocks. They are
# staged like that, and DuckDB keeps the order of files and rows: sorting a large cell would hold all of it in memory.
_ADD_CANDLES = """
INSERT INTO main.candles BY NAME
SELECT $underlying AS underlying, $expiry AS expiry, instrument_key, epoch_us(ts) // 60000000 AS minute,
    open, high, low, close, volume, open_interest
FROM staged
WHERE rule IS NULL
"""

# Measured on 4,800,000 staged rows and two cores: with one thread 1.1 M rows/s, 19.3 bytes a row and 340 MB of memory
# in all; with two 0.9 M rows/s, 27.9 bytes and 560 MB, because each thread fills row groups of its own.
_IN_ONE_THREAD = "SET threads = 1"

# Rows of a cell that has none yet pass through; without a limit DuckDB keeps what it wrote. Replacing 4,800,000 rows
# takes 128 MB that cannot be spilled, and more for more: then the limit is DuckDB's own.
_IN_LITTLE_MEMORY = "SET memory_limit = '128MB'"

_ADD_QUARANTINE = """
INSERT INTO main.quarantine BY NAME
SELECT $underlying AS underlying, $expiry AS expiry, $run_id AS run_id, now() AS quarantined_at, *
FROM staged
WHERE rule IS NOT NULL
ORDER BY instrument_key, ts
"""

_UNACCOUNTED = """
SELECT instrument_key, received, candles, quarantined, duplicates FROM books
WHERE received IS DISTINCT FROM candles + quarantined + duplicates
ORDER BY ALL LIMIT 1
"""

_OUT_OF_BALANCE = f"""
WITH stored AS (SELECT instrument_key, count(*) AS rows FROM candles WHERE {_OF_CELL} GROUP BY ALL),
held AS (SELECT instrument_key, count(*) AS rows FROM quarantine WHERE {_OF_CELL} GROUP BY ALL)
SELECT instrument_key, books.candles, coalesce(stored.rows, 0), books.quarantined, coalesce(held.rows, 0)
FROM books LEFT JOIN stored USING (instrument_key) LEFT JOIN held USING (instrument_key)
WHERE books.candles <> coalesce(stored.rows, 0) OR books.quarantined <> coalesce(held.rows, 0)
ORDER BY ALL LIMIT 1
"""  # noqa: S608 -- the inserted condition is the constant above


@dataclass(frozen=True, slots=True)
class ExpiryWrite:
    """Dates of an underlying: first listed now, listed before as well, and listed before but no longer."""

    new: int
    known: int
    withdrawn: int


@dataclass(frozen=True, slots=True)
class CellWrite:
    """Rows that a write put into `candles` and into `quarantine`.

    `change` is what that did to the cell where the store can tell: in a lake, if anything was written.
    """

    candles: int
    quarantined: int
    change: Change | None = field(default=None, compare=False)


def write_expiries(
    warehouse: Warehouse, underlying: str, frame: pd.DataFrame, run_id: str | None = None
) -> ExpiryWrite:
    """Add the dates that the API lists for an underlying.

    A date that is known keeps its first `discovered_at`; one that the API no longer lists is kept, because its
    contracts and candles may be in the archive.

    Args:
        warehouse: the archive.
        underlying: short symbol.
        frame: columns `expiry` (unique dates), `underlying_key`, and `discovered_at` (UTC; now, if absent).
        run_id: the run that asked.

    Raises:
        StorageError: nothing was changed.
    """
    first = {} if "discovered_at" in frame else {"discovered_at": pd.Timestamp.now(tz="UTC").as_unit("us")}
    listed = _arrow(frame, {"underlying": underlying, **first})

    def work(connection: duckdb.DuckDBPyConnection) -> ExpiryWrite:
        connection.register("listed", listed)
        count, bound = "SELECT count(*) FROM expiries WHERE underlying = $underlying", {"underlying": underlying}
        before = _number(connection, count, bound)
        for statement in _ADD_EXPIRIES:
            connection.execute(statement)
        new = _number(connection, count, bound) - before
        known = len(frame) - new
        return ExpiryWrite(new=new, known=known, withdrawn=before - known)

    with metrics().insert_seconds.labels("expiries").time():
        return warehouse.write(work, Commit("expiries", ((underlying, None),), run_id, ("expiries",)))


def write_contracts(
    warehouse: Warehouse,
    underlying: str,
    expiry: date,
    frame: pd.DataFrame,
    run_id: str | None = None,
    at_last: Callable[[], None] = lambda: None,
) -> int:
    """Replace the contract list of a cell and return its length; an empty list of a listed date seals the cell.

    Args:
        warehouse: the archive.
        underlying: short symbol.
        expiry: the cell's date.
        frame: columns of `contracts`, in any order; absent ones become null.
        run_id: the run that asked.
        at_last: as for `write_candles`.

    Raises:
        StorageError: a key twice, a column that the table lacks, a value of the wrong type; nothing was changed.
    """
    cell: dict[str, str | date] = {"underlying": underlying, "expiry": expiry}
    listed = _arrow(frame, cell)

    def work(connection: duckdb.DuckDBPyConnection) -> None:
        connection.register("listed", listed)
        connection.execute(f"DELETE FROM main.contracts WHERE {_OF_CELL}", cell)  # noqa: S608 -- a constant condition
        connection.execute("INSERT INTO main.contracts BY NAME SELECT * FROM listed")
        keep_seal(connection, cell)
        at_last()

    with metrics().insert_seconds.labels("contracts").time():
        warehouse.write(work, Commit("contracts", ((underlying, expiry),), run_id, ("contracts", "cell_seals")))
    return len(frame)


def write_candles(
    warehouse: Warehouse,
    underlying: str,
    expiry: date,
    staged: Sequence[Path],
    status: pd.DataFrame,
    run_id: str,
    key: bytes | None = None,
    at_last: Callable[[], None] = lambda: None,
) -> CellWrite:
    """Replace candles, quarantined rows and states of the contracts that `status` names; the others stay untouched.

    The same transaction seals the cell when all its contracts are final, and breaks its seal when one is not.

    Args:
        warehouse: the archive.
        underlying: short symbol.
        expiry: the cell's date.
        staged: Parquet files, possibly none: `instrument_key`, `ts` (UTC), `open`, `high`, `low`, `close`, `volume`,
            `open_interest`, `rule`, `detail`. Rows without a rule are candles, the others go to quarantine. A
            contract is in one file, its candles ordered by `ts`.
        status: the columns of `contract_status`, one row a contract; its counts must be those of the staged rows, and
            `received` their sum.
        run_id: the run that received the rows.
        key: what the staged files are encrypted with; None if they are plain.
        at_last: called when all is written and nothing committed; what it raises undoes the write, and is raised.

    Raises:
        StorageError: rows and counts disagree, or a row cannot be stored; nothing was changed.
    """
    cell: dict[str, str | date] = {"underlying": underlying, "expiry": expiry}
    began = time.monotonic()
    books = _arrow(status, cell)

    def work(connection: duckdb.DuckDBPyConnection) -> CellWrite:
        connection.execute(_IN_ONE_THREAD)
        connection.register("books", books)
        forgotten = sum(_number(connection, statement, cell) for statement in _FORGET)
        if not forgotten:
            connection.execute(_IN_LITTLE_MEMORY)
        candles = quarantined = 0
        for _ in _each_staged(connection, staged, key):
            candles += _number(connection, _ADD_CANDLES, cell)
            quarantined += _number(connection, _ADD_QUARANTINE, {**cell, "run_id": run_id})
        connection.execute("INSERT INTO main.contract_status BY NAME SELECT * FROM books")
        _balance(connection, cell, CellWrite(candles, quarantined), status)
        if len(status):
            reseal(connection, cell)
        else:
            seal_if_finished(connection, cell)
        change = change_in_lake(warehouse, connection, cell) if len(status) else None
        at_last()
        return CellWrite(candles, quarantined, change)

    with metrics().insert_seconds.labels("candles").time():
        commit = Commit("candles", ((underlying, expiry),), run_id, ("contract_status", "cell_seals"))
        written = warehouse.write(work, commit)
    _count(written, status, time.monotonic() - began)
    return written


def _count(written: CellWrite, status: pd.DataFrame, seconds: float) -> None:
    """Count what is stored, after its transaction."""
    counted = metrics()
    counted.candles_received.inc(int(status["received"].sum()))
    counted.candles_stored.inc(written.candles)
    counted.candles_quarantined.inc(written.quarantined)
    counted.candles_duplicate.inc(int(status["duplicates"].sum()))
    for state, contracts in status["status"].value_counts().items():
        counted.contracts_processed.labels(str(state)).inc(int(contracts))
    if written.candles and seconds:
        counted.rows_per_second.observe(written.candles / seconds)


def _each_staged(connection: duckdb.DuckDBPyConnection, staged: Sequence[Path], key: bytes | None) -> Iterator[None]:
    """Let `staged` mean all files at once, or one after the other if they are encrypted and pyarrow must read them."""
    if key is None and staged:
        connection.execute("SET VARIABLE staged = $1", [[str(path) for path in staged]])
        connection.execute("CREATE OR REPLACE TEMP VIEW staged AS FROM read_parquet(getvariable('staged'))")
        yield
        return
    for path in staged:
        properties = decrypting(key, path)
        try:
            rows = pq.read_table(path, decryption_properties=properties, read_dictionary=["instrument_key", "rule"])
        except (pa.ArrowException, OSError) as error:
            raise StorageError(
                f"The staged file {path} cannot be read ({error}): collect the cell again; nothing was changed."
            ) from error
        connection.register("staged", rows)
        yield


def _balance(
    connection: duckdb.DuckDBPyConnection, cell: Mapping[str, str | date], written: CellWrite, status: pd.DataFrame
) -> None:
    """Prove, before anything is committed, that each contract's rows are as many as its state says.

    The sums find rows of contracts without a state; the counts a contract find what cancels out in the sums.
    """
    name = f"{cell['underlying']} {cell['expiry']}"
    claimed = CellWrite(int(status["candles"].sum()), int(status["quarantined"].sum()))
    if written != claimed:
        raise StorageError(
            f"The cell {name} was not written: its staged files hold {written.candles} candles and "
            f"{written.quarantined} bad rows, its states count {claimed.candles} and {claimed.quarantined}; "
            "collect it again."
        )
    lost = connection.execute(_UNACCOUNTED).fetchone()
    if lost:
        key, received, candles, quarantined, duplicates = lost
        raise StorageError(
            f"The cell {name} was not written: {received} rows of {key} were received, but {candles} candles, "
            f"{quarantined} bad rows and {duplicates} duplicates came of them; collect it again."
        )
    odd = connection.execute(_OUT_OF_BALANCE, cell).fetchone()
    if odd:
        key, candles, stored, quarantined, held = odd
        raise StorageError(
            f"The cell {name} was not written: {key} has {stored} candles and {held} bad rows, its state counts "
            f"{candles} and {quarantined}; collect it again."
        )


def _arrow(frame: pd.DataFrame, cell: Mapping[str, str | date]) -> pa.Table:
    # Arrow, because DuckDB guesses a pandas object column's type from a sample, and an empty one's not at all.
    try:
        return pa.Table.from_pandas(frame.assign(**cell), preserve_index=False)
    except pa.ArrowException as error:
        reasons = " ".join(map(str, error.args))
        raise StorageError(
            f"Rows of {cell['underlying']} cannot be stored, and nothing was changed: {reasons}."
        ) from error


def _number(connection: duckdb.DuckDBPyConnection, sql: str, bound: Mapping[str, Any]) -> int:
    (number,) = connection.execute(sql, bound).fetchone() or (0,)
    return int(number)
