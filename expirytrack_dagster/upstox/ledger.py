"""The ledger of requests, which is also the rate limiter: one durable row per HTTP request decides both.

The windows are counted from the very rows that record the requests, so what was spent and what is allowed cannot
disagree. Taking a slot, recording what became of it, shared pauses after a refusal, and the figures for `expirytrack
status` belong here; sending, retrying and queueing belong to `client.py`.

**When a request counts.** Upstox counts a request somewhere between its sending and its answer. The answer's arrival
is an upper bound of that instant, and while no answer has come the upper bound is now. So a request occupies a window
of `seconds` from its slot's taking until `seconds` after `counted_at`; then no latency can make the API see more than
`requests` in any window. A request without an answer (a killed process, a broken connection) has `lease_until` for its
bound: `coalesce(counted_at, lease_until)` is the one expression behind every window, and it is indexed.

**A clock that jumps back** leaves rows in the future. They happened at the latest now, so `acquire` moves them to now:
no window is exceeded, and nothing waits longer than one full window. A jump forward cannot be seen in the rows.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from expirytrack_dagster.upstox.clock import Clock, SystemClock

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from expirytrack_dagster.settings import RateLimit
    from expirytrack_dagster.state import StateDatabase

Endpoint = Literal["expiries", "option_contracts", "future_contracts", "candles", "profile"]
Outcome = Literal["ok", "http_error", "network_error", "malformed", "abandoned"]

TRAVEL_SECONDS = 2.0
"""How long a request whose connection broke may still be on its way to the API's counter."""


@dataclass(frozen=True, slots=True)
class Call:
    """What one request asks: an endpoint, the instrument key it is about, and the other parameters as text."""

    endpoint: Endpoint
    target: str = ""
    params: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Wait:
    """No slot now: ask again after `seconds`, the earliest instant at which one can be free."""

    seconds: float
    reason: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a request; times are seconds since the epoch, `bytes` the decompressed body.

    `counted_at` is the arrival of the answer, None when none came.
    """

    outcome: Outcome
    counted_at: float | None = None
    status: int | None = None
    error_code: str | None = None
    bytes: int | None = None
    rows: int | None = None
    first_ts: int | None = None
    last_ts: int | None = None


@dataclass(frozen=True, slots=True)
class WindowUse:
    """How full one window is; `seconds_to_slot` is 0 while it has room."""

    limit: RateLimit
    used: int
    seconds_to_slot: float


@dataclass(frozen=True, slots=True)
class Budget:
    """All windows of a scope, the shortest first, and the pause in force (0 and None without one)."""

    windows: tuple[WindowUse, ...]
    cooldown_seconds: float
    cooldown_reason: str | None


class Ledger(Protocol):
    """What the client needs of a ledger, whatever database keeps it."""

    def acquire(self, call: Call, *, attempt: int, lease: float, run_id: str | None) -> int | Wait:
        """Take a slot and return the request's id, or say how long to wait."""
        ...

    def settle(self, request_id: int, receipt: Receipt) -> None:
        """Record what became of a request."""
        ...

    def refuse(self, request_id: int, retry_after: float | None, reason: str) -> bool:
        """Pause every process after a refusal; False when pausing has been tried for long enough."""
        ...

    def scope_of(self, endpoint: Endpoint) -> str:
        """Return what the limits of an endpoint apply to."""
        ...


def account_scope(endpoint: Endpoint) -> str:
    """All endpoints share the limits: the careful reading of Upstox's "per-API, per-user"."""
    del endpoint
    return "account"


def family_scope(endpoint: Endpoint) -> str:
    """Each family of endpoints has limits of its own: options and futures contracts together."""
    return "contracts" if endpoint.endswith("_contracts") else endpoint


