"""What is spent and what is left: the ledger of requests as it is looked at, without a change.

The figures for `status`, plans and metrics belong here; taking a slot and recording what became of it, to `ledger.py`;
what was asked and answered of late, to `activity.py`. Nobody waits for a look but for the metrics' one (`ended_since`).
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Literal, get_args

from sqlalchemy import Double, bindparam, cast, func, select

from expirytrack_dagster.state.tables import cooldowns, requests
from expirytrack_dagster.upstox import scopes
from expirytrack_dagster.upstox.breaker import Circuit
from expirytrack_dagster.upstox.calls import Endpoint
from expirytrack_dagster.upstox.clock import Clock, SystemClock
from expirytrack_dagster.upstox.forecast import Forecast
from expirytrack_dagster.upstox.pacing import Bucket
from expirytrack_dagster.upstox.scopes import COUNTS_AT

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

    from expirytrack_dagster.settings import RateLimit
    from expirytrack_dagster.state import StateDatabase

LOOKED_AT = 50_000
"""Requests that one look for the metrics reads at most; the others are for the next one."""


@dataclass(frozen=True, slots=True)
class WindowUse:
    """How full one window is; `seconds_to_slot` is 0 while it has room."""

    limit: RateLimit
    used: int
    seconds_to_slot: float


@dataclass(frozen=True, slots=True)
class Budget:
    """All windows of a scope, the shortest first, the pause in force (0 and None without one), and the circuit."""

    windows: tuple[WindowUse, ...]
    cooldown_seconds: float
    cooldown_reason: str | None
    circuit: Circuit
    circuit_state: Literal["closed", "open", "half-open"]
    circuit_seconds: float


@dataclass(frozen=True, slots=True)
class Booked:
    """A request that has ended, as the ledger has booked it; `status` and `latency` are None without an answer."""

    run_id: str | None
    endpoint: str
    attempt: int
    status: int | None
    latency: float | None
    bytes: int


class LedgerReader:
    """The ledger as whoever looks at it sees it; arguments as those of `ledger.RequestLedger`."""

    def __init__(
        self,
        state: StateDatabase,
        limits: tuple[RateLimit, ...],
        *,
        clock: Clock | None,
        scope_of: Callable[[Endpoint], str],
        burst: int | None,
    ) -> None:
        """Keep the parts; nothing is opened yet."""
        self._state = state
        self._limits = tuple(sorted(limits))
        self._longest = self._limits[-1].seconds if self._limits else 0.0
        self._clock = clock or SystemClock()
        self._scope_of = scope_of
        self._bucket: Bucket | None = None
        if self._limits and burst is not None:
            shortest = self._limits[0]
            self._bucket = Bucket(shortest.seconds / shortest.requests, min(burst, shortest.requests))

    @property
    def state(self) -> StateDatabase:
        """The state database in which the ledger is kept."""
        return self._state

    def scope_of(self, endpoint: Endpoint) -> str:
        """Return what the limits of an endpoint apply to."""
        return self._scope_of(endpoint)

    def all_scopes(self) -> tuple[str, ...]:
        """Return every scope, in the order of the endpoints."""
        return tuple(dict.fromkeys(self._scope_of(endpoint) for endpoint in get_args(Endpoint)))

    def now(self) -> float:
        """Return the time that the ledger goes by, in seconds since the epoch."""
        return self._state.now(self._clock.now())

    def budget(self, scope: str = "account") -> Budget:
        """Return how full each window is, for `expirytrack status`; takes no lock and changes nothing."""
        now = self.now()
        known = self._state.query(scopes.SELECT, {"scope": scope})
        circuit = Circuit(*known[0][4:]) if known else Circuit()
        lost_at = None if known else self._state.query(scopes.LOST_AT)[0][0]
        windows = []
        for limit in self._limits:
            used = self._state.query(_USED, {"scope": scope, "since": now - limit.seconds})[0][0]
            rows = self._state.query(_NEWEST.limit(1).offset(limit.requests - 1), {"scope": scope})
            windows.append(WindowUse(limit, used, remaining(rows[0][0] if rows else None, limit, now)))
        pauses = self._state.query(_LONGEST_PAUSE, {"scope": scope, "now": now})
        if lost_at is not None and min(lost_at, now) + self._longest > now:
            pauses = [(min(lost_at, now) + self._longest, scopes.LOST)]
        until, reason = pauses[0] if pauses else (now, None)
        left = max(0.0, circuit.open_until - now)
        return Budget(tuple(windows), until - now, reason, circuit, circuit.state(now), left)

    def forecast(self, scope: str = "account") -> Forecast:
        """Return what says when requests to come can leave; takes no lock and changes nothing."""
        now, budget = self.now(), self.budget(scope)
        known = self._state.query(scopes.SELECT, {"scope": scope})
        held = max([limit.requests for limit in self._limits], default=0)
        counted = [min(row[0], now) for row in self._state.query(_NEWEST.limit(held), {"scope": scope})]
        start = now + max(budget.cooldown_seconds, budget.circuit_seconds)
        paced_until = known[0][0] if known else now
        return Forecast(self._limits, tuple(reversed(counted)), start, self._bucket, paced_until)

    def is_closed_to_all(self) -> bool:
        """Say whether a request of some scope would raise `CircuitOpen` now, so that work need not be begun."""
        budgets = [self.budget(scope) for scope in self.all_scopes()]
        return any(budget.circuit_state == "open" and budget.circuit.openings > 1 for budget in budgets)

    def last_answer(self, endpoint: Endpoint, target: str) -> float | None:
        """Return when this was last answered well (seconds since the epoch), None if it never was."""
        rows = self._state.query(_LAST_ANSWER, {"endpoint": endpoint, "target": target})
        return float(rows[0][0]) if rows else None

    def bytes_a_row(self) -> float | None:
        """Return the size of a candle on its way, of the newest answers; None before the first."""
        size = self._state.query(_BYTES_A_ROW)[0][0]
        return None if size is None else float(size)

    def refused_at(self) -> float | None:
        """Return when the token or the plan was refused (seconds since the epoch), None if the last answer was none."""
        rows = self._state.query(_LAST_STATUS, {"scopes": self.all_scopes()})
        return float(rows[0][1]) if rows and rows[0][0] == HTTPStatus.UNAUTHORIZED else None

    def spent(self, run_id: str) -> int:
        """Return the number of requests that a run has sent, retries included."""
        return int(self._state.query(_SPENT, {"run": run_id})[0][0])


def ended_since(
    connection: Connection, upto: int, under_way: list[int], now: float
) -> tuple[list[Booked], int, list[int]]:
    """Return the requests that have ended since a look at the ledger, for the metrics, and where the next look begins.

    A request has ended when it is settled, or when it cannot be under way any more because its process was killed.
    No request is taken or settled from here to the transaction's end, so that none below the highest id comes to light
    later.

    Args:
        connection: inside a transaction of the state database that is alone.
        upto: the highest id of the last look.
        under_way: the ids up to it that had not ended then.
        now: seconds since the epoch.

    Returns:
        At most `LOOKED_AT` requests, the highest id looked at, and the ids up to it that have not ended.
    """
    scopes.lock_all(connection)
    rows = connection.execute(_SINCE, {"upto": upto, "under_way": under_way}).all()
    ended = [row for row in rows if row[1] is not None or row[2] <= now]
    booked = [Booked(*row[3:]) for row in ended]
    return booked, max([upto, *(row[0] for row in rows)]), [row[0] for row in rows if row[1] is None and row[2] > now]


def remaining(nth_newest: float | None, limit: RateLimit, now: float) -> float:
    """Return when the window's n-th newest request leaves it; one under way is taken to be answered now."""
    return 0.0 if nth_newest is None else max(0.0, min(nth_newest, now) + limit.seconds - now)


