"""The memory of the collecting process: flat as cells grow, and flat as one process collects many.

`expirytrack collect` runs in a process of its own against a sandbox in another, without limits on either side; its
resident size is looked at every hundredth of a second from outside.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from expirytrack_dagster.sandbox.sessions import LAST_DAY
from expirytrack_dagster.settings import load_settings
from expirytrack_dagster.warehouse.connection import Warehouse
from expirytrack_dagster_tests.bench.figures import Figure
from expirytrack_dagster_tests.bench.load import EXPIRY, TODAY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import date

_GROWTH, _MEGABYTES = 1.25, 700
_NOISE = 1.1
_MB = 2**20
_MANY = ("NIFTY", "SENSEX")  # until the end of the calendar they have more than 300 expiries


@dataclass(slots=True)
class Watched:
    """Resident size of a process in MB: the largest, and that after so many cells."""

    peak: float = 0.0
    candles: int = 0
    seconds: float = 0.0
    after: dict[int, float] = field(default_factory=dict)


def run(*, quick: bool) -> Iterator[Figure]:
    """Yield the peak of a large cell beside a tenth of it, and the growth over many small cells."""
    # 20 days of 1-minute bars; strikes on each side make about 500,000 and 5,000,000 candles.
    small, large = (_one_cell(strikes) for strikes in ((4, 40) if quick else (20, 225)))
    yield Figure(
        name="memory of a large cell",
        value=large.peak,
        unit="MB",
        beside=f"{small.peak:.0f} MB for {small.candles:,} candles",
        ratio=large.peak / small.peak,
        bar=f"ratio <= {_GROWTH} and <= {_MEGABYTES} MB",
        passed=large.peak <= min(_GROWTH * small.peak, _MEGABYTES),
        note=f"{large.candles:,} candles, collected in {large.seconds:.0f} s",
    )
    first, last = (10, 30) if quick else (50, 200)
    many = _many_cells((first, last))
    before, after = many.after[first], many.after[last]
    yield Figure(
        name="memory after many cells",
        value=after,
        unit="MB",
        beside=f"{before:.0f} MB after {first} cells",
        ratio=after / before,
        bar=f"ratio <= {_NOISE}",
        passed=after <= _NOISE * before,
        note=f"after {last} cells in {many.seconds:.0f} s, peak {many.peak:.0f} MB",
    )


def _one_cell(strikes: int) -> Watched:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, serving(strikes, 20, TODAY) as url:
        home = Path(folder)
        watched = _watch(url, home, ("NIFTY", "--expiry", str(EXPIRY)), ())
        with Warehouse(load_settings(home=home).database).reading() as connection:
            (watched.candles,) = connection.execute("SELECT count(*) FROM candles").fetchone() or (0,)
    return watched


def _many_cells(marks: tuple[int, ...]) -> Watched:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, serving(1, 1, LAST_DAY) as url:
        return _watch(url, Path(folder), _MANY, marks)


def _watch(url: str, home: Path, what: tuple[str, ...], marks: tuple[int, ...]) -> Watched:
    """Collect, and look on; after the last mark the process is ended."""
    given = {"HOME": str(home), "API_URL": url, "ACCESS_TOKEN": "bench", "RATE_LIMITS": "1000000/1"}
    environment = os.environ | {f"EXPIRYTRACK_{name}": value for name, value in given.items()}
    command = [sys.executable, "-m", "expirytrack_dagster", "collect", *what]
    watched, began = Watched(), time.monotonic()
    with (home / "complaint.txt").open("w+") as complaint:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=complaint)
        known = psutil.Process(process.pid)
        counted = 0.0
        while process.poll() is None and not (marks and len(watched.after) == len(marks)):
            size = _resident(known)
            watched.peak = max(watched.peak, size)
            if marks and time.monotonic() - counted > 1:
                counted = time.monotonic()
                done = len(list((home / "reports").rglob("*.json")))
                watched.after |= {mark: size for mark in marks if mark <= done and mark not in watched.after}
            time.sleep(0.01)
        if marks:
            process.kill()
        if process.wait() and not marks:
            complaint.seek(0)
            raise RuntimeError(complaint.read())
    watched.seconds = time.monotonic() - began
    return watched


def _resident(process: psutil.Process) -> float:
    try:
        return float(process.memory_info().rss) / _MB
    except psutil.NoSuchProcess:
        return 0.0


@contextmanager
def serving(strikes: int, days: int, today: date) -> Iterator[str]:
    """Serve a synthetic market without limits in a process of its own; give its address."""
    command = [sys.executable, "-m", "expirytrack_dagster", "sandbox", "--rate-limits", "off"]
    command += ["--strikes", str(strikes), "--days", str(days), "--today", str(today)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        if process.stdout is None:
            raise AssertionError("a pipe was asked for")
        try:
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()