class RequestLedger:
    """The ledger in the state database, shared by every process of the account.

    Args:
        state: The state database.
        limits: The windows, any number of them.
        clock: Source of the current time.
        scope_of: Maps an endpoint to what its limits apply to.
    """

    def __init__(
        self,
        state: StateDatabase,
        limits: tuple[RateLimit, ...],
        *,
        clock: Clock | None = None,
        scope_of: Callable[[Endpoint], str] = account_scope,
    ) -> None:
        """Keep the parts; nothing is opened yet."""
        self._state = state
        self._limits = tuple(sorted(limits))
        self._clock = clock or SystemClock()
        self._scope_of = scope_of

    def scope_of(self, endpoint: Endpoint) -> str:
        """Return what the limits of an endpoint apply to."""
        return self._scope_of(endpoint)

    def acquire(self, call: Call, *, attempt: int = 1, lease: float = 60.0, run_id: str | None = None) -> int | Wait:
        """Take a slot if every window has room and no pause is in force.

        Args:
            call: What will be asked.
            attempt: 1 for the first try of this call.
            lease: Seconds after which a request that was never settled cannot be on its way any more.
            run_id: The run that pays for it.

        Returns:
            The id of the new row, or the wait. A wait is exact when the rows that block have answers; a request
            under way is taken to be answered now, so that asking again after the wait is never too late.
        """
        scope = self._scope_of(call.endpoint)
        params = json.dumps(call.params, separators=(",", ":"), sort_keys=True)
        with self._state.transaction() as connection:
            now = self._clock.now()  # inside the lock, so that rows are in the order of their times
            _pull_back_future_rows(connection, scope, now, lease)
            if pause := connection.execute(_LONGEST_PAUSE, (scope, now)).fetchone():
                return Wait(pause[0] - now, pause[1])
            wait, limit = max(
                ((_seconds_to_slot(connection, scope, limit, now), limit) for limit in self._limits),
                default=(0.0, None),
            )
            if wait > 0:
                return Wait(wait, f"{limit} is used up")
            cursor = connection.execute(
                "INSERT INTO requests (scope, endpoint, target, params, attempt, run_id, pid, started_at, lease_until)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (scope, call.endpoint, call.target, params, attempt, run_id, os.getpid(), now, now + lease),
            )
            if cursor.lastrowid is None:
                raise AssertionError("an INSERT always has a row id")
            return cursor.lastrowid

    def settle(self, request_id: int, receipt: Receipt) -> None:
        """Record what became of a request; without an answer it counts until it cannot be under way any more."""
        with self._state.transaction() as connection:
            connection.execute(
                "UPDATE requests SET outcome = ?, counted_at = ?, status = ?, error_code = ?, bytes = ?, rows = ?,"
                " first_ts = ?, last_ts = ?, latency = ? - started_at, lease_until = min(lease_until, ?)"
                " WHERE id = ?",
                (
                    receipt.outcome,
                    receipt.counted_at,
                    receipt.status,
                    receipt.error_code,
                    receipt.bytes,
                    receipt.rows,
                    receipt.first_ts,
                    receipt.last_ts,
                    receipt.counted_at,
                    self._clock.now() + TRAVEL_SECONDS,
                    request_id,
                ),
            )

    def cool_down(self, scope: str, seconds: float, reason: str) -> None:
        """Let no process take a slot of the scope for that long; a longer pause in force stays."""
        with self._state.transaction() as connection:
            _pause(connection, scope, self._clock.now(), seconds, reason)

    def refuse(self, request_id: int, retry_after: float | None, reason: str) -> bool:
        """Pause every process after the API refused a settled request for coming too fast.

        The server's own wish is honoured. Without one, the n-th refusal in a row waits out the n-th shortest window,
        since it is not known which one was full. Requests that were under way when a pause was set are refused
        together with its cause and do not lengthen it.

        Returns:
            False when asking again is pointless now: the longest window was waited out and the API still refuses,
            or it wishes for a pause longer than that. The pause is set all the same.
        """
        with self._state.transaction() as connection:
            now = self._clock.now()
            scope = connection.execute("SELECT scope FROM requests WHERE id = ?", (request_id,)).fetchone()[0]
            longest = self._limits[-1].seconds if self._limits else 1.0
            pause = connection.execute(_NEWEST_PAUSE, (scope,)).fetchone()
            if pause is not None and request_id <= pause[2]:
                if retry_after is not None:
                    connection.execute(
                        "UPDATE cooldowns SET until = max(until, ?) WHERE id = ?", (now + retry_after, pause[0])
                    )
                return retry_after is None or retry_after <= longest
            in_a_row = connection.execute(_PAUSES_IN_A_ROW, {"scope": scope}).fetchone()[0]
            steps = [limit.seconds for limit in self._limits] or [longest]
            seconds = steps[min(in_a_row, len(steps) - 1)] if retry_after is None else retry_after
            _pause(connection, scope, now, seconds, reason)
            return in_a_row < len(steps) and seconds <= longest

    def budget(self, scope: str = "account") -> Budget:
        """Return how full each window is, for `expirytrack status`; takes no lock and changes nothing."""
        now = self._clock.now()
        windows = []
        for limit in self._limits:
            used = self._state.query(
                "SELECT count(*) FROM requests WHERE scope = ? AND coalesce(counted_at, lease_until) > ?",
                (scope, now - limit.seconds),
            )[0][0]
            rows = self._state.query(_NTH_NEWEST, (scope, limit.requests - 1))
            windows.append(WindowUse(limit, used, _remaining(rows[0] if rows else None, limit, now)))
        pause = (self._state.query(_LONGEST_PAUSE, (scope, now)) or [(now, None)])[0]
        return Budget(tuple(windows), pause[0] - now, pause[1])

    def spent(self, run_id: str) -> int:
        """Return the number of requests that a run has sent, retries included."""
        return int(self._state.query("SELECT count(*) FROM requests WHERE run_id = ?", (run_id,))[0][0])