_SINCE = (
    select(
        requests.c.id,
        requests.c.outcome,
        requests.c.lease_until,
        requests.c.run_id,
        requests.c.endpoint,
        requests.c.attempt,
        requests.c.status,
        requests.c.latency,
        func.coalesce(requests.c.bytes, 0),
    )
    .where((requests.c.id > bindparam("upto")) | requests.c.id.in_(bindparam("under_way", expanding=True)))
    .order_by(requests.c.id)
    .limit(LOOKED_AT)
)
_USED = select(func.count()).where(requests.c.scope == bindparam("scope"), bindparam("since") < COUNTS_AT)
_NEWEST = select(COUNTS_AT).where(requests.c.scope == bindparam("scope")).order_by(COUNTS_AT.desc())
_LONGEST_PAUSE = (
    select(cooldowns.c.until, cooldowns.c.reason)
    .where(cooldowns.c.scope == bindparam("scope"), cooldowns.c.until > bindparam("now"))
    .order_by(cooldowns.c.until.desc())
    .limit(1)
)
_LAST_ANSWER = (
    select(requests.c.counted_at)
    .where(
        requests.c.endpoint == bindparam("endpoint"),
        requests.c.target == bindparam("target"),
        requests.c.outcome == "ok",
    )
    .order_by(requests.c.id.desc())
    .limit(1)
)
_NEWEST_CANDLES = (
    select(requests.c.bytes, requests.c.rows)
    .where(requests.c.endpoint == "candles", requests.c.outcome == "ok", requests.c.rows > 0)
    .order_by(requests.c.id.desc())
    .limit(1000)
    .subquery()
)
_BYTES_A_ROW = select(cast(func.sum(_NEWEST_CANDLES.c.bytes), Double) / cast(func.sum(_NEWEST_CANDLES.c.rows), Double))
# The scope is asked for in words that fit no index: the newest rows, read back from the last, answer at once.
_LAST_STATUS = (
    select(requests.c.status, requests.c.counted_at)
    .where(
        requests.c.outcome.in_(("ok", "http_error")),
        requests.c.scope.concat("").in_(bindparam("scopes", expanding=True)),
    )
    .order_by(requests.c.id.desc())
    .limit(1)
)
_SPENT = select(func.count()).where(requests.c.run_id == bindparam("run"))
