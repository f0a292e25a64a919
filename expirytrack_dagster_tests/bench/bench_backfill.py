"""A backfill of four cells from the UI, carried out by the daemon: beside the least time that the windows allow.

The webserver, the daemon and the runs are processes as `expirytrack ui` starts them. Two figures: the time from the
first request to the last, and from launching to the first; the daemon looks for backfills at intervals, so the second
is that of one moment of the interval.
"""

from __future__ import annotations

import sqlite3
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expirytrack_dagster.warehouse import reader
from expirytrack_dagster.warehouse.connection import Warehouse
from expirytrack_dagster_tests.bench.figures import Figure
from expirytrack_dagster_tests.bench.load import TRUE_LIMITS, Seen, limits_of, sandbox, seen, soonest
from expirytrack_dagster_tests.e2e.served import Ui, serving, track

if TYPE_CHECKING:
    from collections.abc import Iterator

_CELLS = ("2025-08-14", "2025-08-21", "2025-09-02", "2025-09-09")
_LATENCY = (0.025, 0.025)
_SPAN_BAR, _START_BAR = 1.05, 20.0
_WITHIN = 2_700.0


@dataclass(frozen=True, slots=True)
class Backfilled:
    """How a backfill went: statuses of its runs, contracts, how many of them are final, what the sandbox saw."""

    status: str
    runs: list[str]
    contracts: int
    final: int
    seen: Seen
    started: float
    seconds: float

    @property
    def good(self) -> bool:
        """Whether every contract is final, every run green, and nothing was refused."""
        green = self.status == "COMPLETED_SUCCESS" and self.runs == ["SUCCESS"] * len(_CELLS)
        return green and self.contracts == self.final and not self.seen.violations


def run(*, quick: bool) -> Iterator[Figure]:
    """Yield the span beside the floor of the windows, and the start-up; quick, everything is a fifth or less."""
    limits, strikes = ("50/1,100/12,400/360", 12) if quick else (TRUE_LIMITS, 122)  # 490 contracts a cell
    done = backfill(limits, strikes)
    requests = done.seen.answered
    floor = soonest(limits_of(limits), requests)
    note = (
        f"{len(_CELLS)} cells, {done.contracts:,} contracts, {done.final:,} of them final, {requests:,} requests at"
        f" {limits}; backfill {done.status}, runs {', '.join(done.runs)}, {done.seconds:.0f} s from launch to end"
    )
    yield Figure(
        name="backfill, first to last request",
        value=done.seen.seconds,
        unit="s",
        beside=f"floor {floor:.1f} s; {done.seen.violations} violations; {done.seen.windows}",
        ratio=done.seen.seconds / floor,
        bar=f"<= {_SPAN_BAR} x floor, 0 violations",
        passed=done.seen.seconds <= _SPAN_BAR * floor and done.good,
        note=note,
    )
    yield Figure(
        name="backfill, launch to first request",
        value=done.started,
        unit="s",
        bar=f"<= {_START_BAR:.0f} s",
        passed=done.started <= _START_BAR,
    )


def backfill(limits: str, strikes: int) -> Backfilled:
    """Serve a fresh home, launch the backfill as the UI does, and wait for its end."""
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        sandbox(limits, _LATENCY, _LATENCY, strikes=strikes) as url,
    ):
        home = Path(folder)
        track(home, url, "NIFTY")
        with serving(home, url, RATE_LIMITS=limits) as ui:
            ui.launch("expiry_fetch", ["expiries"], "NIFTY")
            launched = time.time()
            ended = _ended(ui, ui.backfill([f"{day}|NIFTY" for day in _CELLS]))
            seconds = time.time() - launched
        cells = reader.cells(Warehouse(home / "expirytrack.duckdb"))
        wanted = cells[cells["expiry"].astype(str).str[:10].isin(_CELLS)]
        final = int(wanted[["complete", "empty_proven"]].to_numpy().sum())
        return Backfilled(
            status=ended["status"],
            runs=[run["status"] for run in ended["runs"]],
            contracts=int(wanted["contracts"].sum()),
            final=final,
            seen=seen(url),
            started=_first_request(home, launched) - launched,
            seconds=seconds,
        )


def _ended(ui: Ui, backfill_id: str) -> dict[str, Any]:
    return ui.ended(backfill_id, seconds=_WITHIN)


def _first_request(home: Path, launched: float) -> float:
    with closing(sqlite3.connect(home / "state.sqlite")) as state:
        (first,) = state.execute("SELECT min(started_at) FROM requests WHERE started_at > ?", (launched,)).fetchone()
    return float(first)