_NTH_NEWEST = (
    "SELECT coalesce(counted_at, lease_until) FROM requests WHERE scope = ?"
    " ORDER BY coalesce(counted_at, lease_until) DESC LIMIT 1 OFFSET ?"
)
_LONGEST_PAUSE = "SELECT until, reason FROM cooldowns WHERE scope = ? AND until > ? ORDER BY until DESC LIMIT 1"
_NEWEST_PAUSE = "SELECT id, until, newest_request FROM cooldowns WHERE scope = ? ORDER BY id DESC LIMIT 1"
# A success ends the row. Ids, not times, say what came first, so that no jump of the clock can hide a refusal.
_PAUSES_IN_A_ROW = (
    "SELECT count(*) FROM cooldowns WHERE scope = :scope AND newest_request >= coalesce("
    "(SELECT id FROM requests WHERE scope = :scope AND outcome = 'ok' ORDER BY id DESC LIMIT 1), 0)"
)


def _seconds_to_slot(connection: sqlite3.Connection, scope: str, limit: RateLimit, now: float) -> float:
    return _remaining(connection.execute(_NTH_NEWEST, (scope, limit.requests - 1)).fetchone(), limit, now)


def _remaining(nth_newest: tuple[float] | None, limit: RateLimit, now: float) -> float:
    """Return when the window's n-th newest request leaves it; one under way is taken to be answered now."""
    return 0.0 if nth_newest is None else max(0.0, min(nth_newest[0], now) + limit.seconds - now)


def _pause(connection: sqlite3.Connection, scope: str, now: float, seconds: float, reason: str) -> None:
    connection.execute(
        "INSERT INTO cooldowns (scope, set_at, until, reason, newest_request)"
        " VALUES (?, ?, ?, ?, coalesce((SELECT max(id) FROM requests), 0))",
        (scope, now, now + seconds, reason),
    )


def _pull_back_future_rows(connection: sqlite3.Connection, scope: str, now: float, lease: float) -> None:
    """Repair the rows of a clock that has jumped back since; without a jump nothing matches."""
    connection.execute(
        "UPDATE requests SET counted_at = min(counted_at, :now), lease_until = min(lease_until, :now + :lease)"
        " WHERE scope = :scope AND coalesce(counted_at, lease_until) > :now"
        " AND (counted_at > :now OR (counted_at IS NULL AND started_at > :now))",
        {"scope": scope, "now": now, "lease": lease},
    )
    connection.execute(
        "UPDATE cooldowns SET until = :now + (until - set_at), set_at = :now"
        " WHERE scope = :scope AND until > :now AND set_at > :now",
        {"scope": scope, "now": now},
    )
