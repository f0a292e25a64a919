"""More than one program at the archive: writers side by side, a program that keeps it open, two runs of one cell."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import date
from typing import TYPE_CHECKING

import pytest

from expirytrack_dagster.collect.staging import CellStaging
from expirytrack_dagster.sandbox.running import Running, running
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket
from expirytrack_dagster.servers import this_program
from expirytrack_dagster.warehouse.connection import Warehouse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from expirytrack_dagster_tests.integration.assets.conftest import Archive

MARKET = SyntheticMarket(strikes=2, days=1, today=date(2025, 9, 1))
CELLS = ["2025-08-21", "2025-08-28"]
HOLDER = "import duckdb, sys; held = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read()"


@pytest.fixture
def upstox() -> Iterator[Running]:
    """Serve a small market."""
    with running(MARKET) as served:
        yield served


def _start(upstox: Running, home: Path, *arguments: str, **settings: str) -> subprocess.Popen[str]:
    given = {"HOME": str(home), "API_URL": upstox.url, "ACCESS_TOKEN": "x", **settings}
    environment = os.environ | {f"EXPIRYTRACK_{name}": value for name, value in given.items()}
    command = [*this_program(), *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _rows(home: Path, table: str) -> int:
    with Warehouse(home / "expirytrack.duckdb").reading() as connection:
        (number,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone() or (0,)  # noqa: S608 -- constants
    return int(number)


def test_two_processes_write_two_cells_at_once(upstox: Running, home: Path) -> None:
    """Two collections of one home end well side by side, and both cells are whole."""
    both = [_start(upstox, home, "collect", "NIFTY", "--expiry", cell) for cell in CELLS]
    results = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], results
    listed = sum(len(MARKET.option_contracts("NSE_INDEX|Nifty 50", date.fromisoformat(cell)) or []) for cell in CELLS)
    assert _rows(home, "contract_status") == listed + 1
    assert _rows(home, "(SELECT DISTINCT expiry FROM candles)") == 2


def test_a_held_database_is_named_and_nothing_is_lost(
    upstox: Running, home: Path, collect: Callable[..., Archive]
) -> None:
    """A program that keeps the archive open is waited for, then named; what it kept out is not asked again."""
    collect(upstox, [date(2025, 8, 21)])  # so that there is a database to hold
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(home / "expirytrack.duckdb")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline().strip() == "held"
    blocked = _start(upstox, home, "collect", "NIFTY", "--expiry", CELLS[1], LOCK_TIMEOUT="1")
    _, complaint = blocked.communicate(timeout=60)
    holder.communicate(timeout=20)
    assert blocked.returncode == 1
    assert f"PID {holder.pid}" in complaint
    assert "Traceback" not in complaint
    assert collect(upstox, [date(2025, 8, 28)]).outcome.exit_code == 0


def test_a_failed_write_keeps_what_arrived(upstox: Running, home: Path, collect: Callable[..., Archive]) -> None:
    """When the archive cannot be written at the end, the run says so, and the next run asks for no candle again."""
    collect(upstox, [date(2025, 8, 21)])
    with Warehouse(home / "expirytrack.duckdb").writing() as connection:
        connection.execute("ALTER TABLE contract_status RENAME message TO words")
    broken = collect(upstox, [date(2025, 8, 28)])
    assert broken.outcome.exit_code == 1
    assert broken.number("SELECT count(*) FROM candles WHERE expiry = '2025-08-28'") == 0
    asked = [entry for entry in upstox.requests() if "historical-candle" in entry.path]
    with Warehouse(home / "expirytrack.duckdb").writing() as connection:
        connection.execute("ALTER TABLE contract_status RENAME words TO message")
    assert collect(upstox, [date(2025, 8, 28)]).outcome.exit_code == 0
    assert [entry for entry in upstox.requests() if "historical-candle" in entry.path] == asked


def test_one_cell_is_collected_by_one_run_at_a_time(
    upstox: Running, home: Path, collect: Callable[..., Archive]
) -> None:
    """A second run of a cell that is being collected ends with one sentence and asks for no candle."""
    with CellStaging(home / "staging" / "NIFTY" / CELLS[0]).held():
        refused = collect(upstox, [date(2025, 8, 21)])
    assert refused.outcome.exit_code == 1
    assert "Another run is collecting NIFTY 2025-08-21" in refused.outcome.errors[0]
    assert not [entry for entry in upstox.requests() if "historical-candle" in entry.path]
    assert collect(upstox, [date(2025, 8, 21)]).outcome.exit_code == 0
