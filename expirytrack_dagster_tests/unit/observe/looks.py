"""Overviews as tests of the dashboard need them: a busy one, a first one, and any that could be."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from expirytrack_dagster.collect.horizon import Leaving
from expirytrack_dagster.collect.tracking import Underlying
from expirytrack_dagster.observe.alerts import Alert
from expirytrack_dagster.observe.overview import CellCounts, Horizon, Overview, RunningCell, RunningPhase, Standing
from expirytrack_dagster.settings import RateLimit
from expirytrack_dagster.upstox.activity import Activity, Failure
from expirytrack_dagster.upstox.breaker import Circuit
from expirytrack_dagster.upstox.budget import Budget, WindowUse
from expirytrack_dagster.upstox.tokens import TokenState

NOW = datetime(2025, 9, 10, 8, 30, tzinfo=UTC)
"""14:00 in India."""
HOME = Path("/home/trader/expirytrack")


def budget(*used: int, wait: float = 0.0, pause: float = 0.0, failures: int = 0) -> Budget:
    """Return the three windows, filled so far."""
    limits = (RateLimit(1, 50), RateLimit(60, 500), RateLimit(1800, 2000))
    windows = tuple(WindowUse(limit, count, wait) for limit, count in zip(limits, used, strict=True))
    circuit = Circuit(failures, min(failures, 1), 0.0, "HTTP 503" if failures else "")
    return Budget(
        windows, pause, "HTTP 429" if pause else None, circuit, "open" if failures else "closed", float(failures)
    )


def token(minutes: float | None, sentence: str = "") -> TokenState:
    """Return a token with so many minutes to live; None: there is none."""
    if minutes is None:
        return TokenState("default", None, None, 0.0, usable=False, sentence=sentence)
    return TokenState(
        "default", "vault", NOW + timedelta(minutes=minutes), minutes * 60, usable=True, sentence=sentence
    )


def running(
    underlying: str, phase: RunningPhase, answered: int, contracts: int, left: float | None = None
) -> RunningCell:
    """Return a cell under way."""
    return RunningCell(
        underlying,
        date(2025, 8, 28),
        "run",
        "1 since 1",
        phase,
        contracts,
        answered,
        answered * 1500,
        answered,
        60,
        NOW - timedelta(minutes=1),
        NOW,
        left,
    )


def cell(underlying: str, day: date, contracts: int = 0) -> CellCounts:
    """Return a listed cell, complete or not begun."""
    return CellCounts(
        underlying, day, contracts, contracts, 0, 0, 0, 0, 0, contracts * 1000, 0, None, None, sealed=contracts > 0
    )


FIRST = Overview(
    at=NOW,
    home=HOME,
    database=HOME / "expirytrack.duckdb",
    underlyings=(),
    token=token(
        None, "No access token of account 'default': run `expirytrack login`, or set EXPIRYTRACK_ACCESS_TOKEN."
    ),
    token_is_short=False,
    keys=None,
    budgets={"account": budget(0, 0, 0)},
    activity=Activity(),
    running=(),
    cells=(),
    standings=(),
    horizon=Horizon(),
)
"""What somebody sees who has just installed it."""

BUSY = Overview(
    at=NOW,
    home=HOME,
    database=HOME / "expirytrack.duckdb",
    underlyings=(Underlying("NIFTY", "NSE_INDEX|Nifty 50"), Underlying("SENSEX", "BSE_INDEX|SENSEX")),
    token=token(45),
    token_is_short=True,
    keys="The vault's keys are 100 days old: run 'expirytrack keys rotate'.",
    budgets={"account": budget(31, 500, 1204, wait=12.0, pause=30.0, failures=5)},
    activity=Activity(
        answers=(0,) * 30 + tuple(range(30)),
        candles=1_234_567,
        latency=0.21,
        slowest=0.93,
        under_way=10,
        by_run={"run": 60},
        failures=(
            Failure("HTTP 429 UDAPI10005", "candles", 3, NOW.timestamp() - 9),
            Failure("no answer", "candles", 1, NOW.timestamp() - 300),
        ),
    ),
    running=(
        running("NIFTY", "asking", 120, 403, 80.0),
        running("SENSEX", "storing", 300, 300),
        running("BANKEX", "ended", 12, 300),
        running("BANKNIFTY", "reading", 0, 0),
    ),
    cells=(cell("NIFTY", date(2025, 8, 21), 403), cell("NIFTY", date(2025, 8, 28)), cell("SENSEX", date(2025, 8, 26))),
    standings=(
        Standing("NIFTY", 77, 12, 1, 60, 3, 1, 4836, 4800, 6_123_456, 17),
        Standing("SENSEX", 48, 0, 0, 48, 0, 0, 0, 0, 0, 0),
    ),
    alerts=(
        Alert("token_life", "default", 45, 60, "The token dies in 45 minutes.", "Log in.", NOW - timedelta(minutes=15)),
        Alert(
            "failure_rate",
            "requests",
            12,
            10,
            "12 % of the requests fail.",
            "Wait.",
            NOW - timedelta(days=1),
            NOW,
            "2 % of the requests fail.",
        ),
    ),
    horizon=Horizon(182, (Leaving("SENSEX", date(2025, 3, 13), date(2025, 9, 12), None),)),
)
"""A collection in full swing, with everything that can go wrong."""
