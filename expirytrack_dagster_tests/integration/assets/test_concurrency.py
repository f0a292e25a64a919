"""More than one program at the archive: writers side by side, a program that keeps it open, two runs of one cell."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import date
from typing import TYPE_CHECKING

import pytest

from expirytrack_dagster.console import ProgressBars
from expirytrack_dagster.instance import open_instance
from expirytrack_dagster.runs import Runner
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
LEASEHOLDER = """
import sys
from datetime import date
from expirytrack_dagster.collect.leases import held, named
from expirytrack_dagster.settings import load_settings
from expirytrack_dagster.state import open_state
from expirytrack_dagster.upstox.clock import SystemClock
cell = named(("NIFTY", date.fromisoformat(sys.argv[1])))
with held(open_state(load_settings()), cell, "another", SystemClock()):
    print("held", flush=True)
    sys.stdin.read()
"""
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


@pytest.fixture
def busy(home: Path) -> Iterator[subprocess.Popen[str]]:
    """Let another process hold the first cell until it is told to end."""
    command = [sys.executable, "-c", LEASEHOLDER, CELLS[0]]
    with subprocess.Popen(
        command,
        env=os.environ | {"EXPIRYTRACK_HOME": str(home)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_run_of_a_cell_that_another_collects_ends_with_a_sentence(
    upstox: Running, collect: Callable[..., Archive], busy: subprocess.Popen[str]
) -> None:
    """It names the host and asks for nothing of the cell."""
    del busy
    archive = collect(upstox, [date(2025, 8, 28)])
    before = upstox.requests()
    with open_instance(archive.settings) as instance:
        refused = Runner(instance, ProgressBars()).collect("NIFTY", CELLS[0])
    assert refused.exit_code == 1
    assert f"Another run is collecting NIFTY {CELLS[0]} on {platform.node()}: " in str(refused.error)
    assert upstox.requests() == before


def test_collect_takes_other_cells_first_and_waits_for_those_of_others(
    upstox: Running, home: Path, busy: subprocess.Popen[str]
) -> None:
    """It says for whom, and a holder that is killed gives its cell to who waits: at the end all is there."""
    _start(upstox, home, "track", "NIFTY").communicate(timeout=60)
    waiting = _start(upstox, home, "collect", "NIFTY", *(f"--expiry={cell}" for cell in CELLS))
    assert waiting.stderr is not None
    told = next(line for line in waiting.stderr if "Waiting for" in line)
    assert f"NIFTY {CELLS[0]}, which {platform.node()} is collecting" in told
    assert _rows(home, "(SELECT DISTINCT expiry FROM candles)") == 1
    busy.kill()
    waiting.communicate(timeout=60)
    assert waiting.returncode == 0
    assert _rows(home, "(SELECT DISTINCT expiry FROM candles)") == 2


def test_two_commands_ask_once_for_what_both_want(upstox: Running, home: Path) -> None:
    """Neither the list of expiries nor a contract is asked for twice, and both commands find everything done."""
    _start(upstox, home, "track", "NIFTY").communicate(timeout=60)
    both = [_start(upstox, home, "collect", "NIFTY", *(f"--expiry={cell}" for cell in CELLS)) for _ in range(2)]
    results = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], results
    asked = [entry.path for entry in upstox.requests()]
    assert len(asked) == len(set(asked))
