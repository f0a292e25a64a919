"""Six writers and four readers at once: a lake with its catalogue in PostgreSQL, beside the same with one file.

In the file writers queue, and readers use its published copy; in the lake writers of different cells do not wait for
each other, and readers ask the lake itself. What is counted is whole cells, three transactions each, with every row
proved afterwards; and how long a reader's question takes.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from expirytrack_dagster.address import Address, standard
from expirytrack_dagster.warehouse.cells import write_contracts
from expirytrack_dagster.warehouse.connection import Warehouse
from expirytrack_dagster.warehouse.data_path import Access, DataPath
from expirytrack_dagster.warehouse.stores import store_of
from expirytrack_dagster_tests.bench.figures import Figure
from expirytrack_dagster_tests.objects import BUCKET, object_store
from expirytrack_dagster_tests.postgres import postgres_server, programs
from expirytrack_dagster_tests.soak import FIRST, ROWS, Soak, prepare, prove, soak

if TYPE_CHECKING:
    from collections.abc import Iterator

_WRITERS, _READERS = 6, 4
_AWAY = 20.0


def run(*, quick: bool) -> Iterator[Figure]:
    """Yield cells a minute, a reader's times, what was not exact, and a store that is away; quick, ten seconds each."""
    if programs() is None:
        return
    seconds = 10.0 if quick else 120.0
    with tempfile.TemporaryDirectory() as folder, postgres_server() as server:
        home = Path(folder)
        in_lake, lake_faults = _measured(Address("ducklake:postgres", server.create("lake")), home / "lake", seconds)
        in_file, file_faults = _measured(standard("duckdb", home / "file"), home / "file", seconds)
    beside = f"a file: {_pace(in_file):,.0f} cells/min"
    note = f"{_WRITERS} writers, {_READERS} readers, {seconds:.0f} s each, {ROWS:,} rows a cell, one in four contended"
    yield Figure(
        name="lake: cells written",
        value=_pace(in_lake),
        unit="cells/min",
        beside=beside,
        ratio=_pace(in_lake) / _pace(in_file),
        note=note,
    )
    yield Figure(
        name="lake: what is not exact",
        value=len(lake_faults),
        unit="faults",
        beside=f"a file: {len(file_faults)}",
        bar="none in either",
        passed=not lake_faults and not file_faults,
        note=f"{len(in_lake.looks):,} and {len(in_file.looks):,} looks; {'; '.join([*lake_faults, *file_faults][:3])}",
    )
    for name, share in (("median", 0.5), ("99 of 100", 0.99), ("slowest", 1.0)):
        lake, file = (_quantile(one.latencies, share) * 1000 for one in (in_lake, in_file))
        yield Figure(
            name=f"lake: a reader's question, {name}",
            value=lake,
            unit="ms",
            beside=f"the published copy: {file:,.0f} ms",
            ratio=lake / file,
            bar="1,000 ms" if share < 1 else "",
            passed=lake < 1000 if share < 1 else None,
        )
    yield _away(2.0 if quick else _AWAY)


def _measured(address: Address, home: Path, seconds: float) -> tuple[Soak, list[str]]:
    data = DataPath(f"{home}/lake/")
    warehouse = Warehouse(store_of(address, data=data), published=home / "published")
    prepare(warehouse)
    environment = {
        "EXPIRYTRACK_HOME": str(home),
        "EXPIRYTRACK_WAREHOUSE": str(address),
        "EXPIRYTRACK_DATA_PATH": data.place,
        "EXPIRYTRACK_LOCK_TIMEOUT": "600",
    }
    found = soak(environment, _WRITERS, _READERS, seconds)
    return found, prove(found, warehouse, home / "staging")


def _pace(found: Soak) -> float:
    return len(found.writes) * 60 / found.seconds


def _quantile(ascending: list[float], share: float) -> float:
    return ascending[min(len(ascending) - 1, int(len(ascending) * share))]


def _away(seconds: float) -> Figure:
    """Write through an object store that answers 503 in the middle, and count rows and keys after it."""
    listed = pd.DataFrame({"instrument_key": [f"NSE_FO|{number}|{FIRST}" for number in range(1000)]})
    listed["instrument_type"] = "CE"
    with tempfile.TemporaryDirectory() as folder, object_store() as store:
        access = Access("key", "secret", endpoint=store.url)
        lake = Warehouse(
            store_of(standard("ducklake:sqlite", Path(folder)), data=DataPath(f"s3://{BUCKET}/rows/", access))
        )
        write_contracts(lake, "NIFTY", FIRST, listed)
        store.go_away(seconds)
        began = time.monotonic()
        write_contracts(lake, "NIFTY", FIRST, listed)
        took = time.monotonic() - began
        with lake.reading() as connection:
            (rows, keys) = connection.execute(
                "SELECT count(*), count(DISTINCT instrument_key) FROM contracts"
            ).fetchone() or (0, 0)
    return Figure(
        name=f"lake: a write while the object store answers 503 for {seconds:.0f} s",
        value=took,
        unit="s",
        beside=f"{rows:,} rows, {keys:,} keys of {len(listed):,}; {store.refused} refusals",
        bar="neither lost nor doubled",
        passed=rows == keys == len(listed),
    )
