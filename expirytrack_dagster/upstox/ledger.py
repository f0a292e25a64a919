"""The ledger of requests, which is also the rate limiter: one durable row per HTTP request decides both.

The windows are counted from the very rows that record the requests, so what was spent and what is allowed cannot
disagree. Taking a slot, recording what became of it, shared pauses after a refusal, and the figures for `expirytrack
status` belong here; sending, retrying and queueing belong to `client.py`.

Limits are counted by scope. A scope belongs to an account of the user's own naming, not to a token: Upstox counts by
user, so a new token of the day begins no new window.

**When a request counts.** Upstox counts a request somewhere between its sending and its answer. The answer's arrival
is an upper bound of that instant, and while no answer has come the upper bound is now. So a request occupies a window
of `seconds` from its slot's taking until `seconds` after `counted_at`; then no latency can make the API see more than
`requests` in any window. A request without an answer (a killed process, a broken connection) has `lease_until` for its
bound: `coalesce(counted_at, lease_until)` is the one expression behind every window, and it is indexed.

Within the shortest window, a token bucket (`pacing.py`) spreads the requests. While the circuit breaker (`breaker.py`)
is open, nobody gets a slot. What a jump of the clock does to recorded times is in `scopes.py`.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Literal, Protocol, get_args

from expirytrack_dagster.settings import DEFAULT_ACCOUNT
from expirytrack_dagster.state import StateDatabase, open_state
from expirytrack_dagster.upstox import scopes
from expirytrack_dagster.upstox.breaker import Breaker, Circuit
from expirytrack_dagster.upstox.calls import Call, Endpoint, Receipt
from expirytrack_dagster.upstox.clock import Clock, SystemClock, Uptime, system_uptime
from expirytrack_dagster.upstox.forecast import Forecast
from expirytrack_dagster.upstox.pacing import Bucket

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator

    from expirytrack_dagster.settings import RateLimit, Settings

LOOKED_AT = 50_000
"""Requests that one look for the metrics reads at most; the others are for the next one."""

TRAVEL_SECONDS = 2.0
"""How long a request whose connection broke may still be on its way to the API's counter."""


@dataclass(frozen=True, slots=True)
class Wait:
    """No slot now: ask again after `seconds`, the earliest instant at which one can be free."""

    seconds: float
    reason: str


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


class Ledger(Protocol):
    """What the client needs of a ledger, whatever database keeps it."""

    def acquire(self, call: Call, *, attempt: int, lease: float, run_id: str | None) -> int | Wait:
        """Take a slot and return the request's id, or say how long to wait; raises `CircuitOpen`."""
        ...

    def give_back(self, request_id: int) -> None:
        """Undo the taking of a slot for which nothing was sent."""
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


def scope_of_account(account: str, scope_of: Callable[[Endpoint], str]) -> Callable[[Endpoint], str]:
    """Keep the limits of each account apart: they are those of an Upstox user, whatever token of the day it has.

    An account's name stands for one user (`tokens.TokenStore`). The default one has the scopes without a name.
    """
    return scope_of if account == DEFAULT_ACCOUNT else partial(_named_scope, account, scope_of)


def _named_scope(account: str, scope_of: Callable[[Endpoint], str], endpoint: Endpoint) -> str:
    return f"{scope_of(endpoint)} of {account}"


