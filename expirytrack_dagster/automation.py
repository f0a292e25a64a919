"""What schedules and sensors share: whether anything may be asked now, and the tags of the runs that they request."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import dagster as dg

from expirytrack_dagster.ist import IST

if TYPE_CHECKING:
    from expirytrack_dagster.resources import UpstoxResource

STARTED_BY = "expirytrack/started_by"
REQUESTED_AT = "expirytrack/requested_at"
PRIORITY = "dagster/priority"

_REST = timedelta(minutes=10)
"""How long nothing is requested after the API refused the token: a new one may have come by then."""

IN_FLIGHT = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def obstacle(upstox: UpstoxResource) -> str | None:
    """Return why nothing may be asked now, in one sentence, None when it may."""
    from expirytrack_dagster.collect import tracking
    from expirytrack_dagster.upstox.tokens import token_state

    if not tracking.tracked(upstox.state()):
        return "Nothing is tracked: run 'expirytrack track NIFTY'."
    token = token_state(upstox.settings(), upstox.now())
    if not token.usable:
        return token.sentence
    ledger = upstox.ledger()
    budgets = [ledger.budget(scope) for scope in ledger.all_scopes()]
    open_for = max(budget.circuit_seconds for budget in budgets)
    if open_for > 0:
        return f"Upstox's answers keep failing: nothing is sent for {open_for:.0f} s."
    paused = max(budgets, key=lambda budget: budget.cooldown_seconds)
    if paused.cooldown_seconds > 0:
        return f"Requests are paused for {paused.cooldown_seconds:.0f} s: {paused.cooldown_reason}."
    refused = ledger.refused_at()
    if refused is not None:
        until = datetime.fromtimestamp(refused, UTC) + _REST
        if upstox.now() < until:
            return (
                "Upstox refused the token or the plan at its last request: log in again, or wait until "
                f"{until.astimezone(IST):%H:%M} IST for the next try."
            )
    return None


def run_tags(started_by: str, now: datetime, priority: int) -> dict[str, str]:
    """Return the tags of a requested run; the queue takes a higher priority first."""
    return {STARTED_BY: started_by, REQUESTED_AT: f"{now.timestamp():.3f}", PRIORITY: str(priority)}
