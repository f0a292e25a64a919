"""From bytes to the archive: decode, validate, stage and load, beside a floor and beside ExpiryTrack's published way.

Ours is a cell as it is collected, but for the network: `collect_cell` with a source that decodes bodies made in
advance, then the one transaction. The floor is `orjson.loads` of the same bodies, which makes no columns and checks
nothing, and one DuckDB insert of the same rows from Arrow. The published way is one row a candle into SQLite with a
primary key of contract and time, `INSERT OR REPLACE`, a transaction a contract. All in turn, in one process on one
core. Bytes a candle are those of the database files; for ours also those of cells of the sandbox's default market,
written one after the other.
"""

from __future__ import annotations

import asyncio
import sqlite3
import statistics
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import orjson
import pandas as pd
import psutil
import pyarrow as pa

from expirytrack_dagster.collect.cell import CellRequest, collect_cell
from expirytrack_dagster.collect.staging import CellStaging
from expirytrack_dagster.collect.states import status_frame
from expirytrack_dagster.collect.windows import Windows
from expirytrack_dagster.sandbox import wire
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket
from expirytrack_dagster.settings import load_settings
from expirytrack_dagster.state import StateDatabase
from expirytrack_dagster.upstox.client import Candles
from expirytrack_dagster.upstox.decode import decode_candles
from expirytrack_dagster.warehouse import cells
from expirytrack_dagster.warehouse.connection import Warehouse
from expirytrack_dagster_tests.bench.bodies import bodies
from expirytrack_dagster_tests.bench.figures import Figure
from expirytrack_dagster_tests.bench.load import EXPIRY, TODAY, together

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import date

    from expirytrack_dagster.upstox.client import Interval

_BAR = 0.8
_BYTES = 18.0
_UNDERLYING = "NSE_INDEX|Nifty 50"
_TABLE = "ts TIMESTAMPTZ, open DOUBLE, high DOUBLE, low DOUBLE, close DOUBLE, volume BIGINT, open_interest BIGINT"
_PUBLISHED = (
    "CREATE TABLE candles (key TEXT, timestamp TEXT, open REAL, high REAL, low REAL, close REAL, volume INTEGER,"
    " oi INTEGER, PRIMARY KEY (key, timestamp))"
)


@dataclass(frozen=True, slots=True)
class Round:
    """Rows, seconds of each part, and bytes a candle of the two databases."""

    rows: int
    collected: float
    loaded: float
    parsed: float
    inserted: float
    published: float
    ours_bytes: float
    published_bytes: float

    @property
    def ours(self) -> float:
        """Seconds from bytes to the archive."""
        return self.collected + self.loaded

    @property
    def floor(self) -> float:
        """Seconds of the floor."""
        return self.parsed + self.inserted


@dataclass(frozen=True, slots=True)
class _Kept:
    """Answers that need no network; a few contracts are asked for daily candles, and have none."""

    answers: Mapping[str, bytes]

    async def get_historical_data(
        self, expired_key: str, interval: Interval, from_date: date, to_date: date
    ) -> Candles:
        del from_date, to_date
        body = wire.NO_CANDLES if interval == "day" else self.answers[expired_key]
        return Candles(decode_candles(body), len(body), 1)


class _Silent:
    """Nobody looks on."""

    def begin(self, label: str, total: int) -> None: ...

    def advance(self, answer: object) -> None: ...

    def end(self) -> None: ...


def run(*, quick: bool) -> Iterator[Figure]:
    """Yield throughput against the floor and the published way, and bytes a candle."""
    with together(1) as pool:
        rounds = pool.submit(measure, 3 if quick else 7, 1 if quick else 4).result()
        stored, candles, cells_ = pool.submit(default_market, 2 if quick else 10).result()
    best = [statistics.median(getattr(each, part) for each in rounds) for part in ("ours", "floor", "published")]
    ours, floor, published = best
    rows = rounds[0].rows
    ratio = statistics.median(each.floor / each.ours for each in rounds)
    parts = ", ".join(
        f"{what} {statistics.median(getattr(each, part) for each in rounds):.2f} s"
        for what, part in (
            ("collect", "collected"),
            ("load", "loaded"),
            ("orjson.loads", "parsed"),
            ("insert", "inserted"),
        )
    )
    yield Figure(
        name="throughput, bytes to archive",
        value=rows / ours / 1e6,
        unit="M rows/s",
        beside=f"floor {rows / floor / 1e6:.2f} M rows/s",
        ratio=ratio,
        bar=f"ratio >= {_BAR}",
        passed=ratio >= _BAR,
        note=f"{rows:,} candles, one core, median of {len(rounds)}: {parts}",
    )
    yield Figure(
        name="throughput, beside the published way",
        value=rows / ours / 1e6,
        unit="M rows/s",
        beside=f"a row a candle into SQLite {rows / published / 1e6:.2f} M rows/s",
        ratio=statistics.median(each.published / each.ours for each in rounds),
    )
    yield Figure(
        name="throughput, bytes a candle",
        value=stored,
        unit="bytes",
        beside=f"SQLite {rounds[0].published_bytes:.1f}",
        ratio=rounds[0].published_bytes / stored,
        bar=f"<= {_BYTES:g}",
        passed=stored <= _BYTES,
        note=f"{cells_} cells of the default market, {candles:,} candles, one transaction each;"
        f" {rounds[0].ours_bytes:.1f} in one cell of {rows:,}",
    )


