"""The row of a scope in the state database: token bucket, circuit, and what its clock showed.

Reading and writing that row, and moving a scope's recorded times when the clock jumps, belong here. All functions run
in a transaction of the caller, `ledger.py`, which decides what the numbers mean for a request.

**A clock that jumps** would make old requests look older or younger than they are. The row keeps the wall clock and the
machine's uptime of one instant; when the two have moved apart, the clock has jumped by the difference, and all times of
the scope that still matter move with it, so that windows stay as long as they are. This works as long as the boot is
known to be the same: on Linux for all processes, elsewhere for one process at a time. After a boot, the wall clock is
believed, but for what lies in the future: that happened at the latest now. So no wait is longer than one full window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from expirytrack_dagster.upstox.breaker import Circuit

if TYPE_CHECKING:
    import sqlite3

    from expirytrack_dagster.upstox.clock import Uptime

JUMP = 0.1
"""Seconds by which clock and uptime must have moved apart to be a jump: far more than lies between two readings."""


@dataclass(frozen=True, slots=True)
class ScopeRow:
    """What all processes agree on; `paced_until` is when the token bucket is full again."""

    paced_until: float
    boot: str
    wall: float
    uptime: float
    circuit: Circuit


def load(connection: sqlite3.Connection, scope: str) -> ScopeRow | None:
    """Return the row, None before the scope's first request."""
    row = connection.execute(SELECT, (scope,)).fetchone()
    if row is None:
        return None
    paced_until, boot, wall, uptime, *circuit = row
    return ScopeRow(paced_until, boot, wall, uptime, Circuit(*circuit))


def begin(connection: sqlite3.Connection, scope: str, now: float, up: Uptime | None, longest: float) -> ScopeRow:
    """Make the row; where a damaged database was replaced, all windows are taken for full at that moment."""
    boot, uptime = up or ("", 0.0)
    connection.execute(
        "INSERT INTO scopes (scope, paced_until, boot, wall, uptime) VALUES (?, ?, ?, ?, ?)",
        (scope, now, boot, now, uptime),
    )
    lost_at = connection.execute(LOST_AT, (now,)).fetchone()[0]
    if lost_at is not None and lost_at + longest > now:
        connection.execute(
            "INSERT INTO cooldowns (scope, set_at, until, reason, newest_request) VALUES (?, ?, ?, ?, 0)",
            (scope, now, lost_at + longest, LOST),
        )
    return ScopeRow(now, boot, now, uptime, Circuit())


def follow_clock(
    connection: sqlite3.Connection, scope: str, row: ScopeRow, now: float, up: Uptime, longest: float
) -> bool:
    """Move the scope's times by as much as the wall clock has jumped since the last look; say whether it had to."""
    drift = (now - row.wall) - (up.seconds - row.uptime)
    same_boot = up.boot == row.boot
    if same_boot and abs(drift) < JUMP:
        return False
    connection.execute(
        "UPDATE scopes SET boot = ?, wall = ?, uptime = ? WHERE scope = ?", (up.boot, now, up.seconds, scope)
    )
    if not same_boot:
        return False
    before = now - drift  # what the clock would show without the jump; after one back, later times would be the future
    values = {"scope": scope, "drift": drift, "ended": min(before, now), "oldest": min(before - longest, now)}
    connection.execute(
        "UPDATE requests SET started_at = started_at + :drift, lease_until = lease_until + :drift,"
        " counted_at = counted_at + :drift WHERE scope = :scope AND coalesce(counted_at, lease_until) > :oldest",
        values,
    )
    connection.execute(
        "UPDATE cooldowns SET set_at = set_at + :drift, until = until + :drift WHERE scope = :scope AND until > :ended",
        values,
    )
    connection.execute(
        "UPDATE scopes SET paced_until = paced_until + :drift, open_until = open_until + :drift WHERE scope = :scope",
        values,
    )
    return True


def pull_back(connection: sqlite3.Connection, scope: str, now: float, lease: float) -> None:
    """Repair times that lie in the future, for jumps that `follow_clock` could not see; else nothing matches."""
    values = {"scope": scope, "now": now, "lease": lease}
    connection.execute(
        "UPDATE requests SET counted_at = min(counted_at, :now), lease_until = min(lease_until, :now + :lease)"
        " WHERE scope = :scope AND coalesce(counted_at, lease_until) > :now"
        " AND (counted_at > :now OR (counted_at IS NULL AND started_at > :now))",
        values,
    )
    connection.execute(
        "UPDATE cooldowns SET until = :now + (until - set_at), set_at = :now"
        " WHERE scope = :scope AND until > :now AND set_at > :now",
        values,
    )


def save_pace(connection: sqlite3.Connection, scope: str, paced_until: float) -> None:
    """Write when the token bucket is full again."""
    connection.execute("UPDATE scopes SET paced_until = ? WHERE scope = ?", (paced_until, scope))


def save_circuit(connection: sqlite3.Connection, scope: str, circuit: Circuit) -> None:
    """Write the state of the circuit."""
    connection.execute(
        "UPDATE scopes SET failures = ?, openings = ?, open_until = ?, open_reason = ?, probe = ? WHERE scope = ?",
        (circuit.failures, circuit.openings, circuit.open_until, circuit.reason, circuit.probe, scope),
    )


def probe_lease(connection: sqlite3.Connection, circuit: Circuit, now: float) -> float | None:
    """Return for how many seconds the circuit's probe may still be under way, None if none is."""
    if circuit.probe is None:
        return None
    row = connection.execute(
        "SELECT lease_until - ? FROM requests WHERE id = ? AND outcome IS NULL", (now, circuit.probe)
    ).fetchone()
    return row[0] if row and row[0] > 0 else None


LOST = "the record of earlier requests was damaged, so all windows are taken for full"
LOST_AT = "SELECT min(max(lost_at), ?) FROM losses"
SELECT = (
    "SELECT paced_until, boot, wall, uptime, failures, openings, open_until, open_reason, probe"
    " FROM scopes WHERE scope = ?"
)