class RequestLedger:
    """The ledger in the state database, shared by every process of the account.

    Args:
        state: The state database.
        limits: The windows, any number of them.
        clock: Source of the current time.
        uptime: Seconds that nobody can set, to see jumps of the clock; the system's own if `clock` is too, else none.
        scope_of: Maps an endpoint to what its limits apply to.
        burst: Requests that may leave at the same instant, before the shortest window's rate paces them; None: all
            that the window holds.
        breaker: The rules of the circuit breaker.
    """

    def __init__(
        self,
        state: StateDatabase,
        limits: tuple[RateLimit, ...],
        *,
        clock: Clock | None = None,
        uptime: Callable[[], Uptime] | None = None,
        scope_of: Callable[[Endpoint], str] = account_scope,
        burst: int | None = None,
        breaker: Breaker | None = None,
    ) -> None:
        """Keep the parts; nothing is opened yet."""
        self._state = state
        self._limits = tuple(sorted(limits))
        self._longest = self._limits[-1].seconds if self._limits else 0.0
        self._clock = clock or SystemClock()
        self._uptime = uptime or (system_uptime if clock is None else None)
        self._scope_of = scope_of
        self._breaker = breaker or Breaker()
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

    def acquire(self, call: Call, *, attempt: int = 1, lease: float = 60.0, run_id: str | None = None) -> int | Wait:
        """Take a slot if every window and the bucket have room, no pause is in force, and the circuit lets it through.

        Args:
            call: What will be asked.
            attempt: 1 for the first try of this call.
            lease: Seconds after which a request that was never settled cannot be on its way any more.
            run_id: The run that pays for it.

        Returns:
            The id of the new row, or the wait. A wait is exact when the rows that block have answers; a request
            under way is taken to be answered now, so that asking again after the wait is never too late.

        Raises:
            CircuitOpen: too many requests failed in a row; the sentence says until when nobody asks.
        """
        scope = self._scope_of(call.endpoint)
        params = json.dumps(call.params, separators=(",", ":"), sort_keys=True)
        with self._state.transaction() as connection:
            now, row = self._enter(connection, scope)
            scopes.pull_back(connection, scope, now, lease)
            if pause := connection.execute(_LONGEST_PAUSE, (scope, now)).fetchone():
                return Wait(pause[0] - now, pause[1])
            circuit = row.circuit
            held = self._breaker.seconds_to_wait(circuit, now, scopes.probe_lease(connection, circuit, now))
            if held > 0:
                return Wait(held, f"answers failed ({circuit.reason})")
            wait, reason = max(self._waits(connection, scope, row.paced_until, now), default=(0.0, ""))
            if wait > 0:
                return Wait(wait, reason)
            if self._bucket is not None:
                scopes.save_pace(connection, scope, self._bucket.without_token(row.paced_until, now))
            cursor = connection.execute(
                "INSERT INTO requests (scope, endpoint, target, params, attempt, run_id, pid, started_at, lease_until)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (scope, call.endpoint, call.target, params, attempt, run_id, os.getpid(), now, now + lease),
            )
            if cursor.lastrowid is None:
                raise AssertionError("an INSERT always has a row id")
            if circuit.openings:
                scopes.save_circuit(connection, scope, replace(circuit, probe=cursor.lastrowid))
            return cursor.lastrowid

    def give_back(self, request_id: int) -> None:
        """Undo the taking of a slot for which nothing was sent: no request, no row."""
        with self._state.transaction() as connection:
            gone = connection.execute("DELETE FROM requests WHERE id = ? RETURNING scope", (request_id,)).fetchone()
            row = scopes.load(connection, gone[0]) if gone else None
            if row is not None and self._bucket is not None:
                scopes.save_pace(connection, gone[0], row.paced_until - self._bucket.interval)
            if row is not None and row.circuit.probe == request_id:
                scopes.save_circuit(connection, gone[0], replace(row.circuit, probe=None))

    def settle(self, request_id: int, receipt: Receipt) -> None:
        """Record what became of a request; without an answer it counts until it cannot be under way any more."""
        with self._state.transaction() as connection:
            found = connection.execute("SELECT scope, attempt FROM requests WHERE id = ?", (request_id,)).fetchone()
            if found is None:  # a damaged database was replaced in the meantime
                return
            scope, attempt = found
            now, row = self._enter(connection, scope)
            connection.execute(
                # An answer cannot come before its question: it was read before a jump of the clock that is known now.
                "UPDATE requests SET outcome = ?, counted_at = max(?, started_at), status = ?, error_code = ?,"
                " bytes = ?, rows = ?, first_ts = ?, last_ts = ?, latency = max(? - started_at, 0),"
                " lease_until = min(lease_until, ?) WHERE id = ?",
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
                    now + TRAVEL_SECONDS,
                    request_id,
                ),
            )
            circuit = self._breaker.after(row.circuit, request_id, receipt, first_try=attempt == 1, now=now)
            if circuit != row.circuit:
                scopes.save_circuit(connection, scope, circuit)

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
            found = connection.execute("SELECT scope FROM requests WHERE id = ?", (request_id,)).fetchone()
            if found is None:  # as in `settle`: the new database begins with a pause of its own
                return True
            scope, longest = found[0], self._longest or 1.0
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
        known = self._state.query(scopes.SELECT, (scope,))
        circuit = Circuit(*known[0][4:]) if known else Circuit()
        lost_at = None if known else self._state.query(scopes.LOST_AT, (now,))[0][0]
        windows = []
        for limit in self._limits:
            used = self._state.query(
                "SELECT count(*) FROM requests WHERE scope = ? AND coalesce(counted_at, lease_until) > ?",
                (scope, now - limit.seconds),
            )[0][0]
            rows = self._state.query(_NTH_NEWEST, (scope, limit.requests - 1))
            windows.append(WindowUse(limit, used, _remaining(rows[0] if rows else None, limit, now)))
        pauses = self._state.query(_LONGEST_PAUSE, (scope, now))
        if lost_at is not None and lost_at + self._longest > now:
            pauses = [(lost_at + self._longest, scopes.LOST)]
        until, reason = pauses[0] if pauses else (now, None)
        left = max(0.0, circuit.open_until - now)
        return Budget(tuple(windows), until - now, reason, circuit, circuit.state(now), left)

    def forecast(self, scope: str = "account") -> Forecast:
        """Return what says when requests to come can leave; takes no lock and changes nothing."""
        now, budget = self._clock.now(), self.budget(scope)
        known = self._state.query(scopes.SELECT, (scope,))
        held = max([limit.requests for limit in self._limits], default=0)
        counted = [min(row[0], now) for row in self._state.query(_NEWEST, (scope, held))]
        start = now + max(budget.cooldown_seconds, budget.circuit_seconds)
        paced_until = known[0][0] if known else now
        return Forecast(self._limits, tuple(reversed(counted)), start, self._bucket, paced_until)

    def is_closed_to_all(self) -> bool:
        """Say whether a request of some scope would raise `CircuitOpen` now, so that work need not be begun."""
        budgets = [self.budget(scope) for scope in self.all_scopes()]
        return any(budget.circuit_state == "open" and budget.circuit.openings > 1 for budget in budgets)

    def last_answer(self, endpoint: Endpoint, target: str) -> float | None:
        """Return when this was last answered well (seconds since the epoch), None if it never was."""
        rows = self._state.query(
            "SELECT counted_at FROM requests WHERE endpoint = ? AND target = ? AND outcome = 'ok'"
            " ORDER BY id DESC LIMIT 1",
            (endpoint, target),
        )
        return float(rows[0][0]) if rows else None

    def bytes_a_row(self) -> float | None:
        """Return the size of a candle on its way, of the newest answers; None before the first."""
        rows = self._state.query(
            "SELECT sum(bytes) * 1.0 / sum(rows) FROM (SELECT bytes, rows FROM requests"
            " WHERE endpoint = 'candles' AND outcome = 'ok' AND rows > 0 ORDER BY id DESC LIMIT 1000)"
        )
        return rows[0][0] if rows else None

    def refused_at(self) -> float | None:
        """Return when the token or the plan was refused (seconds since the epoch), None if the last answer was none."""
        rows = self._state.query(
            "SELECT status, counted_at FROM requests WHERE outcome IN ('ok', 'http_error')"
            " AND scope IN (SELECT value FROM json_each(?)) ORDER BY id DESC LIMIT 1",
            (json.dumps(self.all_scopes()),),
        )
        return float(rows[0][1]) if rows and rows[0][0] == HTTPStatus.UNAUTHORIZED else None

    def spent(self, run_id: str) -> int:
        """Return the number of requests that a run has sent, retries included."""
        return int(self._state.query("SELECT count(*) FROM requests WHERE run_id = ?", (run_id,))[0][0])

    def _enter(self, connection: sqlite3.Connection, scope: str) -> tuple[float, scopes.ScopeRow]:
        """Return the time, read inside the lock so that rows are in the order of their times, and the scope's row."""
        now, up = self._clock.now(), self._uptime() if self._uptime else None
        row = scopes.load(connection, scope) or scopes.begin(connection, scope, now, up, self._longest)
        if up is not None and scopes.follow_clock(connection, scope, row, now, up, self._longest):
            row = scopes.load(connection, scope) or row
        if row.circuit.open_until > (latest := now + self._breaker.longest_pause):  # a jump back that nobody saw
            row = replace(row, circuit=replace(row.circuit, open_until=latest))
            scopes.save_circuit(connection, scope, row.circuit)
        return now, row

    def _waits(
        self, connection: sqlite3.Connection, scope: str, paced_until: float, now: float
    ) -> Iterator[tuple[float, str]]:
        """Yield how long each window, and the bucket, hold the next request back."""
        for limit in self._limits:
            nth_newest = connection.execute(_NTH_NEWEST, (scope, limit.requests - 1)).fetchone()
            yield _remaining(nth_newest, limit, now), f"{limit} is used up"
        if self._bucket is not None:
            yield self._bucket.seconds_to_token(paced_until, now), f"{self._limits[0]} is paced"


