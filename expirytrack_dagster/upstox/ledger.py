"""The ledger of requests, which is also the rate limiter: one durable row per HTTP request decides both.

The windows are counted from the very rows that record the requests, so what was spent and what is allowed cannot
disagree. Taking a slot, recording what became of it, and shared pauses after a refusal belong here; looking at what is
spent and left, to `budget.py`; sending, retrying and queueing, to `client.py`.

Limits are counted by scope. A scope belongs to an account of the user's own naming, not to a token: Upstox counts by
user, so a new token of the day begins no new window.

**When a request counts.** Upstox counts a request somewhere between its sending and its answer. The answer's arrival
is an upper bound of that instant, and while no answer has come the upper bound is now. So a request occupies a window
of `seconds` from its slot's taking until `seconds` after `counted_at`; then no latency can make the API see more than
`requests` in any window. A request without an answer (a killed process, a broken connection) has `lease_until` for its
bound: `coalesce(counted_at, lease_until)` is the one expression behind every window, and it is indexed.

**Whose time.** Where hosts share the database, its server's clock decides. An answer's arrival is known by this host's
clock alone: what has passed since then, by the same clock, is taken from the server's time when it is booked, which
reads that time after this host has read its own. So the bound is never too early, however wrong the clocks are.

Within the shortest window, a token bucket (`pacing.py`) spreads the requests. While the circuit breaker (`breaker.py`)
is open, nobody gets a slot. What a jump of the clock does to recorded times is in `scopes.py`.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy import Double, Update, bindparam, case, delete, func, insert, select, update

from expirytrack_dagster.settings import DEFAULT_ACCOUNT
from expirytrack_dagster.state import open_state
from expirytrack_dagster.state.tables import cooldowns, metered, moment, requests, server_time
from expirytrack_dagster.upstox import scopes
from expirytrack_dagster.upstox.breaker import Breaker
from expirytrack_dagster.upstox.budget import LedgerReader, remaining
from expirytrack_dagster.upstox.clock import Clock, Uptime, system_uptime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Connection, Select

    from expirytrack_dagster.settings import RateLimit, Settings
    from expirytrack_dagster.state import StateDatabase
    from expirytrack_dagster.upstox.calls import Call, Endpoint, Receipt
    from expirytrack_dagster.upstox.scopes import ScopeRow

TRAVEL_SECONDS = 2.0
"""How long a request whose connection broke may still be on its way to the API's counter."""


@dataclass(frozen=True, slots=True)
class Wait:
    """No slot now: ask again after `seconds`, the earliest instant at which one can be free."""

    seconds: float
    reason: str


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


