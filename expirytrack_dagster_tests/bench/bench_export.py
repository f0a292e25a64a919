"""Exports beside DuckDB's bare COPY: rows a second, and the memory of the exporting process.

Ours is `export()` as a whole: the contracts' names, the file, its SHA-256, the manifest, the audit log. Bare is one
`COPY (SELECT ... FROM candles)` of the same rows with the columns of the table, by DuckDB's default threads, in the
same process and in turn. The peak is that of a process that does nothing but export: one cell, five cells, and a cell
that is as large as five.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pandas as pd
import psutil

from expirytrack_dagster.export.exporting import export
from expirytrack_dagster.settings import load_settings
from expirytrack_dagster.warehouse import cells
from expirytrack_dagster.warehouse.connection import Warehouse
from expirytrack_dagster_tests.bench.figures import Figure
from expirytrack_dagster_tests.bench.load import EXPIRY, together

if TYPE_CHECKING:
    from collections.abc import Iterator

_BARS = {"parquet": (1e6, 0.8), "csv": (3e5, 0.6)}
"""Rows a second, and the share of the bare COPY's, that are promised."""
_MEGABYTES = 400
_DAYS, _MINUTES = 20, 375
_BARE = "SELECT underlying, expiry, instrument_key, ts, open, high, low, close, volume, open_interest FROM candles"
_OPTIONS = {"parquet": "FORMAT parquet, COMPRESSION zstd", "csv": "FORMAT csv, HEADER"}

# Contract by contract and minute by minute, prices on a grid of 0.05 that wander within a day.
_MADE = """
COPY (
    SELECT
        key AS instrument_key,
        to_timestamp(minute * 60) AS ts,
        price AS open,
        price + 0.15 AS high,
        price - 0.1 AS low,
        price + 0.05 AS close,
        75 * (hash(number, minute) % 200)::BIGINT AS volume,
        75 * (100000 + (hash(minute, number) % 2000)::BIGINT) AS open_interest,
        NULL::TEXT AS rule,
        NULL::TEXT AS detail
    FROM (
        SELECT key, number, ($first + day) * 1440 + 225 + minute AS minute,
            round(20 + number % 97 + 5 * sin((day * 375 + minute) / 50.0), 1)::DOUBLE AS price
        FROM (SELECT unnest($keys) AS key, generate_subscripts($keys, 1) AS number)
        CROSS JOIN range($days) AS days (day)
        CROSS JOIN range($minutes) AS minutes (minute)
        ORDER BY number, day, minute
    )
) TO '{path}' (FORMAT parquet)
"""


@dataclass(frozen=True, slots=True)
class Rounds:
    """Rows, and seconds of each round: ours and bare."""

    rows: int
    ours: list[float]
    bare: list[float]

    @property
    def ratio(self) -> float:
        """The median share of the bare COPY's throughput."""
        return statistics.median(bare / ours for ours, bare in zip(self.ours, self.bare, strict=True))


def run(*, quick: bool) -> Iterator[Figure]:
    """Yield throughput of both formats and the peaks of memory."""
    contracts, larger = (40, 5) if quick else (133, 5)  # 7,500 rows each
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        small, many, large = (Path(folder) / name for name in ("small", "many", "large"))
        with together(1) as pool:
            pool.submit(fill, small, contracts, 1).result()
            pool.submit(fill, many, contracts, larger).result()
            pool.submit(fill, large, contracts * larger, 1).result()
            rounds = {name: pool.submit(measure, many, name, 3 if quick else 5).result() for name in _BARS}
        for name, (rate, share) in _BARS.items():
            found = rounds[name]
            speed = found.rows / statistics.median(found.ours)
            yield Figure(
                name=f"export, {name}",
                value=speed / 1e6,
                unit="M rows/s",
                beside=f"bare COPY {found.rows / statistics.median(found.bare) / 1e6:.2f} M rows/s",
                ratio=found.ratio,
                bar=f">= {rate / 1e6:g} M rows/s and ratio >= {share}",
                passed=speed >= rate and found.ratio >= share,
                note=f"{found.rows:,} rows, median of {len(found.ours)}",
            )
            peaks = {}
            for home in (small, many, large):
                with together(1) as pool:
                    peaks[home.name] = pool.submit(peak, home, name).result()
            yield Figure(
                name=f"export, memory of {name}",
                value=max(peaks.values()),
                unit="MB",
                beside=f"{peaks['small']:.0f} MB for {found.rows // larger:,} rows",
                ratio=max(peaks.values()) / peaks["small"],
                bar=f"<= {_MEGABYTES} MB",
                passed=max(peaks.values()) <= _MEGABYTES,
                note=f"{found.rows:,} rows in {larger} cells {peaks['many']:.0f} MB, in one {peaks['large']:.0f} MB",
            )


