"""Runs that end before their time, cancelled or without a word: nothing stays taken, and nothing is asked again."""

from __future__ import annotations

import sqlite3
import subprocess
import time
from contextlib import closing
from datetime import date
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import psutil
import pytest

from expirytrack_dagster.sandbox.running import Running, running
from expirytrack_dagster.sandbox.switches import Switches
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket
from expirytrack_dagster.servers import this_program
from expirytrack_dagster_tests.e2e.served import OVER, Ui, environment, serving, track

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MARKET = SyntheticMarket(strikes=8, days=1, today=date(2025, 9, 1))
CELLS = ["2025-08-07|NIFTY", "2025-08-14|NIFTY", "2025-08-21|NIFTY", "2025-07-17|NIFTY"]
BACKFILLED = ["2025-07-24|NIFTY", "2025-07-31|NIFTY"]
CANCEL = """
mutation ($id: String!) {
  cancelPartitionBackfill(backfillId: $id) { __typename ... on PythonError { message } }
}"""
ASSETS = ["contracts", "candles"]
JOB = "historical_data_fetch"
SLOW, SLOWER, FAST = (0.8, 1.0), (8.0, 9.0), (0.0, 0.0)
IN_FLIGHT = 10
"""Requests of one process under way at once: what a `kill -9` may cost."""


@pytest.fixture(scope="module")
def upstox() -> Iterator[Running]:
    """Serve a market that lists half a year."""
    with running(MARKET, switches=Switches(depth="six_months")) as served:
        yield served


