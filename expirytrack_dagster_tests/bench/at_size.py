"""A home as large as the desk's would be: grid, archive and ledger, filled by our own writers or in their tables.

Belongs here: filling. What is then timed is in `bench_scale.py`. Candles are filled in by their number and not by their
content: they are made by one statement, since a thousand million of them would take a day to collect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg
import pyarrow as pa
from dagster._core.storage.event_log import SqlEventLogStorage
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable
from sqlalchemy import insert, select

from expirytrack_dagster import partitions
from expirytrack_dagster.checks.specs import candles_checks, chain_checks, contracts_checks
from expirytrack_dagster.collect import tracking
from expirytrack_dagster.collect.horizon import record_list
from expirytrack_dagster.runless import record
from expirytrack_dagster.state.tables import requests

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from expirytrack_dagster.state import StateDatabase
    from expirytrack_dagster.warehouse.connection import Warehouse
    from expirytrack_dagster_tests.bench.every_stock import ListedCell

_LISTED = """
CREATE TEMP TABLE listed AS
SELECT *, format('NSE_FO|{}|{}', number * 1000 + place, strftime(expiry, '%d-%m-%Y')) AS key
FROM (SELECT *, unnest(range(size)) AS place FROM (SELECT *, row_number() OVER () AS number FROM cells))
"""
_EXPIRIES = """
INSERT INTO main.expiries (underlying, expiry, underlying_key)
SELECT underlying, expiry, 'NSE_INDEX|' || underlying FROM cells
"""
_CONTRACTS = """
INSERT INTO main.contracts BY NAME
SELECT key AS instrument_key, underlying, expiry,
    CASE WHEN place >= options THEN 'FUT' WHEN place % 2 = 0 THEN 'PE' ELSE 'CE' END AS instrument_type,
    CASE WHEN place < options THEN 50.0 * (place // 2 + 1) END AS strike_price,
    underlying || ' ' || place AS trading_symbol, place::TEXT AS exchange_token, 75 AS lot_size, 5.0 AS tick_size,
    false AS weekly
FROM listed
"""
_STATES = """
INSERT INTO main.contract_status BY NAME
SELECT underlying, expiry, key AS instrument_key, 'complete' AS status, 1 AS requests, candles // size AS candles,
    candles // size AS received, 0 AS quarantined, 0 AS duplicates, now() AS checked_at
FROM listed WHERE done
"""
_SEALS = """
INSERT INTO main.cell_seals BY NAME
SELECT underlying, expiry, size AS contracts, candles, hash(underlying, expiry) AS checksum FROM cells WHERE done
"""
_CANDLES = """
INSERT INTO main.candles BY NAME
SELECT underlying, expiry, key AS instrument_key, minute::INTEGER AS minute, price AS open, price + 1 AS high,
    price - 1 AS low, price AS close, 75 * (minute % 40) AS volume, 75 * 2000 AS open_interest
FROM (
    SELECT underlying, expiry, key, unnest(range(29000000, 29000000 + candles // size)) AS minute,
        round(20 * (100 + hash(key) % 9000 + minute % 7)) / 20 AS price
    FROM listed
)
"""
_AT_ONCE = 50
_ROWS_AT_ONCE = 20_000


def fill_grid(instance: dg.DagsterInstance, cells: Sequence[ListedCell]) -> int:
    """Make all partitions and settle what is not listed, as discovery does; return how many events that were."""
    for symbol in dict.fromkeys(cell.underlying for cell in cells):
        partitions.add_underlying(instance, symbol)
    partitions.add_expiries(instance, [cell.expiry.isoformat() for cell in cells])
    return partitions.settle_unlisted(instance, listed(cells))


def fill_collected(instance: dg.DagsterInstance, cells: Iterable[ListedCell]) -> None:
    """Record cells as materialized in every asset of a cell."""
    keys = [partitions.cell_key(cell.underlying, cell.expiry.isoformat()) for cell in cells]
    for asset in partitions.CELL_ASSETS:
        record(instance, [dg.AssetMaterialization(asset, partition=key) for key in keys])


def fill_checked(instance: dg.DagsterInstance, cells: Iterable[ListedCell]) -> None:
    """Record that cells passed each of their checks, once each: one cell's by Dagster's own door, the others alike."""
    first, *others = [partitions.cell_key(cell.underlying, cell.expiry.isoformat()) for cell in cells]
    for spec in (*contracts_checks, *candles_checks, *chain_checks):
        passed = dg.AssetCheckEvaluation(spec.asset_key, spec.name, passed=True, metadata={}, partition=first)
        instance.report_runless_asset_event(passed)
    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        raise TypeError("the events of a home are kept in SQL")
    with storage.index_transaction() as connection:
        rows = [dict(row) for row in connection.execute(select(AssetCheckExecutionsTable)).mappings()]
        for row in rows:
            del row["id"]
        for key in others:  # the run is part of a row's key
            alike = [{**row, "partition": key, "run_id": key} for row in rows]
            connection.execute(insert(AssetCheckExecutionsTable), alike)


def listed(cells: Iterable[ListedCell]) -> dict[str, set[str]]:
    """Return the ISO dates of each underlying."""
    found: dict[str, set[str]] = {}
    for cell in cells:
        found.setdefault(cell.underlying, set()).add(cell.expiry.isoformat())
    return found


def fill_state(state: StateDatabase, cells: Sequence[ListedCell], now: datetime) -> None:
    """Track every underlying and remember its list."""
    for symbol in dict.fromkeys(cell.underlying for cell in cells):
        tracking.track(state, symbol, f"NSE_INDEX|{symbol}")
        record_list(state, symbol, [cell.expiry for cell in cells if cell.underlying == symbol], now)


def fill_lists(state: StateDatabase, symbols: Sequence[str], now: datetime) -> None:
    """Let the list of each underlying have been asked for and answered just now."""
    at = now.timestamp()
    same = {"scope": "account", "endpoint": "expiries", "params": "{}", "attempt": 1, "pid": 1, "status": 200}
    times = {"started_at": at, "lease_until": at, "counted_at": at, "latency": 0.0, "outcome": "ok"}
    rows = [{"target": f"NSE_INDEX|{symbol}", **same, **times} for symbol in symbols]
    state.write(lambda connection: connection.execute(insert(requests), rows))


def fill_requests(state: StateDatabase, count: int, now: datetime, *, every: float) -> None:
    """Put answered requests into the ledger, one every so many seconds, the last one half an hour ago."""
    first = now.timestamp() - 1800 - count * every
    same = {
        "scope": "account",
        "endpoint": "candles",
        "params": '{"expiry":"2025-08-28","from":"2020-08-29","interval":"1minute","to":"2025-08-28"}',
        "attempt": 1,
        "pid": 1,
        "status": 200,
        "bytes": 90_000,
        "rows": 1_400,
        "latency": 0.3,
        "outcome": "ok",
    }

    def row(number: int) -> dict[str, object]:
        at = first + number * every
        run = f"{number // 80:08}-0000-4000-8000-000000000000"
        times = {
            "started_at": at,
            "lease_until": at + 60,
            "counted_at": at + 0.3,
            "first_ts": int(at),
            "last_ts": int(at),
        }
        return {"target": f"NSE_FO|{number}|28-08-2025", "run_id": run, **same, **times}

    with state.transaction() as connection:
        for start in range(0, count, _ROWS_AT_ONCE):
            numbers = range(start, min(start + _ROWS_AT_ONCE, count))
            connection.execute(insert(requests), [row(number) for number in numbers])


def fill_archive(warehouse: Warehouse, cells: Sequence[ListedCell], done: Sequence[ListedCell]) -> None:
    """List all cells with their contracts; those that are done have states and seals, none has candles."""
    with warehouse.writing() as connection:
        connection.register("listing", _arrow(cells, done))
        connection.execute("CREATE TEMP TABLE cells AS FROM listing")
        for statement in (_LISTED, _EXPIRIES, _CONTRACTS, _STATES, _SEALS):
            connection.execute(statement)


def fill_rest(warehouse: Warehouse, cells: Sequence[ListedCell], rest: Sequence[ListedCell]) -> None:
    """Give states and seals to the rest of the cells that `fill_archive` has listed."""
    with warehouse.writing() as connection:
        connection.register("listing", _arrow(cells, rest))
        connection.execute("CREATE TEMP TABLE cells AS FROM listing")
        for statement in (_LISTED, _STATES, _SEALS):
            connection.execute(statement)


def fill_candles(warehouse: Warehouse, cells: Sequence[ListedCell]) -> int:
    """Add candles to cells that are listed, fifty cells a transaction; return how many."""
    for first in range(0, len(cells), _AT_ONCE):
        with warehouse.writing() as connection:
            connection.register("listing", _arrow(cells[first : first + _AT_ONCE], ()))
            connection.execute("CREATE TEMP TABLE cells AS FROM listing")
            connection.execute(_LISTED)
            connection.execute(_CANDLES)
    return sum(cell.candles for cell in cells)


def _arrow(cells: Sequence[ListedCell], done: Sequence[ListedCell]) -> pa.Table:
    collected = {(cell.underlying, cell.expiry) for cell in done}
    return pa.table(
        {
            "underlying": [cell.underlying for cell in cells],
            "expiry": [cell.expiry for cell in cells],
            "options": [cell.options for cell in cells],
            "futures": [cell.futures for cell in cells],
            "size": [cell.options + cell.futures for cell in cells],
            "candles": [cell.candles for cell in cells],
            "done": [(cell.underlying, cell.expiry) in collected for cell in cells],
        }
    )