def fill(home: Path, contracts: int, expiries: int) -> None:
    """Make an archive with cells of so many contracts, each with 7,500 candles."""
    home.mkdir()
    warehouse = Warehouse(home / "expirytrack.duckdb")
    dates = [EXPIRY + timedelta(weeks=number) for number in range(expiries)]
    cells.write_expiries(warehouse, "NIFTY", pd.DataFrame({"expiry": dates, "underlying_key": "NSE_INDEX|Nifty 50"}))
    for expiry in dates:
        keys = [f"NSE_FO|{100_000 + number}|{expiry:%d-%m-%Y}" for number in range(contracts)]
        listed = pd.DataFrame(
            {
                "instrument_key": keys,
                "instrument_type": [("CE", "PE")[number % 2] for number in range(contracts)],
                "strike_price": [20_000.0 + 50 * (number // 2) for number in range(contracts)],
                "underlying_key": "NSE_INDEX|Nifty 50",
                "segment": "NSE_FO",
            }
        )
        cells.write_contracts(warehouse, "NIFTY", expiry, listed)
        staged = home / "staged.parquet"
        first = (expiry - date(1970, 1, 1)).days - _DAYS + 1
        with duckdb.connect() as connection:
            connection.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
            made = {"keys": keys, "first": first, "days": _DAYS, "minutes": _MINUTES}
            connection.execute(_MADE.format(path=staged), made)
        moments = [pd.Timestamp(first + day, unit="D", tz="UTC") for day in (0, _DAYS - 1)]
        rows = _DAYS * _MINUTES
        states = pd.DataFrame(
            {"instrument_key": keys, "status": "complete", "requests": 1, "received": rows, "candles": rows}
        )
        states = states.assign(
            quarantined=0, duplicates=0, first_ts=moments[0], last_ts=moments[1], checked_at=moments[1]
        )
        cells.write_candles(warehouse, "NIFTY", expiry, [staged], states.assign(error_code=None, message=None), "bench")
        staged.unlink()


def measure(home: Path, name: str, rounds: int) -> Rounds:
    """Export and copy in turn, and return the seconds of each."""
    settings, warehouse = load_settings(home=home), Warehouse(home / "expirytrack.duckdb")
    found = Rounds(0, [], [])
    for _ in range(rounds):
        began = time.perf_counter()
        made = export(settings, warehouse, home / "out", [name], overwrite=True)
        found.ours.append(time.perf_counter() - began)
        with warehouse.reading() as connection:
            began = time.perf_counter()
            connection.execute(f"COPY ({_BARE}) TO '{home / 'bare'}' ({_OPTIONS[name]})")
            found.bare.append(time.perf_counter() - began)
    return Rounds(made.bars, found.ours, found.bare)


def peak(home: Path, name: str) -> float:
    """Export once, in a process of its own, and return the largest resident size that it ever had, in MB."""
    export(load_settings(home=home), Warehouse(home / "expirytrack.duckdb"), home / name, [name])
    peaked = getattr(psutil.Process().memory_info(), "peak_wset", None)
    if peaked is not None:  # Windows
        return float(peaked) / 2**20
    import resource  # noqa: PLC0415 - not on Windows

    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(kilobytes) / (2**20 if psutil.MACOS else 2**10)
