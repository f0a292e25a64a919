"""The row of a scope in the state database: token bucket, circuit, and what its clock showed.

Locking, reading and writing that row, and moving a scope's recorded times when the clock jumps, belong here. All
functions run in a transaction of the caller, `ledger.py`, which decides what the numbers mean for a request. The row's
lock is what makes the requests of a scope come one after another, and leaves other scopes alone.

**A clock that jumps** would make old requests look older or younger than they are. The row keeps the wall clock and the
machine's uptime of one instant; when the two have moved apart, the clock has jumped by the difference, and all times of
the scope that still matter move with it, so that windows stay as long as they are. This works as long as the boot is
known to be the same: on Linux for all processes, elsewhere for one process at a time. After a boot, the wall clock is
believed, but for what lies in the future: that happened at the latest now. So no wait is longer than one full window.

Where several hosts share the database, the server's clock decides instead (`state/tables.py`, `moment`), no uptime is
kept, and what a host's own clock shows does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, case, func, insert, select, update

from expirytrack_dagster.state.tables import cooldowns, losses, requests, scopes
from expirytrack_dagster.upstox.breaker import Circuit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement, Connection, Select

    from expirytrack_dagster.upstox.clock import Uptime

JUMP = 0.1
"""Seconds by which clock and uptime must have moved apart to be a jump: far more than lies between two readings."""

COUNTS_AT = func.coalesce(requests.c.counted_at, requests.c.lease_until)
"""Until when a request counts from at the latest, as the index of the windows has it."""

LOST = "the record of earlier requests was damaged, so all windows are taken for full"

SELECT = select(
    scopes.c.paced_until,
    scopes.c.boot,
    scopes.c.wall,
    scopes.c.uptime,
    scopes.c.failures,
    scopes.c.openings,
    scopes.c.open_until,
    scopes.c.open_reason,
    scopes.c.probe,
).where(scopes.c.scope == bindparam("scope"))
LOST_AT = select(func.max(losses.c.lost_at))

_LOCK = SELECT.with_for_update()
_LOCK_OF_REQUEST: Select[Any] = (
    select(requests.c.scope, requests.c.attempt, *SELECT.selected_columns)
    .join_from(requests, scopes, scopes.c.scope == requests.c.scope)
    .where(requests.c.id == bindparam("id"))
    .with_for_update(of=scopes)
)
_LOCK_ALL = select(scopes.c.scope).with_for_update()
_BEGIN = insert(scopes)
_ANCHOR = update(scopes).where(scopes.c.scope == bindparam("of"))
_PACE = _ANCHOR.values(paced_until=bindparam("until"))
_DRIFT: ColumnElement[float] = bindparam("drift")
_MOVE_REQUESTS = (
    update(requests)
    .where(requests.c.scope == bindparam("of"), bindparam("oldest") < COUNTS_AT)
    .values(
        started_at=requests.c.started_at + _DRIFT,
        lease_until=requests.c.lease_until + _DRIFT,
        counted_at=requests.c.counted_at + _DRIFT,
    )
)
_MOVE_PAUSES = (
    update(cooldowns)
    .where(cooldowns.c.scope == bindparam("of"), cooldowns.c.until > bindparam("ended"))
    .values(set_at=cooldowns.c.set_at + _DRIFT, until=cooldowns.c.until + _DRIFT)
)
_MOVE_SCOPE = _ANCHOR.values(paced_until=scopes.c.paced_until + _DRIFT, open_until=scopes.c.open_until + _DRIFT)
_NOW: ColumnElement[float] = bindparam("now")
_LATEST: ColumnElement[float] = bindparam("now") + bindparam("lease")
_PULL_REQUESTS = (
    update(requests)
    .where(
        requests.c.scope == bindparam("of"),
        COUNTS_AT > _NOW,
        (requests.c.counted_at > _NOW) | (requests.c.counted_at.is_(None) & (requests.c.started_at > _NOW)),
    )
    .values(
        counted_at=case((requests.c.counted_at > _NOW, _NOW), else_=requests.c.counted_at),
        lease_until=case((requests.c.lease_until > _LATEST, _LATEST), else_=requests.c.lease_until),
    )
)
_PULL_PAUSES = (
    update(cooldowns)
    .where(cooldowns.c.scope == bindparam("of"), cooldowns.c.until > _NOW, cooldowns.c.set_at > _NOW)
    .values(until=_NOW + (cooldowns.c.until - cooldowns.c.set_at), set_at=_NOW)
)
_PROBE = select(requests.c.lease_until).where(requests.c.id == bindparam("probe"), requests.c.outcome.is_(None))


@dataclass(frozen=True, slots=True)
class ScopeRow:
    """What all processes agree on; `paced_until` is when the token bucket is full again."""

    paced_until: float
    boot: str
    wall: float
    uptime: float
    circuit: Circuit


def lock(connection: Connection, scope: str) -> ScopeRow | None:
    """Keep others from the scope until the transaction ends; return its row, None before its first request."""
    row = connection.execute(_LOCK, {"scope": scope}).one_or_none()
    return None if row is None else _of_row(row)


def lock_of_request(connection: Connection, request_id: int) -> tuple[str, int, ScopeRow] | None:
    """Do the same for the scope of a request; return the scope, the request's attempt and the row.

    None if there is no such request: a damaged database was replaced in the meantime.
    """
    row = connection.execute(_LOCK_OF_REQUEST, {"id": request_id}).one_or_none()
    return None if row is None else (row[0], row[1], _of_row(row[2:]))


def lock_all(connection: Connection) -> None:
    """Keep others from every scope until the transaction ends; it is alone, so that no scope is made meanwhile.

    A request has its number before it is committed: behind these locks, all that have one are seen.
    """
    connection.execute(_LOCK_ALL).all()


def begin(connection: Connection, scope: str, now: float, up: Uptime | None, longest: float) -> None:
    """Make the row unless it is there; where a damaged database was replaced, all windows are full at that moment."""
    if lock(connection, scope) is not None:
        return
    boot, uptime = up or ("", 0.0)
    connection.execute(
        _BEGIN, {"scope": scope, "paced_until": now, "boot": boot, "wall": now, "uptime": uptime} | _CLOSED
    )
    lost_at = connection.execute(LOST_AT).scalar_one()
    if lost_at is not None and min(lost_at, now) + longest > now:
        pause = {"scope": scope, "set_at": now, "until": min(lost_at, now) + longest, "reason": LOST}
        connection.execute(insert(cooldowns), pause | {"newest_request": 0})


def follow_clock(connection: Connection, scope: str, row: ScopeRow, now: float, up: Uptime, longest: float) -> ScopeRow:
    """Move the scope's times by as much as the wall clock has jumped since the last look; return the row after it."""
    drift = (now - row.wall) - (up.seconds - row.uptime)
    same_boot = up.boot == row.boot
    if same_boot and abs(drift) < JUMP:
        return row
    connection.execute(_ANCHOR.values(boot=up.boot, wall=now, uptime=up.seconds), {"of": scope})
    if same_boot:
        before = now - drift  # what the clock would show without the jump; after one back, later times are the future
        values = {"of": scope, "drift": drift, "ended": min(before, now), "oldest": min(before - longest, now)}
        for statement in (_MOVE_REQUESTS, _MOVE_PAUSES, _MOVE_SCOPE):
            connection.execute(statement, values)
    return lock(connection, scope) or row


