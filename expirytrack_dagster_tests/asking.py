"""A process that asks through the ledger of any address, on whatever host it is started; its clock may be wrong.

    python -m expirytrack_dagster_tests.asking ADDRESS LIMITS COUNT LATENCY ERROR

It prints the instant at which an API would count each request, by the right clock, and at last its costs in seconds:
those of taking and of settling a slot, without what lies between.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from expirytrack_dagster.settings import parse_rate_limits
from expirytrack_dagster.state import StateDatabase
from expirytrack_dagster.state_address import parse_state_address
from expirytrack_dagster.upstox.calls import Call, Receipt
from expirytrack_dagster.upstox.clock import SystemClock
from expirytrack_dagster.upstox.ledger import RequestLedger, Wait

if TYPE_CHECKING:
    from collections.abc import Sequence


class WrongClock(SystemClock):
    """This machine's clock as a host would show it whose own is wrong by so many seconds."""

    def __init__(self, error: float) -> None:
        """Keep the error."""
        self._error = error

    def now(self) -> float:
        """Return what it shows."""
        return super().now() + self._error


def ask(address: str, limits: str, count: int, latency: float, error: float) -> list[float]:
    """Ask so many times and return what each cost; `latency` is the longest way to the API, or back."""
    clock, call, costs = WrongClock(error), Call("candles", "NSE_FO|1|28-08-2025"), list[float]()
    place: Any = parse_state_address(address)
    windows: Any = parse_rate_limits(limits)
    with StateDatabase(place) as state:
        ledger = RequestLedger(state, windows, clock=clock)
        ledger.budget()  # connected
        while len(costs) < count:
            began = time.perf_counter()
            slot = ledger.acquire(call, lease=1.0 + 2 * latency)
            cost = time.perf_counter() - began
            if isinstance(slot, Wait):
                time.sleep(slot.seconds)
                continue
            time.sleep(random.uniform(0, latency))  # noqa: S311 - no secret is made of it
            print(time.time(), flush=True)  # noqa: T201 -- told to whoever started this
            time.sleep(random.uniform(0, latency))  # noqa: S311 - as above
            began = time.perf_counter()
            ledger.settle(slot, Receipt("ok", counted_at=clock.now(), status=200))
            costs.append(cost + time.perf_counter() - began)
    return costs


def on(
    host: Sequence[str], address: str, limits: str, count: int, latency: float, error: float
) -> subprocess.Popen[str]:
    """Start such a process on a host, which is the words before its command."""
    module = [sys.executable, "-m", "expirytrack_dagster_tests.asking"]
    words = [address, limits, str(count), str(latency), str(error)]
    return subprocess.Popen([*host, *module, *words], stdout=subprocess.PIPE, text=True)


def results(processes: Sequence[subprocess.Popen[str]], within: float) -> tuple[list[float], list[float]]:
    """Wait for processes, and return all instants of counting in their order, and all costs."""
    counted, costs = list[float](), list[float]()
    for process in processes:
        lines = process.communicate(timeout=within)[0].split("\n")
        if process.returncode:
            raise RuntimeError(f"a process that asks ended with {process.returncode}")
        costs += json.loads(lines[-2])
        counted += [float(line) for line in lines[:-2]]
    return sorted(counted), costs


if __name__ == "__main__":
    print(json.dumps(ask(sys.argv[1], sys.argv[2], int(sys.argv[3]), *map(float, sys.argv[4:6]))))  # noqa: T201 -- as above
