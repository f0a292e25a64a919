"""Questions to a large archive, as a reader asks them, beside SQLite with a row a candle; and implied volatility.

The archive is one underlying of the sandbox's market, stored as a collection stores it, derived and published; the
reader is `expirytrack_dagster.archive` and its answers are Arrow tables. Beside it, the newest cells in the way that
ExpiryTrack is published: SQLite, a row a candle, the primary key of contract and time, contracts with the guide's
indexes; rows come as tuples. What it reads by its index does not grow with the archive; what reads every row of an
underlying is scaled to the archive's size, and says so. Each question is asked for other contracts, minutes and cells
each time, once before the clock starts.
"""

from __future__ import annotations

import os
import platform
import sqlite3
import statistics
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass, field
from datetime import date
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
from vollib.black.implied_volatility import implied_volatility

from expirytrack_dagster import archive
from expirytrack_dagster.analytics.black76 import implied, price
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket
from expirytrack_dagster.warehouse.connection import Warehouse
from expirytrack_dagster.warehouse.derived import derive, derive_continuous
from expirytrack_dagster.warehouse.published import publish
from expirytrack_dagster_tests.bench.figures import Figure
from expirytrack_dagster_tests.market import SYMBOLS, list_cell, store_bars

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pandas as pd

    from expirytrack_dagster.sandbox.bars import Bars

_CANDLES, _FEW = 50_000_000, 1_500_000
_IN_SQLITE = 1_000_000
_ASKED, _ASKED_OF_PEER = 25, 5
_RATE = 0.065
_NIFTY = "NIFTY"
_PUBLISHED = """
CREATE TABLE contracts (key TEXT PRIMARY KEY, underlying TEXT, expiry TEXT, type TEXT, strike REAL);
CREATE INDEX by_expiry ON contracts (underlying, expiry, type, strike);
CREATE TABLE candles (key TEXT, timestamp TEXT, open REAL, high REAL, low REAL, close REAL, volume INTEGER,
    oi INTEGER, PRIMARY KEY (key, timestamp));
"""
_LIFE = "SELECT * FROM candles WHERE key = ? ORDER BY timestamp"
_CHAIN = """
SELECT strike, type, candles.* FROM contracts JOIN candles USING (key)
WHERE underlying = 'NIFTY' AND expiry = ? AND timestamp = ? ORDER BY strike, type
"""
_STRADDLE = """
SELECT timestamp, strike, price, min(distance) FROM (
    SELECT c.timestamp, a.strike, c.close + p.close AS price, abs(c.close - p.close) AS distance
    FROM contracts AS a JOIN contracts AS b USING (underlying, expiry, strike)
    JOIN candles AS c ON c.key = a.key JOIN candles AS p ON p.key = b.key AND p.timestamp = c.timestamp
    WHERE underlying = 'NIFTY' AND expiry = ? AND a.type = 'CE' AND b.type = 'PE'
) GROUP BY timestamp
"""
_ITS_MINUTES = """
SELECT DISTINCT timestamp FROM contracts JOIN candles USING (key) WHERE expiry = ? AND type = 'CE' LIMIT 50
"""
_DAYS = """
SELECT key, day, max(high), min(low), sum(volume), min(timestamp), max(timestamp)
FROM (SELECT *, substr(timestamp, 1, 10) AS day FROM candles JOIN contracts USING (key) WHERE underlying = 'NIFTY')
GROUP BY key, day
"""

_SOME_KEYS = """
SELECT instrument_key, expiry
FROM contracts JOIN contract_status USING (underlying, expiry, instrument_key)
WHERE candles > 0
QUALIFY row_number() OVER (PARTITION BY expiry ORDER BY hash(instrument_key)) <= 3
"""
_FROM_CANDLES = """
SELECT * FROM candles JOIN contracts USING (instrument_key) WHERE candles.minute = $minute ORDER BY strike_price
"""


@dataclass
class Both:
    """The archive and the peer: where they are, what they hold, and seconds of storing it."""

    home: Path
    candles: int = 0
    ours: float = 0.0
    derived: float = 0.0
    peer_candles: int = 0
    peer: float = 0.0
    cells: list[date] = field(default_factory=list)
    peer_cells: list[date] = field(default_factory=list)

    @property
    def database(self) -> Path:
        """The file of the archive."""
        return self.home / "expirytrack.duckdb"

    @property
    def sqlite(self) -> Path:
        """The file of the peer."""
        return self.home / "peer.sqlite"


def run(*, quick: bool) -> Iterator[Figure]:
    """Yield the medians of the four questions, storing and storage, and the speed of implied volatility."""
    yield from _volatility()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        both = _stored(Path(folder), _FEW if quick else _CANDLES)
        note = f"{both.candles:,} candles, {len(both.cells)} cells; {_machine()}"
        yield from _storing(both, note)
        with closing(sqlite3.connect(both.sqlite)) as peer:
            yield from _questions(both, peer, note)