def measure(rounds: int, times: int) -> list[Round]:
    """Measure all ways in turn, on one core where the system can be told; in a process of its own."""
    process = psutil.Process()
    if hasattr(process, "cpu_affinity"):
        process.cpu_affinity(process.cpu_affinity()[-1:])
    made = bodies()
    answers = {_renamed(key, number): body for number in range(times) for key, body in made}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        return [_round(answers, Path(folder) / str(number)) for number in range(rounds)]


def default_market(number: int) -> tuple[float, int, int]:
    """Write the newest cells of the market that `expirytrack sandbox` serves; return bytes a candle, candles, cells."""
    market = SyntheticMarket(strikes=100, today=TODAY)
    expiries = (market.expiries(_UNDERLYING) or [])[-number:]
    rows = 0
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        for expiry in expiries:
            listed = (market.option_contracts(_UNDERLYING, expiry) or []) + (
                market.future_contracts(_UNDERLYING, expiry) or []
            )
            bars = {str(row["instrument_key"]): market.minutes(str(row["instrument_key"])) for row in listed}
            rows += _collect({key: wire.candles(kept) for key, kept in bars.items() if kept}, expiry, home)[0]
        return (home / "archive.duckdb").stat().st_size / rows, rows, len(expiries)


def _round(answers: Mapping[str, bytes], home: Path) -> Round:
    home.mkdir()
    rows, collected, loaded = _collect(answers, EXPIRY, home)
    began = time.perf_counter()
    for body in answers.values():
        orjson.loads(body)
    parsed = time.perf_counter() - began
    return Round(
        rows=rows,
        collected=collected,
        loaded=loaded,
        parsed=parsed,
        inserted=_insert(answers, home),
        published=_publish(answers, home),
        ours_bytes=(home / "archive.duckdb").stat().st_size / rows,
        published_bytes=(home / "published.sqlite").stat().st_size / rows,
    )


def _collect(answers: Mapping[str, bytes], expiry: date, home: Path) -> tuple[int, float, float]:
    """Collect and load a cell; return its candles and the seconds of both."""
    contracts = pd.DataFrame({"instrument_key": list(answers), "instrument_type": "CE"})
    contracts["strike_price"] = contracts.index.astype("float64")
    archive, staging = Warehouse(home / "archive.duckdb"), CellStaging(home / "staging")
    with archive.writing(), StateDatabase(home / "state.sqlite") as state:  # both exist before the clock starts
        request = CellRequest(
            label="bench",
            contracts=contracts,
            expiry=expiry,
            sealed=(),
            traded=(),
            partial=(),
            odd=(),
            oldest=None,
            proof_share=0.0,
            minutes=Windows(state, 1830),
            days=Windows(state, 1830, "day"),
            workers=10,
            batch_rows=load_settings().batch_rows,
        )
    began = time.perf_counter()
    batches = asyncio.run(collect_cell(_Kept(answers), request, staging, _Silent()))
    collected = time.perf_counter()
    statuses = status_frame([status for batch in batches for status in batch.statuses])
    files = [batch.path for batch in batches]
    written = cells.write_candles(archive, "NIFTY", expiry, files, statuses, run_id="bench")
    loaded = time.perf_counter()
    staging.clear()
    return written.candles, collected - began, loaded - collected


def _insert(answers: Mapping[str, bytes], home: Path) -> float:
    """Return the seconds of one DuckDB insert of the same rows, made into Arrow before."""
    rows = pa.concat_tables(  # noqa: F841 -- DuckDB finds it by its name
        [
            (table := decode_candles(body)).append_column("instrument_key", pa.array([key] * table.num_rows))
            for key, body in answers.items()
        ]
    )
    began = time.perf_counter()
    with closing(duckdb.connect(home / "floor.duckdb", config={"threads": 1})) as connection:
        connection.execute(f"CREATE TABLE candles ({_TABLE}, instrument_key TEXT)")
        connection.execute("INSERT INTO candles SELECT * FROM rows")
    return time.perf_counter() - began


def _publish(answers: Mapping[str, bytes], home: Path) -> float:
    """Return the seconds of the published way."""
    began = time.perf_counter()
    with closing(sqlite3.connect(home / "published.sqlite")) as connection:
        connection.execute(_PUBLISHED)
        for key, body in answers.items():
            candles = orjson.loads(body)["data"]["candles"]
            connection.executemany(
                "INSERT OR REPLACE INTO candles VALUES (?, ?, ?, ?, ?, ?, ?, ?)", ((key, *row) for row in candles)
            )
            connection.commit()
    return time.perf_counter() - began


def _renamed(key: str, number: int) -> str:
    segment, token, expiry = key.split("|")
    return f"{segment}|{int(token) + 1000 * number}|{expiry}"
