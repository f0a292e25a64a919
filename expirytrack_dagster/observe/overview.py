"""What one look tells: limits, running cells, what is collected and missing, token, horizon; and all of it as JSON.

Only what a look is belongs here: how one is taken is up to `lookout.py`, how it is drawn to `dashboard.py`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from expirytrack_dagster.collect.horizon import Leaving
    from expirytrack_dagster.collect.tracking import Underlying
    from expirytrack_dagster.observe.alerts import Alert
    from expirytrack_dagster.upstox.activity import Activity
    from expirytrack_dagster.upstox.budget import Budget
    from expirytrack_dagster.upstox.tokens import TokenState

_COUNTS = (
    *("contracts", "complete", "empty_proven", "partial", "refused", "failed", "unasked"),
    *("candles", "quarantined"),
)

RunningPhase = Literal["reading", "asking", "proving", "storing", "ended"]


@dataclass(frozen=True, slots=True)
class CellCounts:
    """A listed cell: contracts by state, rows, first and last minute (UTC), as `warehouse.reader.cells` counts them."""

    underlying: str
    expiry: date
    contracts: int
    complete: int
    empty_proven: int
    partial: int
    refused: int
    failed: int
    unasked: int
    candles: int
    quarantined: int
    first_ts: datetime | None
    last_ts: datetime | None
    sealed: bool

    @property
    def is_begun(self) -> bool:
        """Something of it is in the archive, or it is known that there is nothing."""
        return self.contracts > 0 or self.sealed

    @property
    def unfinished(self) -> int:
        """Contracts whose state is not final."""
        return self.partial + self.refused + self.failed + self.unasked

    def as_json(self) -> dict[str, object]:
        """Return the columns; times are ISO 8601 in UTC."""
        return _plain(self)


@dataclass(frozen=True, slots=True)
class Standing:
    """The cells of an underlying by what is left to do (`collect/overview.py`), and what they hold."""

    underlying: str
    cells: int
    complete: int
    begun: int
    not_begun: int
    waiting: int
    lost: int
    contracts: int
    final_contracts: int
    candles: int
    quarantined: int


@dataclass(frozen=True, slots=True)
class RunningCell:
    """A cell that some process collects, or did when it was killed (`ended`).

    `answered` of `contracts` are answered, with `candles`; `requests` are those of its run, of which `pace` were
    answered in the last minute. `seconds_left` is how long the asking takes at this pace, or by the limits where these
    are narrower; None where nothing tells. Times are UTC.
    """

    underlying: str
    expiry: date
    run_id: str
    process: str
    phase: RunningPhase
    contracts: int
    answered: int
    candles: int
    requests: int
    pace: int
    began_at: datetime
    seen_at: datetime
    seconds_left: float | None


@dataclass(frozen=True, slots=True)
class Horizon:
    """How far back the API's list reaches: None while its oldest date does not move; and what is about to leave it."""

    days: int | None = None
    leaving: tuple[Leaving, ...] = ()


@dataclass(frozen=True, slots=True)
class Overview:
    """One look.

    `at` is in UTC; `budgets` are by scope; `alerts` are those that stand and the last ones that are over, the newest
    first; `unread` says what could not be read this time, and why.
    """

    at: datetime
    home: Path
    database: Path | str
    underlyings: tuple[Underlying, ...]
    token: TokenState
    token_is_short: bool
    keys: str | None
    budgets: dict[str, Budget]
    activity: Activity
    running: tuple[RunningCell, ...]
    cells: tuple[CellCounts, ...]
    standings: tuple[Standing, ...]
    horizon: Horizon
    alerts: tuple[Alert, ...] = ()
    unread: str | None = None

    def as_json(self) -> dict[str, object]:
        """Return what `status --json` prints; times are ISO 8601 in UTC."""
        return {
            "at": _iso(self.at),
            "home": str(self.home),
            "token": self.token.as_json(),
            "underlyings": [asdict(underlying) for underlying in self.underlyings],
            "cells": [cell.as_json() for cell in self.cells],
            "budget": [
                {
                    "scope": scope,
                    "seconds": window.limit.seconds,
                    "used": window.used,
                    "allowed": window.limit.requests,
                }
                for scope, budget in self.budgets.items()
                for window in budget.windows
            ],
            "cooldown": _worst(
                {"scope": scope, "seconds": budget.cooldown_seconds, "reason": budget.cooldown_reason}
                for scope, budget in self.budgets.items()
            ),
            "breaker": _worst(
                {
                    "scope": scope,
                    "seconds": budget.circuit_seconds,
                    "state": budget.circuit_state,
                    "failures": budget.circuit.failures,
                    "reason": budget.circuit.reason or None,
                }
                for scope, budget in self.budgets.items()
            ),
            "activity": {
                "answers": self.activity.total,
                "candles": self.activity.candles,
                "latency": self.activity.latency,
                "slowest": self.activity.slowest,
                "under_way": self.activity.under_way,
            },
            "failures": [
                asdict(failure) | {"last_at": _iso(datetime.fromtimestamp(failure.last_at, UTC))}
                for failure in self.activity.failures
            ],
            "running": [_plain(cell) for cell in self.running],
            "standings": [asdict(standing) for standing in self.standings],
            "horizon": {
                "days": self.horizon.days,
                "leaving": [_plain(cell) | {"sentence": cell.sentence} for cell in self.horizon.leaving],
            },
            "alerts": [_plain(alert) for alert in self.alerts],
            "unread": self.unread,
        }


def cell_counts(frame: pd.DataFrame) -> tuple[CellCounts, ...]:
    """Take over the columns of `warehouse.reader.cells`."""
    return tuple(
        CellCounts(
            underlying=str(row["underlying"]),
            expiry=pd.Timestamp(row["expiry"]).date(),
            **{name: int(row[name]) for name in _COUNTS},
            first_ts=_moment(row["first_ts"]),
            last_ts=_moment(row["last_ts"]),
            sealed=bool(row["sealed"]),
        )
        for row in frame.to_dict("records")
    )


def _moment(value: Any) -> datetime | None:
    return None if pd.isna(value) else pd.Timestamp(value).to_pydatetime()


def _worst(states: Iterable[dict[str, object]]) -> dict[str, object]:
    """Return what holds requests back longest, of one entry a scope."""
    return max(states, key=lambda state: (state["seconds"], state.get("state", "") == "half-open"))


def _plain(record: CellCounts | RunningCell | Leaving | Alert) -> dict[str, object]:
    return {name: _iso(value) for name, value in asdict(record).items()}


def _iso(value: object) -> object:
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"
    return value.isoformat() if isinstance(value, date) else value
