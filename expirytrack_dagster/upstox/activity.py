"""What has just been asked and answered, read from the rows of the ledger: the figures of whoever watches.

Only reading: how full the windows are and when a request may leave is `ledger.py`'s. Everything is read from the
index of the windows, so that a look costs the requests of the last half hour and not those of all years.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, func, select

from expirytrack_dagster.state.tables import requests
from expirytrack_dagster.upstox.scopes import COUNTS_AT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import ColumnElement

    from expirytrack_dagster.state import StateDatabase

MINUTE = 60
HALF_HOUR = 1800.0

_ROW = requests.c
_SCOPES = _ROW.scope.in_(bindparam("scopes", expanding=True))
_SINCE = bindparam("since") < COUNTS_AT
_NOW: ColumnElement[float] = bindparam("now")
_ANSWERED = select(
    _ROW.counted_at,
    func.coalesce(_ROW.rows, 0),
    _ROW.endpoint == "candles",
    _ROW.latency,
    func.coalesce(_ROW.run_id, ""),
).where(_SCOPES, _SINCE, _ROW.counted_at <= _NOW)
_UNDER_WAY = select(func.count()).where(_SCOPES, COUNTS_AT > _NOW, _ROW.outcome.is_(None), _ROW.started_at <= _NOW)
_FAILED = select(
    func.coalesce(_ROW.counted_at, _ROW.started_at), _ROW.outcome, _ROW.status, _ROW.error_code, _ROW.endpoint
).where(_SCOPES, _SINCE, _ROW.outcome.not_in(("ok", "abandoned")))
_SETTLED = select(_ROW.outcome, _ROW.status, _ROW.error_code, _ROW.latency).where(
    _SCOPES, _SINCE, _ROW.outcome.is_not(None), _ROW.started_at <= _NOW
)


@dataclass(frozen=True, slots=True)
class Failure:
    """Requests of the last half hour that failed alike; `last_at` is seconds since the epoch."""

    what: str
    endpoint: str
    count: int
    last_at: float


@dataclass(frozen=True, slots=True)
class Activity:
    """The last minute: answers in each of its seconds (the oldest first), candles received, seconds to an answer.

    `latency` is what half of the answers took at most, `slowest` what 95 of 100 did; both None without an answer.
    `by_run` counts the answers of each run. `failures` are of the last half hour, the newest kind first.
    """

    answers: tuple[int, ...] = (0,) * MINUTE
    candles: int = 0
    latency: float | None = None
    slowest: float | None = None
    under_way: int = 0
    by_run: Mapping[str, int] = field(default_factory=dict)
    failures: tuple[Failure, ...] = ()

    @property
    def total(self) -> int:
        """Answers of the minute."""
        return sum(self.answers)


def activity(state: StateDatabase, scopes: Sequence[str], now: float) -> Activity:
    """Look back from `now` (seconds since the epoch) at the requests of these scopes; takes no lock."""
    bound = {"scopes": [*scopes], "now": now, "since": now - MINUTE}
    answers, candles, by_run = [0] * MINUTE, 0, dict[str, int]()
    latencies = []
    for counted_at, rows, of_candles, latency, run_id in state.query(_ANSWERED, bound):
        answers[-1 - min(int(now - counted_at), MINUTE - 1)] += 1
        candles += rows if of_candles else 0
        by_run[run_id] = by_run.get(run_id, 0) + 1
        if latency is not None:
            latencies.append(latency)
    latencies.sort()
    return Activity(
        answers=tuple(answers),
        candles=candles,
        latency=_share(latencies, 0.5),
        slowest=_share(latencies, 0.95),
        under_way=state.query(_UNDER_WAY, {"scopes": [*scopes], "now": now})[0][0],
        by_run=by_run,
        failures=_failures(state.query(_FAILED, {"scopes": [*scopes], "since": now - HALF_HOUR})),
    )


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of the requests of a stretch of time.

    `slowest` is what 95 of 100 answers took at most, in seconds, None without one; `mostly` is how most of the failed
    ones failed, None where none did. Requests given up by ourselves count neither way.
    """

    requests: int = 0
    failed: int = 0
    slowest: float | None = None
    mostly: str | None = None


def settled(state: StateDatabase, scopes: Sequence[str], now: float, seconds: float) -> Settled:
    """Look back from `now` (seconds since the epoch) at the requests of these scopes; takes no lock."""
    bound = {"scopes": [*scopes], "now": now, "since": now - seconds}
    rows = [row for row in state.query(_SETTLED, bound) if row[0] != "abandoned"]
    kinds = Counter(_named(outcome, status, code) for outcome, status, code, _ in rows if outcome != "ok")
    latencies = sorted(latency for *_, latency in rows if latency is not None)
    mostly = kinds.most_common(1)[0][0] if kinds else None
    return Settled(len(rows), kinds.total(), _share(latencies, 0.95), mostly)


def _failures(rows: Sequence[tuple[Any, ...]]) -> tuple[Failure, ...]:
    each = sorted(
        (Failure(_named(outcome, status, code), endpoint, 1, at) for at, outcome, status, code, endpoint in rows),
        key=attrgetter("what", "endpoint"),
    )
    kinds = [list(alike) for _, alike in groupby(each, key=attrgetter("what", "endpoint"))]
    summed = [
        Failure(kind[0].what, kind[0].endpoint, len(kind), max(failure.last_at for failure in kind)) for kind in kinds
    ]
    return tuple(sorted(summed, key=attrgetter("last_at"), reverse=True))


def _named(outcome: str, status: int | None, code: str | None) -> str:
    if outcome == "network_error":
        return "no answer"
    if outcome == "malformed":
        return "unreadable answer"
    return f"HTTP {status} {code or ''}".strip()


def _share(ascending: Sequence[float], share: float) -> float | None:
    return ascending[min(int(len(ascending) * share), len(ascending) - 1)] if ascending else None