def open_ledger(settings: Settings, clock: Clock | None = None) -> RequestLedger:
    """Return the ledger that the settings describe: the one way in which the program builds it.

    `clock` is the system's unless a test brings its own.
    """
    # Processes take turns at this database many times a second: to wait for less than that would fail in ordinary work.
    return RequestLedger(
        open_state(settings, timeout=max(1.0, settings.lock_timeout)),
        settings.rate_limits,
        clock=clock,
        scope_of=scope_of_account(settings.account, family_scope if settings.rate_scope == "family" else account_scope),
        burst=settings.rate_burst,
        breaker=Breaker(settings.breaker_failures, settings.breaker_pause),
    )


def ended_since(
    connection: sqlite3.Connection, upto: int, under_way: list[int], now: float
) -> tuple[list[Booked], int, list[int]]:
    """Return the requests that have ended since a look at the ledger, for the metrics, and where the next look begins.

    A request has ended when it is settled, or when it cannot be under way any more because its process was killed.

    Args:
        connection: inside a transaction of the state database.
        upto: the highest id of the last look.
        under_way: the ids up to it that had not ended then.
        now: seconds since the epoch.

    Returns:
        At most `LOOKED_AT` requests, the highest id looked at, and the ids up to it that have not ended.
    """
    rows = connection.execute(_SINCE, {"upto": upto, "under_way": json.dumps(under_way), "limit": LOOKED_AT}).fetchall()
    ended = [row for row in rows if row[1] is not None or row[2] <= now]
    booked = [Booked(*row[3:]) for row in ended]
    return booked, max([upto, *(row[0] for row in rows)]), [row[0] for row in rows if row[1] is None and row[2] > now]