class RequestLedger(LedgerReader):
    """The ledger in the state database, shared by every process of the account.

    Args:
        state: The state database.
        limits: The windows, any number of them.
        clock: This host's clock; it decides where the database has no clock of its own.
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
        super().__init__(state, limits, clock=clock, scope_of=scope_of, burst=burst)
        self._uptime = uptime or (system_uptime if clock is None and not state.has_clock else None)
        self._breaker = breaker or Breaker()
        self._look = _look([limit.requests for limit in self._limits])

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
        asked = {
            "scope": scope,
            "endpoint": call.endpoint,
            "target": call.target,
            "params": json.dumps(call.params, separators=(",", ":"), sort_keys=True),
            "attempt": attempt,
            "run_id": run_id,
            "pid": os.getpid(),
        }
        while True:
            taken = self._state.write(lambda connection: self._take(connection, scope, asked, lease), alone=False)
            if taken is not None:
                return taken
            self._state.write(lambda connection: self._begin(connection, scope))

    def _begin(self, connection: Connection, scope: str) -> None:
        """Make the row of a scope."""
        local, up = self._clock.now(), self._uptime() if self._uptime else None
        now = connection.execute(_MOMENT, {"now": local}).scalar_one()
        scopes.begin(connection, scope, now, up, self._longest)

    def _take(self, connection: Connection, scope: str, asked: dict[str, object], lease: float) -> int | Wait | None:
        """Return what `acquire` does; None before the scope's first request."""
        row = scopes.lock(connection, scope)
        if row is None:
            return None
        local, row = self._followed(connection, scope, row)
        look = connection.execute(self._look, {"scope": scope, "now": local}).one()
        now, amiss, pause_until, pause_reason, *counted = look
        if amiss:
            scopes.pull_back(connection, scope, now, lease)
            _, _, pause_until, pause_reason, *counted = connection.execute(
                self._look, {"scope": scope, "now": local}
            ).one()
        row = self._sane(connection, scope, row, now)
        if pause_until is not None and pause_until > now:
            return Wait(pause_until - now, pause_reason)
        circuit = row.circuit
        held = self._breaker.seconds_to_wait(circuit, now, scopes.probe_lease(connection, circuit, now))
        if held > 0:
            return Wait(held, f"answers failed ({circuit.reason})")
        wait, reason = max(self._waits(counted, row.paced_until, now), default=(0.0, ""))
        if wait > 0:
            return Wait(wait, reason)
        if self._bucket is not None:
            scopes.save_pace(connection, scope, self._bucket.without_token(row.paced_until, now))
        slot: int = connection.execute(_INSERT, asked | {"started_at": now, "lease_until": now + lease}).scalar_one()
        if circuit.openings:
            scopes.save_circuit(connection, scope, replace(circuit, probe=slot))
        return slot

    def give_back(self, request_id: int) -> None:
        """Undo the taking of a slot for which nothing was sent: no request, no row."""

        def work(connection: Connection) -> None:
            found = scopes.lock_of_request(connection, request_id)
            if found is None:
                return
            scope, _, row = found
            connection.execute(_DELETE, {"request": request_id})
            connection.execute(_UNSEEN)
            if self._bucket is not None:
                scopes.save_pace(connection, scope, row.paced_until - self._bucket.interval)
            if row.circuit.probe == request_id:
                scopes.save_circuit(connection, scope, replace(row.circuit, probe=None))

        self._state.write(work, alone=False)

    def settle(self, request_id: int, receipt: Receipt) -> None:
        """Record what became of a request; without an answer it counts until it cannot be under way any more."""

        def work(connection: Connection) -> None:
            found = scopes.lock_of_request(connection, request_id)
            if found is None:  # a damaged database was replaced in the meantime
                return
            scope, attempt, row = found
            local, row = self._followed(connection, scope, row)
            counted_at = receipt.counted_at
            booked = {
                "request": request_id,
                "now": local,
                "local_counted": counted_at,
                "since": None if counted_at is None else max(0.0, local - counted_at),
                "outcome": receipt.outcome,
                "status": receipt.status,
                "error_code": receipt.error_code,
                "bytes": receipt.bytes,
                "rows": receipt.rows,
                "first_ts": receipt.first_ts,
                "last_ts": receipt.last_ts,
            }
            now = connection.execute(_SETTLE, booked).scalar_one()
            row = self._sane(connection, scope, row, now)
            circuit = self._breaker.after(row.circuit, request_id, receipt, first_try=attempt == 1, now=now)
            if circuit != row.circuit:
                scopes.save_circuit(connection, scope, circuit)

        self._state.write(work, alone=False)

    def cool_down(self, scope: str, seconds: float, reason: str) -> None:
        """Let no process take a slot of the scope for that long; a longer pause in force stays."""

        def work(connection: Connection) -> None:
            _pause(connection, scope, self._now(connection), seconds, reason)

        self._state.write(work)

    def refuse(self, request_id: int, retry_after: float | None, reason: str) -> bool:
        """Pause every process after the API refused a settled request for coming too fast.

        The server's own wish is honoured. Without one, the n-th refusal in a row waits out the n-th shortest window,
        since it is not known which one was full. Requests that were under way when a pause was set are refused
        together with its cause and do not lengthen it.

        Returns:
            False when asking again is pointless now: the longest window was waited out and the API still refuses,
            or it wishes for a pause longer than that. The pause is set all the same.
        """
        return self._state.write(
            lambda connection: self._refuse(connection, request_id, retry_after, reason), alone=False
        )

    def _refuse(self, connection: Connection, request_id: int, retry_after: float | None, reason: str) -> bool:
        found = scopes.lock_of_request(connection, request_id)
        if found is None:  # as in `settle`: the new database begins with a pause of its own
            return True
        scope, longest, now = found[0], self._longest or 1.0, self._now(connection)
        pause = connection.execute(_NEWEST_PAUSE, {"scope": scope}).one_or_none()
        if pause is not None and request_id <= pause.newest_request:
            if retry_after is not None and now + retry_after > pause.until:
                connection.execute(_LENGTHEN, {"pause": pause.id, "later": now + retry_after})
            return retry_after is None or retry_after <= longest
        in_a_row = connection.execute(_PAUSES_IN_A_ROW, {"scope": scope}).scalar_one()
        steps = [limit.seconds for limit in self._limits] or [longest]
        seconds = steps[min(in_a_row, len(steps) - 1)] if retry_after is None else retry_after
        _pause(connection, scope, now, seconds, reason)
        return in_a_row < len(steps) and seconds <= longest

    def _now(self, connection: Connection) -> float:
        """Return the time that all processes share, read inside the lock so that rows are in the order of times."""
        return float(connection.execute(_MOMENT, {"now": self._clock.now()}).scalar_one())

    def _followed(self, connection: Connection, scope: str, row: ScopeRow) -> tuple[float, ScopeRow]:
        """Return this host's time, and the scope's row after a jump of this clock was followed."""
        local, up = self._clock.now(), self._uptime() if self._uptime else None
        if up is not None:
            row = scopes.follow_clock(connection, scope, row, local, up, self._longest)
        return local, row

    def _sane(self, connection: Connection, scope: str, row: ScopeRow, now: float) -> ScopeRow:
        """Return the row with an opening of the circuit that is no longer than the longest."""
        if row.circuit.open_until > (latest := now + self._breaker.longest_pause):  # a jump back that nobody saw
            row = replace(row, circuit=replace(row.circuit, open_until=latest))
            scopes.save_circuit(connection, scope, row.circuit)
        return row

    def _waits(self, counted: list[float | None], paced_until: float, now: float) -> Iterator[tuple[float, str]]:
        """Yield how long each window, and the bucket, hold the next request back."""
        for limit, nth_newest in zip(self._limits, counted, strict=True):
            yield remaining(nth_newest, limit, now), f"{limit} is used up"
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