def _questions(both: Both, peer: sqlite3.Connection, note: str) -> Iterator[Figure]:
    home = both.home
    keys = archive.sql(_SOME_KEYS, home=home).df()
    ours_keys = cycle(list(keys.sample(frac=1, random_state=1).itertuples(index=False)))
    known = [key for (key,) in peer.execute("SELECT DISTINCT key FROM candles").fetchall()]
    peer_keys = cycle(known[:: max(len(known) // 7, 1)])
    days = cycle(both.cells)
    instants = {
        day: archive.straddle(_NIFTY, day, home=home).df()["ts"].sample(_ASKED, random_state=2, replace=True).tolist()
        for day in (both.cells[0], both.cells[-1], both.cells[len(both.cells) // 2])
    }
    moments = cycle([(day, moment) for day, found in instants.items() for moment in found])
    peer_day = both.peer_cells[0]
    peer_moments = cycle([moment for (moment,) in peer.execute(_ITS_MINUTES, [str(peer_day)]).fetchall()])

    def life() -> object:
        key, expiry = next(ours_keys)
        return archive.candles(_NIFTY, expiry, key=key, home=home)

    def chain() -> object:
        day, moment = next(moments)
        return archive.chain_at(_NIFTY, day, moment, home=home)

    def chain_of_candles() -> object:
        day, moment = next(moments)
        return archive.sql(
            _FROM_CANDLES, {"minute": int(moment.timestamp()) // 60}, underlying=_NIFTY, expiry=day, home=home
        )

    yield _figure("a contract's life", 5, life, lambda: peer.execute(_LIFE, [next(peer_keys)]).fetchall(), note)
    unclustered = statistics.median(_seconds(chain_of_candles, _ASKED))
    yield _figure(
        "a chain at a minute",
        10,
        chain,
        lambda: peer.execute(_CHAIN, [str(peer_day), next(peer_moments)]).fetchall(),
        f"from the candles, which lie by contract: {unclustered * 1e3:.1f} ms; {note}",
    )
    yield _figure(
        "straddle at the money, by minute",
        100,
        lambda: archive.straddle(_NIFTY, next(days), home=home),
        lambda: peer.execute(_STRADDLE, [str(peer_day)]).fetchall(),
        note,
    )
    scale = both.candles / both.peer_candles
    yield _figure(
        "daily bars of an underlying",
        100,
        lambda: archive.daily_bars(_NIFTY, home=home),
        lambda: peer.execute(_DAYS).fetchall(),
        note,
        scale=scale,
    )


def _figure(
    name: str,
    bar: float,
    ours: Callable[[], object],
    peer: Callable[[], object],
    note: str,
    *,
    scale: float = 1.0,
) -> Figure:
    mine, cpu = _seconds(ours, _ASKED), _processor(ours, _ASKED)
    other = statistics.median(_seconds(peer, _ASKED_OF_PEER)) * scale * 1e3
    median = statistics.median(mine) * 1e3
    scaled = f" (scaled by {scale:.0f})" if scale != 1 else ""
    return Figure(
        name=f"archive, {name}",
        value=median,
        unit="ms",
        beside=f"SQLite, a row a candle: {other:,.1f} ms{scaled}",
        ratio=other / median,
        bar=f"<= {bar:g} ms",
        passed=median <= bar,
        note=f"median of {_ASKED}, least {min(mine) * 1e3:.1f} ms, processor {cpu * 1e3:.1f} ms; {note}",
    )


def _seconds(ask: Callable[[], object], times: int) -> list[float]:
    ask()
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        ask()
        seconds.append(time.perf_counter() - began)
    return seconds


def _processor(ask: Callable[[], object], times: int) -> float:
    """Return the processor time of one question: what remains of it when other programs keep the machine busy."""
    began = time.process_time()
    for _ in range(times):
        ask()
    return (time.process_time() - began) / times


def _storing(both: Both, note: str) -> Iterator[Figure]:
    rate, other = both.candles / both.ours / 1e6, both.peer_candles / both.peer / 1e6
    yield Figure(
        name="archive, storing candles",
        value=rate,
        unit="M rows/s",
        beside=f"SQLite, a row a candle: {other:.2f} M rows/s",
        ratio=rate / other,
        note=f"then derived and published at {both.candles / both.derived / 1e6:.2f} M rows/s; {note}",
    )
    published = sum(path.stat().st_size for path in (both.home / "published").rglob("*.parquet"))
    copied = sum(path.stat().st_size for path in (both.home / "published" / "candles").rglob("*.parquet"))
    peer = both.sqlite.stat().st_size / both.peer_candles
    own = both.database.stat().st_size
    size = (own + published) / both.candles
    yield Figure(
        name="archive, bytes a candle with all that is derived and published",
        value=size,
        unit="bytes",
        beside=f"SQLite, candles alone: {peer:.1f}",
        ratio=peer / size,
        note=f"no volatilities; the DuckDB file {own / both.candles:.1f}, published {published / both.candles:.1f}, "
        f"of which candles {copied / both.candles:.1f}; {note}",
    )


def _stored(home: Path, candles: int) -> Both:
    both = Both(home)
    market = SyntheticMarket(strikes=50, days=10, today=date(2026, 12, 1))
    warehouse = Warehouse(both.database)
    days = iter(reversed(market.expiries(SYMBOLS[_NIFTY]) or []))
    while both.candles < candles:
        day = next(days)
        contracts, found = list_cell(warehouse, market, _NIFTY, day)
        began = time.perf_counter()
        both.candles += store_bars(warehouse, _NIFTY, day, found, home)
        stored = time.perf_counter()
        both.ours += stored - began
        for table in ("daily_bars", "option_chain", "chain_metrics"):
            derive(warehouse, table, _NIFTY, day, _RATE)
        publish(warehouse, _NIFTY, day)
        both.derived += time.perf_counter() - stored
        both.cells.append(day)
        if both.peer_candles < _IN_SQLITE:
            began = time.perf_counter()
            both.peer_candles += _store_in_sqlite(both.sqlite, contracts, day, found)
            both.peer += time.perf_counter() - began
            both.peer_cells.append(day)
    derive_continuous(warehouse, _NIFTY)
    publish(warehouse)
    return both


def _store_in_sqlite(path: Path, contracts: pd.DataFrame, day: date, found: dict[str, Bars]) -> int:
    """Store a cell, a transaction a contract, the timestamps as text in Indian time."""
    rows = 0
    with closing(sqlite3.connect(path)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
            connection.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;" + _PUBLISHED)
        listed = contracts[["instrument_key", "instrument_type", "strike_price"]].itertuples(index=False)
        lines: list[Any] = [(key, _NIFTY, str(day), kind, strike) for key, kind, strike in listed]
        with connection:
            connection.executemany("INSERT INTO contracts VALUES (?, ?, ?, ?, ?)", lines)
        for key, bars in found.items():
            local = (bars.time + 19_800).astype("datetime64[s]")
            stamps = [f"{stamp}+05:30" for stamp in np.datetime_as_string(local)]
            columns = (bars.open, bars.high, bars.low, bars.close, bars.volume, bars.open_interest)
            with connection:
                connection.executemany(
                    "INSERT OR REPLACE INTO candles VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    zip([key] * len(stamps), stamps, *(column.tolist() for column in columns), strict=True),
                )
            rows += len(stamps)
    return rows


def _volatility() -> Iterator[Figure]:
    """Yield seconds for a million volatilities with their greeks, a chain's mix of wings and times."""
    random = np.random.default_rng(0)
    size = 1_000_000
    forward = np.full(size, 24_500.0)
    strike = np.round(random.uniform(20_000, 29_000, size) / 50) * 50
    years = random.uniform(1 / 525_600, 0.2, size)
    call = random.random(size) < 0.5
    paid = price(forward, strike, years, _RATE, random.uniform(0.05, 0.8, size), call)
    seconds = _seconds(lambda: implied(paid, forward, strike, years, _RATE, call), 5)
    few = np.flatnonzero((strike > forward) == call)[:2000]
    began = time.perf_counter()
    reference = [
        implied_volatility(paid[i], forward[i], strike[i], _RATE, years[i], "c" if call[i] else "p") for i in few
    ]
    published = (time.perf_counter() - began) / len(few) * size
    found = implied(paid[few], forward[few], strike[few], years[few], _RATE, call[few])
    furthest = float(np.nanmax(np.abs(found.volatility - reference)))
    median = statistics.median(seconds)
    yield Figure(
        name="archive, implied volatility and greeks of 1,000,000 options",
        value=median,
        unit="s",
        beside=f"vollib, a row a call and without greeks: {published:.0f} s (scaled from {len(few):,})",
        ratio=published / median,
        bar="<= 5 s",
        passed=median <= 5,
        note=f"median of {len(seconds)}; furthest from vollib {furthest:.1e}; {_machine()}",
    )


def _machine() -> str:
    versions = f"Python {platform.python_version()}, DuckDB {duckdb.__version__}, SQLite {sqlite3.sqlite_version}"
    busy = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{os.cpu_count()} cores {platform.machine()}, {versions}{busy}"
