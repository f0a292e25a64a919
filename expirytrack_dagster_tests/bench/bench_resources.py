"""What a small machine carries: a cell collected and derived on one core, on two, and in an address space of 4 GB.

The cell has the shape of a recorded one, 97 strikes, and 20 days of minutes. `expirytrack collect` and
`expirytrack derive` run in processes of their own, held to their cores and their memory from outside; the sandbox that
answers them is not held, and answers without limits. Seconds of the processor stand beside the seconds that the same
cell takes at the API's 2,000 requests in 30 minutes: the larger of the two bounds a collection. The limit of memory is
one of addresses (RLIMIT_AS), which is stricter than one of resident memory.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from expirytrack_dagster.settings import load_settings
from expirytrack_dagster.warehouse.connection import Warehouse
from expirytrack_dagster_tests.bench.bench_memory import serving
from expirytrack_dagster_tests.bench.figures import Figure
from expirytrack_dagster_tests.bench.load import EXPIRY, TODAY, TRUE_LIMITS, limits_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_STRIKES, _DAYS = 48, 20  # 48 on each side of the money: the 97 strikes of NIFTY 2025-08-28
_FEW_STRIKES, _FEW_DAYS = 8, 4
_MEMORY = 4_000_000_000
_PEAK = 2_000  # half of the guide's smallest machine
_MB = 2**20


@dataclass(frozen=True, slots=True)
class Ran:
    """Seconds on the clock and of the processor, and the largest resident size in MB, of one command."""

    seconds: float
    processor: float
    peak: float


@dataclass(frozen=True, slots=True)
class Carried:
    """A cell on so many cores: the two commands, what was asked and kept, and bytes by where they lie."""

    collected: Ran
    derived: Ran
    requests: int
    received: int
    candles: int
    kept: dict[str, int]


def run(*, quick: bool) -> Iterator[Figure]:
    """Yield how fast and in how much memory a cell goes through, how large it is, and what the API would allow."""
    if not hasattr(psutil.Process, "rlimit"):
        return  # only Linux can hold a running process to its memory
    strikes, days = (_FEW_STRIKES, _FEW_DAYS) if quick else (_STRIKES, _DAYS)
    longest = limits_of(TRUE_LIMITS)[-1]
    allowed = longest.requests / longest.seconds
    for cores in range(1, min(2, psutil.cpu_count() or 1) + 1):
        carried = _carried(strikes, days, cores)
        where = f"{cores} core{'s' if cores > 1 else ''}"
        asking = carried.requests / allowed
        cell = f"{carried.requests} requests, {carried.candles:,} candles, in 4 GB of addresses"
        for what, ran in (("collecting", carried.collected), ("deriving", carried.derived)):
            yield Figure(
                name=f"resources, {what} a cell on {where}",
                value=ran.processor,
                unit="s of processor",
                beside=f"its requests at the API's limit: {asking:.0f} s",
                ratio=asking / ran.processor,
                bar=">= 1",
                passed=ran.processor <= asking,
                note=f"{ran.seconds:.1f} s on the clock, load {os.getloadavg()[0]:.1f}; {cell}",
            )
            yield Figure(
                name=f"resources, peak memory of {what} on {where}",
                value=ran.peak,
                unit="MB",
                bar=f"<= {_PEAK:,} MB",
                passed=ran.peak <= _PEAK,
                note=cell,
            )
    yield from _sizes(carried)


def _sizes(carried: Carried) -> Iterator[Figure]:
    where = ", ".join(f"{name} {size / carried.candles:.1f}" for name, size in sorted(carried.kept.items()))
    yield Figure(
        name="resources, bytes on disk a candle",
        value=sum(carried.kept.values()) / carried.candles,
        unit="bytes",
        beside=f"received: {carried.received / carried.candles:.1f}",
        ratio=carried.received / sum(carried.kept.values()),
        note=f"the whole home of one cell with all that is derived and published: {where}",
    )
    yield Figure(name="resources, candles a request", value=carried.candles / carried.requests, unit="candles")
    yield Figure(name="resources, requests a cell", value=carried.requests, unit="requests")
    yield Figure(
        name="resources, bytes a request",
        value=carried.received / carried.requests,
        unit="bytes",
        note="JSON as the client reads it, before any compression on the way",
    )


def _carried(strikes: int, days: int, cores: int) -> Carried:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, serving(strikes, days, TODAY) as url:
        home = Path(folder)
        collected = _ran(url, home, ("collect", "NIFTY", "--expiry", str(EXPIRY)), cores)
        derived = _ran(url, home, ("derive", "NIFTY", "--expiry", str(EXPIRY)), cores)
        settings = load_settings(home=home)
        with Warehouse(settings.database).reading() as connection:
            (candles,) = connection.execute("SELECT count(*) FROM candles").fetchone() or (0,)
        with closing(sqlite3.connect(settings.state_address.path)) as state:
            requests, received = state.execute("SELECT count(*), sum(bytes) FROM requests").fetchone()
        kept: dict[str, int] = {}
        for path in home.rglob("*"):
            if path.is_file():
                name = path.relative_to(home).parts[0]
                kept[name] = kept.get(name, 0) + path.stat().st_size
    return Carried(collected, derived, requests, received, candles, {name: size for name, size in kept.items() if size})


def _ran(url: str, home: Path, what: Sequence[str], cores: int) -> Ran:
    given = {"HOME": str(home), "API_URL": url, "ACCESS_TOKEN": "bench", "RATE_LIMITS": "1000000/1"}
    environment = os.environ | {f"EXPIRYTRACK_{name}": value for name, value in given.items()}
    began, peak, processor = time.monotonic(), 0.0, 0.0
    complaint = home / "complaint.txt"
    with complaint.open("w") as stream:
        command = [sys.executable, "-m", "expirytrack_dagster", *what]
        process = psutil.Popen(command, env=environment, stdout=stream, stderr=stream)
        process.cpu_affinity(list(range(cores)))
        process.rlimit(psutil.RLIMIT_AS, (_MEMORY, _MEMORY))
        while process.poll() is None:
            try:
                peak = max(peak, process.memory_info().rss / _MB)
                times = process.cpu_times()
                processor = times.user + times.system
            except psutil.NoSuchProcess:
                break
            time.sleep(0.01)
    if process.wait():
        raise RuntimeError(complaint.read_text())
    complaint.unlink()
    return Ran(time.monotonic() - began, processor, peak)
