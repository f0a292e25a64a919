"""What happens at fixed times, by the clock of India: discovery, another look at stuck cells, backup and upkeep.

As in `sensors.py`, nothing is asked here and the archive is read for a moment only.
"""

from datetime import timedelta

import dagster as dg

from expirytrack_dagster.automation import obstacle, run_tags
from expirytrack_dagster.errors import DatabaseLocked, DatabaseUnreachable, StateBusy
from expirytrack_dagster.jobs import backup, expiry_fetch, historical_data_fetch, maintenance, retention
from expirytrack_dagster.partitions import cell_key
from expirytrack_dagster.resources import UpstoxResource, WarehouseResource
from expirytrack_dagster.sensors import PATIENCE

DISCOVERY, REFRESH, MAINTENANCE, RETENTION = "discovery", "refresh", "nightly_maintenance", "nightly_retention"

nightly_backup = dg.ScheduleDefinition(
    name="nightly_backup",
    job=backup,
    # Tokens die at 03:30: a collection of the night has ended, and none of the day has begun.
    cron_schedule="10 4 * * *",
    execution_timezone="Asia/Kolkata",
    description="A sealed backup every night; keep the recovery key (`expirytrack backup --show-key`) elsewhere. It is "
    "switched on in the UI, never by being installed.",
)

LIST_AGE = timedelta(hours=6)
"""A list of expiries is asked for again when it is older. The token dies at night and comes back whenever its owner
logs in, so the schedule looks every hour; and nobody knows at what time of the day Upstox adds yesterday's expiry."""

REFRESHED = 20
"""Cells that one refresh asks again at most."""


def discovery(context: dg.ScheduleEvaluationContext, upstox: UpstoxResource) -> list[dg.RunRequest] | dg.SkipReason:
    """Ask for the expiries of every tracked underlying whose list is old, or was never asked for."""
    from expirytrack_dagster.collect import tracking
    from expirytrack_dagster.collect.horizon import last_listed

    if (reason := obstacle(upstox)) is not None:
        return dg.SkipReason(reason)
    now, listed = upstox.now(), last_listed(upstox.state())
    symbols = [underlying.symbol for underlying in tracking.tracked(upstox.state())]
    old = [symbol for symbol in symbols if symbol not in listed or now - listed[symbol] >= LIST_AGE]
    if not old:
        return dg.SkipReason(f"Every list of expiries is younger than {LIST_AGE.total_seconds() / 3600:g} hours.")
    return [
        dg.RunRequest(
            run_key=f"{symbol} {context.scheduled_execution_time:%Y-%m-%dT%H:%M}",
            partition_key=symbol,
            tags=run_tags(DISCOVERY, now, priority=20),
        )
        for symbol in old
    ]


def refresh(
    context: dg.ScheduleEvaluationContext, upstox: UpstoxResource, warehouse: WarehouseResource
) -> list[dg.RunRequest] | dg.SkipReason:
    """Ask again for the contracts that the API could not give in full, a day after."""
    from expirytrack_dagster.planning import outlook

    if (reason := obstacle(upstox)) is not None:
        return dg.SkipReason(reason)
    now = upstox.now()
    try:
        look = outlook(upstox.settings(), warehouse.open(PATIENCE), upstox.ledger(), now, sealed=False)
    except (DatabaseLocked, DatabaseUnreachable, StateBusy) as error:
        return dg.SkipReason(f"The archive is busy, run 'expirytrack collect' or wait for tomorrow: {error}")
    stuck = [cell for cell in look.missing() if cell.waits_for_the_api]
    if not stuck:
        return dg.SkipReason("No cell waits for contracts that Upstox could not give in full.")
    return [
        dg.RunRequest(
            run_key=f"{cell.underlying} {cell.expiry} {context.scheduled_execution_time:%Y-%m-%dT%H:%M}",
            partition_key=cell_key(cell.underlying, cell.expiry.isoformat()),
            tags=run_tags(REFRESH, now, priority=-10),
        )
        for cell in stuck[:REFRESHED]
    ]


def build_schedules(*, automatic: bool) -> list[dg.ScheduleDefinition]:
    """Return the schedules; they run from the first start if `automatic`, else once they are switched on in the UI."""
    status = dg.DefaultScheduleStatus.RUNNING if automatic else dg.DefaultScheduleStatus.STOPPED
    return [
        dg.schedule(
            name=DISCOVERY,
            job=expiry_fetch,
            cron_schedule="5 * * * *",
            execution_timezone="Asia/Kolkata",
            default_status=status,
            description="Asks which expiries Upstox lists for every tracked underlying, every six hours while there is "
            "a token; new dates become partitions.",
        )(discovery),
        dg.schedule(
            name=REFRESH,
            job=historical_data_fetch,
            cron_schedule="0 20 * * *",
            execution_timezone="Asia/Kolkata",
            default_status=status,
            description="Asks once a day for the contracts that Upstox refused or could not give in full.",
        )(refresh),
        dg.ScheduleDefinition(
            name=MAINTENANCE,
            job=maintenance,
            cron_schedule="40 4 * * *",  # after the backup
            execution_timezone="Asia/Kolkata",
            default_status=status,
            description="Keeps a lake small every night; an archive in one file needs nothing, and gets nothing.",
        ),
        dg.ScheduleDefinition(
            name=RETENTION,
            job=retention,
            cron_schedule="50 4 * * *",
            execution_timezone="Asia/Kolkata",
            default_status=status,
            description="Forgets runs of discovery that ended a month ago or earlier, every night.",
        ),
        nightly_backup,
    ]
