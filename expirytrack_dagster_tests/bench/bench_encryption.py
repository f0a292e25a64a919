"""What encryption costs: loading a cell, asking the archive, opening it, and unlocking the vault.

The same rows are staged and loaded into a plain and an encrypted archive, in turn, in one process; then both are asked
the same questions, in turn, each time over a connection of its own, as the program does. What opening costs is told
apart, because it is the same for every question. PBKDF2 stands beside the standard library's with as many rounds.
"""

from __future__ import annotations

import hashlib
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from expirytrack_dagster.collect.staging import CellStaging
from expirytrack_dagster.collect.states import ContractStatus, State, status_frame
from expirytrack_dagster.security import vault
from expirytrack_dagster.settings import load_settings
from expirytrack_dagster.warehouse import cells
from expirytrack_dagster.warehouse.connection import Warehouse
from expirytrack_dagster_tests.bench.figures import Figure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_BAR = 1.5
_KEY = bytes(range(32))
_BARS = 7_500
_FIRST = datetime(2025, 7, 1, 3, 45, tzinfo=UTC)
_EXPIRY = date(2025, 8, 28)
_ONE_KEY = "NSE_FO|40007|28-08-2025"
_QUESTIONS = {
    "a contract": f"SELECT * FROM candles WHERE expiry = DATE '{_EXPIRY}' AND instrument_key = '{_ONE_KEY}'",  # noqa: S608
    "daily bars": "SELECT instrument_key, ts::DATE AS day, max(high), min(low), sum(volume) FROM candles GROUP BY ALL",
}


@dataclass(slots=True)
class Side:
    """One of the two archives, and the seconds that each step took."""

    folder: Path
    key: bytes | None
    load: list[float] = field(default_factory=list)
    opening: list[float] = field(default_factory=list)
    asking: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in _QUESTIONS})

    @property
    def archive(self) -> Warehouse:
        """The archive."""
        return Warehouse(self.folder / "archive.duckdb", key=self.key)


def run(*, quick: bool) -> Iterator[Figure]:
    """Yield the ratios of encrypted to plain, and the time for unlocking."""
    contracts, rounds = (20, 3) if quick else (160, 5)
    batches = [[_contract(number) for number in range(first, first + 10)] for first in range(0, contracts, 10)]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        plain, sealed = Side(Path(folder) / "plain", None), Side(Path(folder) / "sealed", _KEY)
        for number in range(rounds):
            for side in (plain, sealed) if number % 2 else (sealed, plain):
                side.load.append(_seconds(partial(_load, side, batches)))
                _ask(side)
        rows = contracts * _BARS
        yield _compared("load", sealed.load, plain.load, f"{rows:,} rows staged and written, {rounds} times in turn")
        for name in _QUESTIONS:
            yield _compared(
                name, sealed.asking[name], plain.asking[name], f"of {rows:,} candles, the file open already"
            )
        opened, bare = (statistics.median(side.opening) * 1000 for side in (sealed, plain))
        yield Figure(
            name="encryption: opening",
            value=opened,
            unit="ms",
            beside=f"plain {bare:.1f} ms",
            note="once a read or a write; most of it is loading DuckDB's cryptography",
        )
        sizes = [side.archive.database.stat().st_size for side in (sealed, plain)]
        yield Figure(
            name="encryption: size",
            value=sizes[0] / rows,
            unit="bytes a candle",
            beside=f"plain {sizes[1] / rows:.2f}",
            ratio=sizes[0] / sizes[1],
        )
        yield _unlocking(Path(folder) / "home")


def _load(side: Side, batches: list[list[tuple[pd.DataFrame, ContractStatus]]]) -> None:
    """Stage a cell and write it, in a fresh archive."""
    side.archive.database.unlink(missing_ok=True)
    staging = CellStaging(side.folder / "NIFTY" / str(_EXPIRY), side.key)
    staging.clear()
    statuses: list[ContractStatus] = []
    files = []
    for batch in batches:
        frames, states = zip(*batch, strict=True)
        files.append(staging.write(pd.concat(frames), frames[0].iloc[:0], states).path)
        statuses += states
    frame = status_frame(statuses)
    cells.write_candles(side.archive, "NIFTY", _EXPIRY, files, frame, "bench", side.key)


def _contract(number: int) -> tuple[pd.DataFrame, ContractStatus]:
    key = f"NSE_FO|{40000 + number}|28-08-2025"
    walk = np.round(np.cumsum(np.random.default_rng(number).normal(0, 0.5, _BARS)) + 200, 1)
    times = pd.date_range(_FIRST, periods=_BARS, freq="min", unit="us")
    frame = pd.DataFrame({"instrument_key": key, "ts": times, "open": walk, "high": walk + 1, "low": walk - 1})
    frame = frame.assign(close=walk + 0.5, volume=np.arange(_BARS) % 900 * 75, open_interest=np.arange(_BARS) // 9 * 75)
    last = _FIRST + timedelta(minutes=_BARS - 1)
    state = ContractStatus(
        instrument_key=key,
        status=State.COMPLETE,
        checked_at=last,
        requests=1,
        received=_BARS,
        candles=_BARS,
        first_ts=_FIRST,
        last_ts=last,
    )
    return frame, state


def _ask(side: Side) -> None:
    for name, question in _QUESTIONS.items():
        began = time.perf_counter()
        with side.archive.reading() as connection:
            side.opening.append(time.perf_counter() - began)
            asked = time.perf_counter()
            connection.execute(question).to_arrow_table()
            side.asking[name].append(time.perf_counter() - asked)


def _compared(name: str, sealed: list[float], plain: list[float], note: str) -> Figure:
    ours, bare = statistics.median(sealed), statistics.median(plain)
    return Figure(
        name=f"encryption: {name}",
        value=ours,
        unit="s",
        beside=f"plain {bare:.3f} s",
        ratio=ours / bare,
        bar=f"ratio <= {_BAR}",
        passed=ours <= _BAR * bare,
        note=note,
    )


def _unlocking(home: Path) -> Figure:
    settings = load_settings(home=home, passphrase="of the benchmark")
    vault.open_vault(settings).put("x", b"y")
    derive = vault._stretched.__wrapped__  # noqa: SLF001  -- without the memory that a process keeps
    ours = statistics.median(_seconds(lambda: derive(b"secret", bytes(16), vault.ROUNDS)) for _ in range(5))
    floor = statistics.median(
        _seconds(lambda: hashlib.pbkdf2_hmac("sha256", b"secret", bytes(16), vault.ROUNDS)) for _ in range(5)
    )
    again = statistics.median(_seconds(lambda: vault.open_vault(settings).get("x")) for _ in range(20))
    return Figure(
        name="encryption: PBKDF2",
        value=ours,
        unit="s",
        beside=f"hashlib {floor:.3f} s",
        ratio=ours / floor,
        note=f"{vault.ROUNDS:,} rounds, once a process; reading a secret afterwards {again * 1000:.2f} ms",
    )


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
