"""Runs of discovery that have said what they had to say are forgotten after a while.

Dagster keeps every run for ever, and discovery runs several times a day for every underlying, nearly always to find
nothing new: with two hundred underlyings more than half a million runs in two years, which would take more room than
all candles (docs/scale.md). What discovery found is in the archive and in the grid. Runs of cells are few, and kept.
"""

from __future__ import annotations

from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

JOB, ASSET = "expiry_fetch", dg.AssetKey("expiries")

KEPT = timedelta(days=30)
"""Long enough to look back at what went wrong."""

AT_ONCE = 5_000
"""Runs that are forgotten in one night at most; two hundred underlyings leave eight hundred a day."""

_OVER = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]


def forget_discoveries(instance: dg.DagsterInstance, now: datetime) -> int:
    """Forget runs of discovery that ended long ago, with their events and files, and return how many those were.

    The run that holds the newest record of an underlying is kept, however old it is.
    """
    kept = {_newest(instance, symbol) for symbol in instance.get_materialized_partitions(ASSET)}
    gone = list(islice((run_id for run_id in _ended(instance, now - KEPT) if run_id not in kept), AT_ONCE))
    for run_id in gone:
        instance.delete_run(run_id)
        instance.compute_log_manager.delete_logs(prefix=[run_id])
        if isinstance(instance.event_log_storage, SqliteEventLogStorage):  # keeps a file a run, and leaves it
            Path(instance.event_log_storage.path_for_shard(run_id)).unlink(missing_ok=True)
    return len(gone)


def _newest(instance: dg.DagsterInstance, symbol: str) -> str:
    """Return the run in which an underlying was discovered last."""
    wanted = dg.AssetRecordsFilter(asset_key=ASSET, asset_partitions=[symbol])
    return instance.fetch_materializations(wanted, limit=1).records[0].run_id


def _ended(instance: dg.DagsterInstance, before: datetime) -> Iterator[str]:
    """Yield the runs of discovery that ended before then, the oldest first; none may be deleted meanwhile."""
    wanted, last = dg.RunsFilter(job_name=JOB, statuses=_OVER, updated_before=before), None
    while page := instance.get_run_records(wanted, limit=AT_ONCE, cursor=last, ascending=True):
        yield from (record.dagster_run.run_id for record in page)
        last = page[-1].dagster_run.run_id
