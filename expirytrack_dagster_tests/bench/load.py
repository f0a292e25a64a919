"""Load that the benchmarks share: a sandbox in a process of its own, client processes, and what the sandbox saw.

Belongs here: starting, asking and counting. What is measured with it is in `bench_*.py`. Every request asks another
window of the same contract, so that no cache can answer it. Functions that run in other processes stand at the top
level of their module: processes are spawned, as on Windows, and import what they run.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx
import msgspec

from expirytrack_dagster.sandbox.synthetic import SyntheticMarket
from expirytrack_dagster.settings import RateLimit, Settings, load_settings, parse_rate_limits
from expirytrack_dagster.upstox.client import UpstoxClient
from expirytrack_dagster.upstox.ledger import open_ledger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
    from multiprocessing.process import BaseProcess
    from multiprocessing.synchronize import Barrier
    from pathlib import Path

TRUE_LIMITS = "50/1,500/60,2000/1800"
"""The limits of an Upstox account."""
PROCESSES = 4
TOKEN = "bench"
TODAY, EXPIRY = date(2025, 9, 15), date(2025, 8, 28)
_UNDERLYING = "NSE_INDEX|Nifty 50"
_STRIKES, _DAYS = 2, 1
_START_WITHIN = 60.0  # seconds; the imports take two
_SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True)
class Share:
    """What one client process asks of one contract: requests number `first` to `first + count - 1`, in these limits.

    All other settings are the defaults, so what is measured is what users get; `cache` may be off for comparison.
    """

    key: str
    url: str
    home: Path
    limits: str
    first: int
    count: int
    cache: bool = True

    @property
    def settings(self) -> Settings:
        """The settings of the process."""
        return load_settings(
            home=self.home, api_url=self.url, access_token=TOKEN, rate_limits=self.limits, cache=self.cache
        )


@dataclass(frozen=True, slots=True)
class Seen:
    """What the sandbox saw: requests refused for a full window, good answers, the most arrivals in any window.

    `seconds` lie between the instants at which the first and the last request were counted.
    """

    violations: int
    answered: int
    most: dict[str, int]
    seconds: float

    @property
    def windows(self) -> str:
        """The fullest windows in words."""
        return "most in any window " + ", ".join(f"{most} of {limit}" for limit, most in self.most.items())


def limits_of(text: str) -> tuple[RateLimit, ...]:
    """Return the windows that a setting names, the shortest first."""
    limits: Any = parse_rate_limits(text)
    return tuple(limits)


def soonest(limits: Sequence[RateLimit], requests: int) -> float:
    """Return the least seconds in which strict windows let this many requests pass, the last second counted in full.

    Each request may come when the one that many places before it leaves each window; 2,000 requests at the true limits
    take three full minutes and ten seconds.
    """
    starts: list[float] = []
    for number in range(requests):
        starts.append(
            max((starts[number - lim.requests] + lim.seconds for lim in limits if number >= lim.requests), default=0.0)
        )
    return starts[-1] + min(limit.seconds for limit in limits)


def window(number: int) -> tuple[date, date]:
    """Return the days that request `number` asks for."""
    return EXPIRY - timedelta(days=number), EXPIRY


@cache
def contract() -> str:
    """Return the key of a contract that the sandbox knows."""
    rows = SyntheticMarket(strikes=_STRIKES, days=_DAYS, today=TODAY).option_contracts(_UNDERLYING, EXPIRY) or []
    return str(rows[len(rows) // 2]["instrument_key"])


def candle_path(key: str, number: int) -> str:
    """Return the path of request `number`, for clients other than ours."""
    first, last = window(number)
    return f"/v2/expired-instruments/historical-candle/{quote(key, safe='')}/1minute/{last}/{first}"


@contextmanager
def sandbox(
    limits: str, before: tuple[float, float], after: tuple[float, float], *, strikes: int = _STRIKES, days: int = _DAYS
) -> Iterator[str]:
    """Serve a synthetic market with strict windows in a process of its own, and yield its address.

    Args:
        limits: As in the setting.
        before: Seconds between a request's arrival and its counting, between two bounds.
        after: Seconds between its counting and the answer.
        strikes: How many a cell has on each side of the middle one.
        days: Sessions in which its contracts were traded.
    """
    switches = msgspec.json.encode({"delay_before": before, "delay_after": after}).decode()
    market = ["--strikes", str(strikes), "--days", str(days), "--today", str(TODAY)]
    command = [sys.executable, "-m", "expirytrack_dagster", "sandbox", *market]
    command += ["--rate-limits", limits, "--switches", switches]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        if process.stdout is None:
            raise AssertionError("a pipe was asked for")
        try:
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()


def seen(url: str) -> Seen:
    """Ask the sandbox what it saw."""
    with httpx.Client(base_url=url, trust_env=False, timeout=30) as http:
        stats, log = http.get("/_sandbox/stats").json(), http.get("/_sandbox/requests").json()
    arrived = [entry[0] for entry in log] or [0.0]
    return Seen(
        violations=stats["violations"],
        answered=stats["statuses"].get("200", 0),
        most=stats["max_in_window"],
        seconds=max(arrived) - min(arrived),
    )


def split(url: str, home: Path, limits: str, first: int, count: int) -> list[Share]:
    """Divide requests evenly among the processes."""
    bounds = [first + count * part // PROCESSES for part in range(PROCESSES + 1)]
    return [Share(contract(), url, home, limits, low, high - low) for low, high in pairwise(bounds)]


def start(target: Callable[[Share], None], shares: Sequence[Share]) -> list[BaseProcess]:
    """Start one process a share; all begin at the same moment, imports done, lest they slow each other down."""
    barrier = _SPAWN.Barrier(len(shares) + 1)
    processes: list[BaseProcess] = [
        _SPAWN.Process(target=_begin, args=(barrier, target, share), daemon=True) for share in shares
    ]
    for process in processes:
        process.start()
    barrier.wait(_START_WITHIN)
    return processes


def _begin(barrier: Barrier, target: Callable[[Share], None], share: Share) -> None:
    barrier.wait()
    target(share)


def finish(processes: Sequence[BaseProcess], within: float) -> None:
    """Wait until all processes have ended well; those that have not after so many seconds are killed.

    Raises:
        RuntimeError: one failed, or was not done in time.
    """
    deadline = time.monotonic() + within
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    late = [process for process in processes if process.is_alive()]
    for process in late:
        process.kill()
        process.join()
    if late or any(process.exitcode for process in processes):
        raise RuntimeError(f"client processes ended with {[process.exitcode for process in processes]}")


@contextmanager
def together(count: int) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of processes that all begin their first task at the same moment, imports done."""
    barrier = _SPAWN.Barrier(count)
    with ProcessPoolExecutor(count, mp_context=_SPAWN, initializer=barrier.wait) as pool:
        yield pool


async def in_parallel(numbers: Iterable[int], ask: Callable[[int], Awaitable[object]], workers: int) -> None:
    """Ask for every number, so many at once."""
    waiting = iter(numbers)

    async def work() -> None:
        for number in waiting:
            await ask(number)

    async with asyncio.TaskGroup() as group:
        for _ in range(workers):
            group.create_task(work())


def ask_share(share: Share) -> None:
    """Ask a share with our client; the target of a process."""
    asyncio.run(_ask_share(share))


async def _ask_share(share: Share) -> None:
    settings = share.settings
    async with UpstoxClient(settings, open_ledger(settings)) as client:
        await in_parallel(
            range(share.first, share.first + share.count),
            lambda number: client.get_historical_data(share.key, "1minute", *window(number)),
            settings.workers,
        )
