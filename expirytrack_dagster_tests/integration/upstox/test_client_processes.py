"""Four real processes with real clients against a strict server: no violation, whatever the latency, nor after kill -9.

The same at the true limits, which takes minutes, is in the benchmarks.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import date
from typing import TYPE_CHECKING

from expirytrack_dagster.sandbox.running import Running, running
from expirytrack_dagster.sandbox.switches import Switches
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket
from expirytrack_dagster.settings import parse_rate_limits

if TYPE_CHECKING:
    from pathlib import Path

LIMITS = "70/0.5,250/2.5,480/4"
WORKER = """
import asyncio, sys
from contextlib import suppress
from expirytrack_dagster.errors import RequestRefused
from expirytrack_dagster.settings import load_settings
from expirytrack_dagster.upstox.client import UpstoxClient
from expirytrack_dagster.upstox.ledger import open_ledger

async def main(first, count):
    settings = load_settings()
    async with UpstoxClient(settings, open_ledger(settings)) as client:
        keys = (f"NSE_EQ|INE{number:09}" for number in range(first, first + count))
        async def work():
            for key in keys:
                with suppress(RequestRefused):  # there is no such share; the limits count it all the same
                    await client.get_expiries(key)
        async with asyncio.TaskGroup() as group:
            for _ in range(25):
                group.create_task(work())

asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
"""


def start(home: Path, url: str, first: int, count: int) -> subprocess.Popen[bytes]:
    """Start one more process of the account."""
    settings = {
        "HOME": str(home),
        "API_URL": url,
        "ACCESS_TOKEN": "token",
        "RATE_LIMITS": LIMITS,
        "RATE_BURST": "10",
        "DISCOVERY_WORKERS": "25",
        "TIMEOUT": "2",
        "CACHE": "false",
    }
    environment = {**os.environ, **{f"EXPIRYTRACK_{name}": value for name, value in settings.items()}}
    return subprocess.Popen([sys.executable, "-c", WORKER, str(first), str(count)], env=environment)


def wait_for(served: Running, requests: int) -> None:
    """Wait until the server has seen so many requests."""
    deadline = time.monotonic() + 60
    while len(served.requests()) < requests:
        assert time.monotonic() < deadline, "the processes do not get on"
        time.sleep(0.02)


def test_no_window_is_exceeded_by_four_processes_even_after_a_kill(tmp_path: Path) -> None:
    """Over 1,000 requests, 0 to 300 ms before and after the counting; all four killed in the middle and replaced."""
    market = SyntheticMarket(today=date(2025, 9, 15))
    switches = Switches(delay_before=(0, 0.3), delay_after=(0, 0.3))
    limits = parse_rate_limits(LIMITS)
    assert isinstance(limits, tuple)
    with running(market, limits=limits, switches=switches) as served:
        killed = [start(tmp_path, served.url, 1_000 * part, 1_000) for part in range(4)]
        try:
            wait_for(served, 400)
        finally:
            for process in killed:
                process.kill()
                process.wait()
        ended = [start(tmp_path, served.url, 10_000 + 1_000 * part, 155) for part in range(4)]
        assert [process.wait(60) for process in ended] == [0] * 4
        assert len(served.requests()) >= 1_020
        assert served.sandbox.limiter.violations == 0
        most = served.sandbox.limiter.most_in_any_window()
        assert all(most[str(limit)] <= limit.requests for limit in limits)
        assert {answer.status for answer in served.requests()} == {400}
