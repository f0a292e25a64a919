"""What is done without a person as soon as it is due: collecting cells, a warning of the token's death, and alerts.

Sensors run in the code server under a time limit: they ask the API nothing and read the archive for a moment only, or
say that it is busy. What is due, in which order and at what cost is decided in `collect/` and `planning.py`; here are
Dagster's runs alone. What happens at fixed times is in `schedules.py`.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import dagster as dg

from expirytrack_dagster.automation import IN_FLIGHT, REQUESTED_AT, STARTED_BY, obstacle, run_tags
from expirytrack_dagster.errors import DatabaseLocked, DatabaseUnreachable, StateBusy, StorageError
from expirytrack_dagster.jobs import historical_data_fetch
from expirytrack_dagster.partitions import cell_key
from expirytrack_dagster.resources import UpstoxResource, WarehouseResource

if TYPE_CHECKING:
    from expirytrack_dagster.collect.due import Attempt, Cell

COLLECTION = "collection"

PATIENCE = 1.0
"""Seconds that a tick waits for an archive that another program has open."""

PLACES = 4
"""Runs that are kept waiting or at work: enough to hide the start of a run, few enough to stay in order."""

_URGENT = 10
_REMEMBERED = timedelta(days=1)
_READ = 500  # runs of the last day that are looked at, the newest; each is one of a cell


def collection(
    context: dg.SensorEvaluationContext, upstox: UpstoxResource, warehouse: WarehouseResource
) -> dg.SensorResult | dg.SkipReason:
    """Request due cells in order, as far as the limits and the queue have room."""
    if (reason := obstacle(upstox)) is not None:
        return dg.SkipReason(reason)
    try:
        chosen = _chosen(context.instance, upstox, warehouse)
    except (DatabaseLocked, DatabaseUnreachable, StateBusy) as error:
        return dg.SkipReason(f"The archive is busy, the next tick looks again: {error}")
    return chosen if isinstance(chosen, dg.SkipReason) else dg.SensorResult(run_requests=chosen)


def token_life(context: dg.SensorEvaluationContext, upstox: UpstoxResource) -> dg.SensorResult | dg.SkipReason:
    """Record on `coverage` that the token is about to die, has died or is good again; once for each change."""
    from expirytrack_dagster.checks.token import judged_token

    judged = judged_token(upstox.settings(), upstox.now())
    if judged.standing == context.cursor:
        return dg.SkipReason(f"Nothing new: {judged.sentence}")
    if not judged.passed:
        context.log.warning("%s", judged.sentence)
    return dg.SensorResult(asset_events=[judged.evaluation], cursor=judged.standing)


def alerts(context: dg.SensorEvaluationContext, upstox: UpstoxResource) -> dg.SkipReason:
    """Measure what alerts are judged by, keep what has changed, and tell every channel that has not been told."""
    from expirytrack_dagster.observe.alerts import record, standing
    from expirytrack_dagster.observe.deliveries import deliver
    from expirytrack_dagster.observe.notifiers import channels
    from expirytrack_dagster.observe.readings import measure

    settings, now, state = upstox.settings(), upstox.now(), upstox.state()
    told = channels(settings)
    try:
        names = [notifier.channel for notifier in told.notifiers]
        changed = record(state, measure(settings, now, names, told.problem), now)
        failed = deliver(state, told.notifiers, now)
        stands = len(standing(state))
    except (StateBusy, StorageError) as error:
        return dg.SkipReason(f"Nothing was judged, the next tick looks again: {error}")
    for alert in changed.raised:
        context.log.warning("%s %s", alert.sentence, alert.todo)
    for channel, sentence in failed.items():
        context.log.warning("Alerts do not get through by %s: %s", channel, sentence)
    undelivered = f"; not delivered by {', '.join(failed)}" if failed else ""
    return dg.SkipReason(
        f"Alerts that stand: {stands}; new: {len(changed.raised)}; over: {len(changed.recovered)}{undelivered}."
    )


def build_sensors(*, automatic: bool) -> list[dg.SensorDefinition]:
    """Return the sensors; they run from the first start if `automatic`, else once they are switched on in the UI."""
    status = dg.DefaultSensorStatus.RUNNING if automatic else dg.DefaultSensorStatus.STOPPED
    return [
        dg.sensor(
            name=COLLECTION,
            job=historical_data_fetch,
            minimum_interval_seconds=60,
            default_status=status,
            description="Requests the cells that are due: what may leave Upstox's list soon first, then the newest "
            "expiry; as many as the limits have room for. Says why when it requests none.",
        )(collection),
        dg.sensor(
            name="token_life",
            minimum_interval_seconds=300,
            default_status=status,
            description="Records as the check access_token of coverage that the token is about to die, has died or is "
            "good again; once for each change.",
        )(token_life),
        dg.sensor(
            name="alerts",
            minimum_interval_seconds=60,
            default_status=status,
            description="Tells the log, e-mail, webhook and Telegram, as far as they are set up, what is wrong and "
            "what is over: each once. Thresholds are settings; `expirytrack alerts` lists what stands.",
        )(alerts),
        dg.AutomationConditionSensorDefinition(
            "derivations",
            target=dg.AssetSelection.all(),
            default_status=status,
            description="Derives anew what is computed from the archive alone, when the archive has changed.",
        ),
    ]


def _chosen(
    instance: dg.DagsterInstance, upstox: UpstoxResource, warehouse: WarehouseResource
) -> list[dg.RunRequest] | dg.SkipReason:
    from expirytrack_dagster.collect import tracking
    from expirytrack_dagster.collect.due import affordable, ready_at
    from expirytrack_dagster.collect.leases import holders, named
    from expirytrack_dagster.planning import outlook
    from expirytrack_dagster.upstox.clock import SystemClock

    now = upstox.now()
    tracked = {underlying.symbol for underlying in tracking.tracked(upstox.state())}
    look = outlook(upstox.settings(), warehouse.open(PATIENCE), upstox.ledger(), now, sealed=False)
    due = [cell for cell in look.missing(tracked) if cell.is_due]
    if not due:
        return dg.SkipReason("Nothing is due: every cell that Upstox lists is complete, or waits for the refresh.")
    tried = _attempts(instance, now)
    ready_from = {key: ready_at(attempts) for key, attempts in tried.items()}
    under_way = [cell for cell in look.cells if ready_from.get(_key(cell), 0.0) is None]
    places = (1 if _is_trying(upstox) else PLACES) - len(under_way)
    if places <= 0:
        return dg.SkipReason(f"{len(under_way)} cells wait or are at work: more would only wait, out of order.")
    held = holders(upstox.state(), upstox.clock() or SystemClock())
    elsewhere = [cell for cell in due if named(cell.key) in held and cell not in under_way]
    ready = [
        cell
        for cell in due
        if cell not in elsewhere and (at := ready_from.get(_key(cell), 0.0)) is not None and at <= now.timestamp()
    ]
    if not ready:
        return dg.SkipReason(f"{len(due)} cells are due: all are under way, or rest after a try in vain.")
    at_work = [*under_way, *elsewhere]
    costs = [cell.requests for cell in look.costs([*at_work, *ready[:places]])]
    promised, costs = sum(costs[: len(at_work)]), costs[len(at_work) :]
    free = _room(upstox) - promised
    chosen = ready[: affordable(costs, free, places)]
    if not chosen:
        return dg.SkipReason(f"{len(due)} cells are due: the limits have no room, or it is promised to runs under way.")
    return [
        _request(cell, place, tried, now, urgent=cell.is_leaving(look.today, look.warning))
        for place, cell in enumerate(chosen)
    ]


def _is_trying(upstox: UpstoxResource) -> bool:
    """Say whether the next request finds out if Upstox answers again: more runs than one would fail with it."""
    ledger = upstox.ledger()
    return any(ledger.budget(scope).circuit_state == "half-open" for scope in ledger.all_scopes())


def _room(upstox: UpstoxResource) -> int:
    """Return how many requests the widest window still has room for."""
    ledger = upstox.ledger()
    windows = ledger.budget(ledger.scope_of("candles")).windows
    return windows[-1].limit.requests - windows[-1].used if windows else 1_000_000


def _key(cell: "Cell") -> str:
    return str(cell_key(cell.underlying, cell.expiry.isoformat()))


def _request(
    cell: "Cell", place: int, tried: Mapping[str, list["Attempt"]], now: datetime, *, urgent: bool
) -> dg.RunRequest:
    """Return a request whose key is new after each run of the cell: a key works once, for ever."""
    key = _key(cell)
    before = tried.get(key)
    return dg.RunRequest(
        run_key=f"{key} after {before[0].run_id if before else 'nothing'} on {now:%Y-%m-%d}",
        partition_key=key,
        tags=run_tags(COLLECTION, now, priority=(_URGENT if urgent else 0) - place),
    )


def _attempts(instance: dg.DagsterInstance, now: datetime) -> dict[str, list["Attempt"]]:
    """Return the runs of each cell, the newest first: all that wait or work, and this sensor's of the last day."""
    from expirytrack_dagster.collect.due import Attempt

    found: dict[str, list[Attempt]] = {}
    waiting = instance.get_run_records(dg.RunsFilter(statuses=IN_FLIGHT))
    own = instance.get_run_records(dg.RunsFilter(tags={STARTED_BY: COLLECTION}), limit=_READ)
    runs = {record.dagster_run.run_id: record.dagster_run for record in [*waiting, *own]}
    for run in runs.values():
        key, requested = run.tags.get("dagster/partition"), float(run.tags.get(REQUESTED_AT, 0.0))
        if key is not None and (not run.is_finished or now.timestamp() - requested < _REMEMBERED.total_seconds()):
            found.setdefault(key, []).append(Attempt(run.run_id, requested if run.is_finished else None))
    return found