def _look(nths: list[int]) -> Select[Any]:
    """Return what decides about a slot as one statement: time, whether times lie in the future, pause, windows.

    Of each window it is when its n-th newest request counts, counted back from the newest.
    """
    of_scope, now = requests.c.scope == bindparam("scope"), moment()
    paused = cooldowns.c.scope == bindparam("scope")
    later = (requests.c.counted_at > now) | (requests.c.counted_at.is_(None) & (requests.c.started_at > now))
    amiss = select(requests.c.id).where(of_scope, now < scopes.COUNTS_AT, later).exists()
    pauses_amiss = select(cooldowns.c.id).where(paused, cooldowns.c.until > now, cooldowns.c.set_at > now).exists()
    longest = select(cooldowns.c.until).where(paused).order_by(cooldowns.c.until.desc()).limit(1)
    newest = select(scopes.COUNTS_AT).where(of_scope).order_by(scopes.COUNTS_AT.desc()).limit(1)
    return select(
        now,
        amiss | pauses_amiss,
        longest.scalar_subquery(),
        longest.with_only_columns(cooldowns.c.reason).scalar_subquery(),
        *(newest.offset(number - 1).scalar_subquery() for number in nths),
    )


def _settle() -> Update:
    """Return the statement that books what became of a request and returns the time.

    An answer cannot come before its question: it was read before a jump of the clock that is known now. Where the
    arrival is unknown (null), a comparison with it is not true.
    """
    row, travelled = requests.c, moment() + TRAVEL_SECONDS
    arrived = func.coalesce(server_time() - bindparam("since", type_=Double), bindparam("local_counted", type_=Double))
    counted = case((arrived < row.started_at, row.started_at), else_=arrived)
    return (
        update(requests)
        .where(row.id == bindparam("request"))
        .values(
            counted_at=counted,
            latency=counted - row.started_at,
            lease_until=case((row.lease_until > travelled, travelled), else_=row.lease_until),
            **{name: bindparam(name) for name in ("outcome", "status", "error_code", "bytes", "rows")},
            first_ts=bindparam("first_ts"),
            last_ts=bindparam("last_ts"),
        )
        .returning(moment())
    )


_MOMENT = select(moment())
_INSERT = insert(requests).returning(requests.c.id)
_DELETE = delete(requests).where(requests.c.id == bindparam("request"))
# SQLite gives the number of a newest row that is gone to the next one, which whoever counts must not take for counted.
_LAST = select(func.coalesce(func.max(requests.c.id), 0)).scalar_subquery()
_UNSEEN = update(metered).where(metered.c.upto > _LAST).values(upto=_LAST)
_SETTLE = _settle()
_NEWEST_PAUSE = (
    select(cooldowns.c.id, cooldowns.c.until, cooldowns.c.newest_request)
    .where(cooldowns.c.scope == bindparam("scope"))
    .order_by(cooldowns.c.id.desc())
    .limit(1)
)
_LENGTHEN = update(cooldowns).where(cooldowns.c.id == bindparam("pause")).values(until=bindparam("later"))
# A success ends the row. Ids, not times, say what came first, so that no jump of the clock can hide a refusal.
_LAST_SUCCESS = (
    select(requests.c.id)
    .where(requests.c.scope == bindparam("scope"), requests.c.outcome == "ok")
    .order_by(requests.c.id.desc())
    .limit(1)
)
_PAUSES_IN_A_ROW = select(func.count()).where(
    cooldowns.c.scope == bindparam("scope"),
    cooldowns.c.newest_request >= func.coalesce(_LAST_SUCCESS.scalar_subquery(), 0),
)
_NEWEST_REQUEST = select(func.coalesce(func.max(requests.c.id), 0))


def _pause(connection: Connection, scope: str, now: float, seconds: float, reason: str) -> None:
    newest = connection.execute(_NEWEST_REQUEST).scalar_one()
    pause = {"scope": scope, "set_at": now, "until": now + seconds, "reason": reason, "newest_request": newest}
    connection.execute(insert(cooldowns), pause)