def pull_back(connection: Connection, scope: str, now: float, lease: float) -> None:
    """Repair times that lie in the future, for jumps that `follow_clock` could not see; else nothing matches."""
    values = {"of": scope, "now": now, "lease": lease}
    for statement in (_PULL_REQUESTS, _PULL_PAUSES):
        connection.execute(statement, values)


def save_pace(connection: Connection, scope: str, paced_until: float) -> None:
    """Write when the token bucket is full again."""
    connection.execute(_PACE, {"of": scope, "until": paced_until})


def save_circuit(connection: Connection, scope: str, circuit: Circuit) -> None:
    """Write the state of the circuit."""
    connection.execute(
        _ANCHOR.values(
            failures=circuit.failures,
            openings=circuit.openings,
            open_until=circuit.open_until,
            open_reason=circuit.reason,
            probe=circuit.probe,
        ),
        {"of": scope},
    )


def probe_lease(connection: Connection, circuit: Circuit, now: float) -> float | None:
    """Return for how many seconds the circuit's probe may still be under way, None if none is."""
    if circuit.probe is None:
        return None
    until = connection.execute(_PROBE, {"probe": circuit.probe}).scalar_one_or_none()
    return until - now if until is not None and until > now else None


_CLOSED = {"failures": 0, "openings": 0, "open_until": 0.0, "open_reason": ""}


def _of_row(row: Sequence[Any]) -> ScopeRow:
    paced_until, boot, wall, uptime, *circuit = row
    return ScopeRow(paced_until, boot, wall, uptime, Circuit(*circuit))