@pytest.fixture(scope="module")
def home(upstox: Running, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home in which NIFTY is tracked."""
    folder = tmp_path_factory.mktemp("home")
    track(folder, upstox.url, "NIFTY")
    return folder


@pytest.fixture(scope="module")
def ui(upstox: Running, home: Path) -> Iterator[Ui]:
    """Serve the UI of the home, NIFTY discovered."""
    with serving(home, upstox.url) as served:
        served.launch("expiry_fetch", ["expiries"], "NIFTY")
        yield served


@pytest.fixture(autouse=True)
def slow(upstox: Running) -> None:
    """Let each test begin with answers that take long enough to be interrupted."""
    upstox.switch(delay_after=SLOW)


def worker_of(home: Path, run_id: str) -> psutil.Process:
    """Return the process whose requests are booked on a run, once ten of them are answered."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with closing(sqlite3.connect(home / "state.sqlite")) as state:
            rows = state.execute(
                "SELECT pid FROM requests WHERE run_id = ? AND endpoint = 'candles' AND outcome = 'ok'", (run_id,)
            ).fetchall()
        if len(rows) > IN_FLIGHT:
            return psutil.Process(rows[0][0])
        time.sleep(0.1)
    raise AssertionError("the run did not get on")


def asked_twice(upstox: Running, cell: str) -> int:
    """Return how many requests for candles of a cell the sandbox saw beyond one for each contract and interval."""
    day = date.fromisoformat(cell.split("|", maxsplit=1)[0]).strftime("%d-%m-%Y")
    paths = [unquote(entry.path) for entry in upstox.requests() if entry.endpoint == "candles"]
    own = [path for path in paths if f"|{day}/" in path]
    assert own
    return len(own) - len(set(own))


def partitions_of(run: dict[str, Any]) -> set[str]:
    """Return the cells of a run: a backfill's run has a range, of one."""
    names = ("dagster/partition", "dagster/asset_partition_range_start")
    return {run["tags"][name] for name in names if name in run["tags"]}


def the_rest(ui: Ui, cell: str, first: str) -> list[tuple[str, str]]:
    """Return run id and status of every other run of the cell, oldest first."""
    runs = [run for run in reversed(ui.runs()) if cell in partitions_of(run)]
    return [(run["runId"], run["status"]) for run in runs if run["runId"] != first]


def fails(ui: Ui, upstox: Running, run_id: str) -> None:
    """Wait until a run whose process is gone is called failed, and holds no slot of a pool."""
    upstox.switch(delay_after=FAST)
    ui.wait(lambda: ui.status(run_id) in OVER)
    assert ui.status(run_id) == "FAILURE"
    assert not any(pool["claimedSlots"] or pool["pendingSteps"] for pool in ui.pools())


def goes_on(ui: Ui, upstox: Running, cell: str, run_id: str) -> None:
    """Wait until one other run of the cell has succeeded, which asked only for what had not arrived."""
    ui.wait(lambda: any(status in OVER for _, status in the_rest(ui, cell, run_id)))
    assert [status for _, status in the_rest(ui, cell, run_id)] == ["SUCCESS"]
    assert asked_twice(upstox, cell) <= IN_FLIGHT


def test_a_killed_run_is_retried(ui: Ui, upstox: Running) -> None:
    """After `kill -9` of its process a run is failed within seconds, and a retry finishes the cell."""
    run_id = ui.begin(JOB, ASSETS, CELLS[0])
    worker_of(ui.home, run_id).kill()
    fails(ui, upstox, run_id)
    goes_on(ui, upstox, CELLS[0], run_id)


def test_a_killed_command_line_does_not_stay_started(ui: Ui, upstox: Running) -> None:
    """A run of `expirytrack collect` that is killed is found, and the UI can go on with its cell."""
    day, symbol = CELLS[1].split("|")
    with subprocess.Popen(
        [*this_program(), "collect", symbol, "--expiry", day],
        env=environment(ui.home, upstox.url),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        ui.wait(lambda: the_rest(ui, CELLS[1], ""))
        (run_id, _), *_ = the_rest(ui, CELLS[1], "")
        worker_of(ui.home, run_id)
        process.kill()
    fails(ui, upstox, run_id)
    ui.begin(JOB, ASSETS, CELLS[1])
    goes_on(ui, upstox, CELLS[1], run_id)


def test_a_cancelled_backfill_leaves_nothing_taken(ui: Ui, upstox: Running) -> None:
    """Cancelled in the middle, it ends with all its runs; the next one asks only for what had not arrived."""
    upstox.switch(delay_after=SLOWER)  # the daemon looks for what is to be cancelled every ten seconds
    backfill = ui.backfill(BACKFILLED)
    ui.wait(lambda: the_rest(ui, BACKFILLED[0], ""))
    worker_of(ui.home, the_rest(ui, BACKFILLED[0], "")[0][0])
    assert ui.ask(CANCEL, id=backfill)["cancelPartitionBackfill"]["__typename"] == "CancelBackfillSuccess"
    assert ui.ended(backfill)["status"] == "CANCELED"
    ui.wait(lambda: all(run["status"] in OVER for run in ui.ended(backfill)["runs"]))
    assert {run["status"] for run in ui.ended(backfill)["runs"]} == {"CANCELED"}
    assert not any(pool["claimedSlots"] or pool["pendingSteps"] for pool in ui.pools())
    upstox.switch(delay_after=FAST)
    again = ui.ended(ui.backfill(BACKFILLED))
    assert again["status"] == "COMPLETED_SUCCESS"
    assert [run["status"] for run in again["runs"]] == ["SUCCESS", "SUCCESS"]
    assert all(asked_twice(upstox, cell) <= IN_FLIGHT for cell in BACKFILLED)


def test_a_power_cut_in_the_middle(ui: Ui, upstox: Running) -> None:
    """Everything killed at once: the next start finds the run, fails it, and finishes the cell."""
    run_id = ui.begin(JOB, ASSETS, CELLS[2])
    worker_of(ui.home, run_id)
    ui.kill()
    with serving(ui.home, upstox.url) as again:
        fails(again, upstox, run_id)
        goes_on(again, upstox, CELLS[2], run_id)


def test_the_ui_is_stopped_in_the_middle(ui: Ui, upstox: Running) -> None:
    """SIGTERM while a cell is collected ends the UI and the run; the next start goes on where it stopped."""
    with serving(ui.home, upstox.url) as stopped:
        run_id = stopped.begin(JOB, ASSETS, CELLS[3])
        worker = worker_of(ui.home, run_id)
    assert not worker.is_running()
    with serving(ui.home, upstox.url) as again:
        upstox.switch(delay_after=FAST)
        again.wait(lambda: again.status(run_id) in OVER)
        if not the_rest(again, CELLS[3], run_id):  # canceled in time, it is over for good: a person launches it anew
            again.begin(JOB, ASSETS, CELLS[3])
        goes_on(again, upstox, CELLS[3], run_id)
