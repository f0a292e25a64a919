"""The ledger under real conditions: four processes on one file, one of them killed, and a million old rows."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from sqlalchemy import text

from expirytrack_dagster.settings import RateLimit
from expirytrack_dagster.state import StateDatabase
from expirytrack_dagster.upstox.calls import Call, Receipt
from expirytrack_dagster.upstox.ledger import RequestLedger, Wait
from expirytrack_dagster_tests.statements import sql

if TYPE_CHECKING:
    from pathlib import Path

LIMITS = "40/0.5,100/2"
WORKER = """
import json, random, sys, time
from pathlib import Path
from expirytrack_dagster.settings import parse_rate_limits
from expirytrack_dagster.state import StateDatabase
from expirytrack_dagster.upstox.calls import Call, Receipt
from expirytrack_dagster.upstox.ledger import RequestLedger, Wait

path, limits, count, latency = sys.argv[1], parse_rate_limits(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
ledger = RequestLedger(StateDatabase(Path(path)), limits)
call, counted, costs = Call("candles", "NSE_FO|1|28-08-2025"), [], []
while len(counted) < count:
    began = time.perf_counter()
    slot = ledger.acquire(call, lease=1.0)
    cost = time.perf_counter() - began
    if isinstance(slot, Wait):
        time.sleep(slot.seconds)
        continue
    time.sleep(random.uniform(0, latency))
    counted.append(time.time())  # the instant at which an API would count
    print(counted[-1], flush=True)
    time.sleep(random.uniform(0, latency))
    began = time.perf_counter()
    ledger.settle(slot, Receipt("ok", counted_at=time.time(), status=200))
    costs.append(cost + time.perf_counter() - began)
print(json.dumps(costs), file=sys.stderr)
"""


def start(path: Path, limits: str, count: int, latency: float) -> subprocess.Popen[str]:
    """Start one more process that asks through the ledger."""
    arguments = [sys.executable, "-c", WORKER, str(path), limits, str(count), str(latency)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_four_processes_never_exceed_a_window_even_after_a_kill(tmp_path: Path) -> None:
    """Counted as a strict server would, with random latency; one process is killed in the middle and replaced."""
    path = tmp_path / "state.sqlite"
    processes = [start(path, LIMITS, 60, 0.03) for _ in range(4)]
    victim = processes[0]
    assert victim.stdout is not None
    early = [victim.stdout.readline() for _ in range(15)]
    victim.kill()
    processes.append(start(path, LIMITS, 30, 0.03))
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes[1:]] == [0] * 4
    counted = sorted(float(line) for out in ["".join(early), *(out for out, _ in outputs)] for line in out.split())
    assert len(counted) >= 15 + 3 * 60 + 30
    for limit in (RateLimit(0.5, 40), RateLimit(2, 100)):
        spans = [last - first for first, last in zip(counted, counted[limit.requests :], strict=False)]
        assert min(spans) >= limit.seconds
    with StateDatabase(path) as state:
        rows = state.query(sql("SELECT count(*), count(outcome) FROM requests"))[0]
    assert rows[0] >= len(counted)
    assert rows[0] - rows[1] <= 1  # only what the killed process had under way is not settled


def test_a_slot_is_cheap_with_four_processes(tmp_path: Path) -> None:
    """The median of taking and settling while four processes do nothing else."""
    path = tmp_path / "state.sqlite"
    with StateDatabase(path) as state:
        state.query(sql("SELECT 1"))
    processes = [start(path, "100000/1,100000/60,100000/1800", 250, 0.004) for _ in range(4)]
    costs: list[float] = []
    for process in processes:
        _, err = process.communicate(timeout=60)
        costs += json.loads(err)
    median = statistics.median(costs)
    print(  # noqa: T201  a measured figure, shown by pytest -s
        f"ledger, 4 processes: median {median * 1e3:.3f} ms, 95 % {statistics.quantiles(costs, n=20)[-1] * 1e3:.3f} ms"
    )
    assert median <= 0.003  # the target is 0.001; the rest is room for a busy machine


def test_a_million_old_rows_do_not_slow_the_ledger(tmp_path: Path) -> None:
    """Rows are the audit and never deleted, so taking a slot must not read all of them."""
    limits = (RateLimit(1, 50), RateLimit(60, 500), RateLimit(1800, 2000))
    call = Call("candles", "NSE_FO|1|28-08-2025")
    with StateDatabase(tmp_path / "state.sqlite") as state:
        with state.transaction() as connection:
            connection.execute(
                text(
                    "WITH RECURSIVE n(i) AS (VALUES (0) UNION ALL SELECT i + 1 FROM n WHERE i < 999999)"
                    " INSERT INTO requests (scope, endpoint, target, params, attempt, run_id, pid, started_at,"
                    " lease_until, counted_at, status, outcome) SELECT 'account', 'candles', 'NSE_FO|1|28-08-2025',"
                    " '{}', 1, 'old', 1, :now - 1e7 + i, :now - 1e7 + i + 60, :now - 1e7 + i, 200, 'ok' FROM n"
                ),
                {"now": time.time()},
            )
        ledger = RequestLedger(state, limits)
        costs = []
        for _ in range(50):
            began = time.perf_counter()
            slot = ledger.acquire(call, run_id="new")
            assert isinstance(slot, int)
            ledger.settle(slot, Receipt("ok", counted_at=time.time(), status=200))
            costs.append(time.perf_counter() - began)
        median = statistics.median(costs)
        print(f"ledger, a million old rows: median {median * 1e3:.3f} ms")  # noqa: T201  as above
        assert median <= 0.003
        assert isinstance(ledger.acquire(call), Wait)
        assert ledger.spent("new") == 50
        assert ledger.budget().windows[-1].used == 50
