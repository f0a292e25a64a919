"""Readers beside a collection: neither waits for the other, and what is committed is seen within a second."""

from __future__ import annotations

import json
import threading
import time
from datetime import date
from typing import TYPE_CHECKING

import pytest

from expirytrack_dagster import archive
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket
from expirytrack_dagster.warehouse.connection import Warehouse
from expirytrack_dagster.warehouse.published import publish
from expirytrack_dagster_tests.market import store_cell

if TYPE_CHECKING:
    from pathlib import Path

    from expirytrack_dagster_tests.integration.warehouse.conftest import Start

EXPIRIES = [date(2025, 7, 31), date(2025, 8, 7), date(2025, 8, 14), date(2025, 8, 21), date(2025, 8, 28)]

# Commits and publishes a cell after the other, without a pause, and says when each commit was done.
COLLECTING = """
import sys, time, json
from datetime import date
from pathlib import Path
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket
from expirytrack_dagster.warehouse.connection import Warehouse
from expirytrack_dagster.warehouse.published import publish
from expirytrack_dagster_tests.market import store_cell
home = Path(sys.argv[1])
warehouse, market = Warehouse(home / "expirytrack.duckdb"), SyntheticMarket(strikes=6, days=2, today=date(2025, 9, 15))
print("ready", flush=True)
sys.stdin.read()
for expiry in map(date.fromisoformat, sys.argv[2:]):
    store_cell(warehouse, market, "NIFTY", expiry, home)
    done = time.time()
    publish(warehouse, "NIFTY", expiry)
    print(json.dumps([expiry.isoformat(), done]), flush=True)
"""
# Holds a transaction of the archive open for as long as it is let.
WRITING = """
import sys
from pathlib import Path
from expirytrack_dagster.warehouse.connection import Warehouse
with Warehouse(Path(sys.argv[1])).writing() as connection:
    connection.execute("DELETE FROM main.candles")
    print("ready", flush=True)
    sys.stdin.read()
    raise SystemExit
"""
# Asks something that takes until it is killed.
READING = """
import sys
from expirytrack_dagster import archive
print(len(archive.cells(home=sys.argv[1])) and "ready", flush=True)
archive.sql("SELECT sum(a.close * b.close * c.close) FROM candles AS a, candles AS b, candles AS c", home=sys.argv[1])
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Give a home with one published cell."""
    warehouse = Warehouse(tmp_path / "expirytrack.duckdb", lock_timeout=5.0)
    store_cell(warehouse, SyntheticMarket(strikes=2, days=1, today=date(2025, 9, 15)), "NIFTY", EXPIRIES[0], tmp_path)
    publish(warehouse)
    return tmp_path


def test_a_reader_follows_a_collection_within_a_second(home: Path, start: Start) -> None:
    """While another process commits cell after cell, every question is answered at once and none is stale for long."""
    archive.candles("NIFTY", EXPIRIES[0], home=home)  # the imports are not what is measured
    collector = start(COLLECTING, home, *map(str, EXPIRIES[1:]))
    assert collector.stdin is not None
    collector.stdin.close()
    seen: dict[str, float] = {}
    slowest = 0.0
    while collector.poll() is None or len(seen) < len(EXPIRIES):
        began = time.perf_counter()
        cells = archive.cells("NIFTY", home=home)
        rows = len(archive.candles("NIFTY", EXPIRIES[0], home=home))
        slowest = max(slowest, time.perf_counter() - began)
        assert rows == cells[0].rows > 0
        for cell in cells:
            seen.setdefault(cell.expiry.isoformat(), time.time())
        time.sleep(0.01)
    assert collector.stdout is not None
    committed = dict(json.loads(line) for line in collector.stdout.read().splitlines())
    delays = {expiry: seen[expiry] - done for expiry, done in committed.items()}
    print(f"slowest question {slowest:.3f} s, delays {delays}")  # noqa: T201 -- a measured figure
    assert len(delays) == len(EXPIRIES) - 1
    assert max(delays.values()) < 1.0
    assert slowest < 1.0


def test_an_open_transaction_keeps_no_reader_waiting(home: Path, start: Start) -> None:
    """The lock is held by a writer in the middle of its work: the answer is the state before it, at once."""
    before = len(archive.candles("NIFTY", EXPIRIES[0], home=home))
    start(WRITING, home / "expirytrack.duckdb")
    began = time.perf_counter()
    assert len(archive.candles("NIFTY", EXPIRIES[0], home=home)) == before > 0
    assert time.perf_counter() - began < 1.0


def test_a_long_question_keeps_no_writer_waiting(home: Path, start: Start) -> None:
    """A notebook computes for minutes: the next cell is committed and published meanwhile, without any wait."""
    reader = start(READING, home)
    warehouse = Warehouse(home / "expirytrack.duckdb", lock_timeout=0.0)
    store_cell(warehouse, SyntheticMarket(strikes=1, days=1, today=date(2025, 9, 15)), "NIFTY", EXPIRIES[1], home)
    publish(warehouse)
    assert reader.poll() is None
    assert [cell.expiry for cell in archive.cells(home=home)] == EXPIRIES[:2]


def test_threads_may_ask_at_once(home: Path) -> None:
    """Each with its own view of the files; none sees another's narrowing."""
    warehouse = Warehouse(home / "expirytrack.duckdb")
    store_cell(warehouse, SyntheticMarket(strikes=4, days=1, today=date(2025, 9, 15)), "NIFTY", EXPIRIES[1], home)
    publish(warehouse)
    expected = {cell.expiry: cell.rows for cell in archive.cells(home=home)}
    wrong: list[object] = []

    def ask(expiry: date) -> None:
        for _ in range(20):
            rows = len(archive.sql("FROM candles", underlying="NIFTY", expiry=expiry, home=home))
            if rows != expected[expiry]:
                wrong.append((expiry, rows))

    threads = [threading.Thread(target=ask, args=(expiry,)) for expiry in [*expected, *expected]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
