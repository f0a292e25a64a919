"""What metrics and log lines cost a collection: like cells collected with and without them, in turn, in one process.

Each round collects a cell that no home holds yet, once with metrics kept and lines written and twice without either, in
changing order, through the Dagster run that `expirytrack collect` makes. The windows are so wide that
nothing waits: at the true limits a collection mostly waits, and any overhead would vanish in that. Judged is the
processor time of the collecting process, all threads together, since seconds tell of the machine's other programs too.
What the two without differ by is noise: a ratio that is no further from one says nothing.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from expirytrack_dagster.backfill import Backfill, Outcome, track
from expirytrack_dagster.instance import open_instance
from expirytrack_dagster.observe import logs
from expirytrack_dagster.resources import ProgressResource
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket
from expirytrack_dagster.settings import PREFIX, load_settings
from expirytrack_dagster_tests.bench.figures import Figure
from expirytrack_dagster_tests.bench.load import TODAY, TOKEN, sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_BAR = 1.03
_SESSIONS = 5  # of a weekly contract; a real one has up to four times as many candles an answer
_WIDE = "100000/1"
_FIRST = date(2025, 9, 2)
_ROUNDS = 30
_STRIKES = 10


@dataclass(slots=True)
class Side:
    """One of the homes, and what each cell took: processor seconds and seconds."""

    home: Path
    on: bool
    processor: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    requests: int = 0


def run(*, quick: bool) -> Iterator[Figure]:
    """Yield the ratios of with to without."""
    rounds = 6 if quick else _ROUNDS
    market = SyntheticMarket(strikes=_STRIKES, days=_SESSIONS, today=TODAY)
    cells = [day for day in market.expiries("NSE_INDEX|Nifty 50") or [] if day < _FIRST][-rounds:]
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        sandbox(_WIDE, (0, 0), (0, 0), strikes=_STRIKES, days=_SESSIONS) as url,
    ):
        sides = [Side(Path(folder) / name, on=name == "with") for name in ("with", "without", "again without")]
        for side in sides:  # what only the first collection does: databases, imports, the list of expiries
            _collect(side, url, _FIRST)
            side.processor.clear()
            side.seconds.clear()
        for number, expiry in enumerate(cells):
            first = number % len(sides)
            for side in sides[first:] + sides[:first]:
                _collect(side, url, expiry)
        lines = sum(file.read_bytes().count(b"\n") for file in (sides[0].home / "logs").glob(f"{logs.FILE}*"))
        what = f"{rounds} cells of {_STRIKES * 2 + 1} strikes and {_SESSIONS} sessions in turn"
        note = f"{what}; {sides[0].requests:,} requests, {lines:,} lines"
        with_it, without, again = sides
        bare = without.processor + again.processor
        yield _compared("processor", with_it.processor, bare, note, bar=True)
        yield _compared("noise", again.processor, without.processor, "without against without", bar=False)
        yield _compared("seconds", with_it.seconds, without.seconds + again.seconds, "the same collections", bar=False)


def _compared(what: str, ours: Sequence[float], bare: Sequence[float], note: str, *, bar: bool) -> Figure:
    """Compare the better half of each side: the cells are alike, and other programs of the machine can only add."""
    with_it, without = (statistics.mean(sorted(side)[: (len(side) + 1) // 2]) for side in (ours, bare))
    ratio = with_it / without
    medians = f"medians {statistics.median(ours):.3f} and {statistics.median(bare):.3f} s"
    return Figure(
        name=f"overhead: {what}",
        value=with_it,
        unit="s a cell",
        beside=f"without {without:.3f} s; {medians}",
        ratio=ratio,
        bar=f"ratio <= {_BAR}" if bar else "",
        passed=ratio <= _BAR if bar else None,
        note=note,
    )


def _collect(side: Side, url: str, expiry: date) -> None:
    with _environment(side, url):
        settings = load_settings()
        logs.begin(settings, "bench")
        with open_instance(settings) as instance:
            track(settings, instance, "NIFTY")
            backfill = Backfill(settings, instance, ProgressResource())
            backfill.listed("NIFTY", Outcome())
            began, used = time.perf_counter(), time.process_time()
            outcome = backfill.collect(["NIFTY"], [expiry])
            side.processor.append(time.process_time() - used)
            side.seconds.append(time.perf_counter() - began)
        logs.end()
    if outcome.exit_code:
        raise AssertionError(f"the collection ended with {outcome.exit_code}: {outcome.errors}")
    side.requests += outcome.requests


@contextmanager
def _environment(side: Side, url: str) -> Iterator[None]:
    """Set what the resources of a run read, and give back what was there."""
    wanted = {
        "HOME": str(side.home),
        "API_URL": url,
        "ACCESS_TOKEN": TOKEN,
        "RATE_LIMITS": _WIDE,
        "RATE_BURST": "1000",
        "METRICS": str(side.on),
        "LOG_MB": "10" if side.on else "0",
    }
    before = os.environ.copy()
    os.environ.update({f"{PREFIX}{name}": value for name, value in wanted.items()})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