_SINCE = (
    "SELECT id, outcome, lease_until, run_id, endpoint, attempt, status, latency, coalesce(bytes, 0) FROM requests"
    " WHERE id > :upto OR id IN (SELECT value FROM json_each(:under_way)) ORDER BY id LIMIT :limit"
)
_NTH_NEWEST = (
    "SELECT coalesce(counted_at, lease_until) FROM requests WHERE scope = ?"
    " ORDER BY coalesce(counted_at, lease_until) DESC LIMIT 1 OFFSET ?"
)
_NEWEST = (
    "SELECT coalesce(counted_at, lease_until) FROM requests WHERE scope = ?"
    " ORDER BY coalesce(counted_at, lease_until) DESC LIMIT ?"
)
_LONGEST_PAUSE = "SELECT until, reason FROM cooldowns WHERE scope = ? AND until > ? ORDER BY until DESC LIMIT 1"
_NEWEST_PAUSE = "SELECT id, until, newest_request FROM cooldowns WHERE scope = ? ORDER BY id DESC LIMIT 1"
# A success ends the row. Ids, not times, say what came first, so that no jump of the clock can hide a refusal.
_PAUSES_IN_A_ROW = (
    "SELECT count(*) FROM cooldowns WHERE scope = :scope AND newest_request >= coalesce("
    "(SELECT id FROM requests WHERE scope = :scope AND outcome = 'ok' ORDER BY id DESC LIMIT 1), 0)"
)


def _remaining(nth_newest: tuple[float] | None, limit: RateLimit, now: float) -> float:
    """Return when the window's n-th newest request leaves it; one under way is taken to be answered now."""
    return 0.0 if nth_newest is None else max(0.0, min(nth_newest[0], now) + limit.seconds - now)


def _pause(connection: sqlite3.Connection, scope: str, now: float, seconds: float, reason: str) -> None:
    connection.execute(
        "INSERT INTO cooldowns (scope, set_at, until, reason, newest_request)"
        " VALUES (?, ?, ?, ?, coalesce((SELECT max(id) FROM requests), 0))",
        (scope, now, now + seconds, reason),
    )
