"""Seconds for judging the chain of a whole cell: 482 contracts, five days, as the checks after a collection do it.

Reading day by day from DuckDB is part of it. Beside it stands the reading alone, which any such check would need.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from expirytrack_dagster.quality.chain import judge_chain
from expirytrack_dagster.sandbox.running import running
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket
from expirytrack_dagster.warehouse import reader
from expirytrack_dagster.warehouse.connection import Warehouse
from expirytrack_dagster_tests.bench.figures import Figure

if TYPE_CHECKING:
    from collections.abc import Iterator

_EXPIRY = date(2025, 8, 21)
_BAR = 3.0
_LIMITS = "5000/1,50000/60,200000/1800"


def run(*, quick: bool) -> Iterator[Figure]:
    """Yield the seconds a million candles, the median of some rounds."""
    with tempfile.TemporaryDirectory() as folder:
        archive = _collected(Path(folder), strikes=40 if quick else 120)
        reading, judging, rows = [], [], 0
        for _ in range(3 if quick else 7):
            began = time.perf_counter()
            rows = sum(map(len, reader.chain_days(archive, "NIFTY", _EXPIRY)))
            read = time.perf_counter()
            report = judge_chain(reader.chain_days(archive, "NIFTY", _EXPIRY), _EXPIRY)
            reading.append(read - began)
            judging.append(time.perf_counter() - read)
    if not all(outcome.passed for outcome in report.outcomes):
        raise AssertionError("the sandbox's market has no arbitrage")
    per_million = statistics.median(judging) / rows * 1e6
    alone = statistics.median(reading) / rows * 1e6
    yield Figure(
        name="chain checks",
        value=per_million,
        unit="s a million candles",
        beside=f"reading them alone {alone:.2f} s",
        ratio=per_million / alone,
        bar=f"<= {_BAR:g} s",
        passed=per_million <= _BAR,
        note=f"{rows:,} candles of one weekly expiry, five days, four checks, {len(judging)} rounds",
    )


def _collected(home: Path, strikes: int) -> Warehouse:
    """Collect one weekly cell with the command line."""
    with running(SyntheticMarket(strikes=strikes, days=5, today=date(2025, 9, 1)), limits=()) as upstox:
        given = {"HOME": str(home), "API_URL": upstox.url, "ACCESS_TOKEN": "bench", "RATE_LIMITS": _LIMITS}
        subprocess.run(
            [sys.executable, "-m", "expirytrack_dagster", "collect", "NIFTY", "--expiry", str(_EXPIRY), "--json"],
            env=os.environ | {f"EXPIRYTRACK_{name}": value for name, value in given.items()},
            check=True,
            capture_output=True,
        )
    return Warehouse(home / "expirytrack.duckdb")
