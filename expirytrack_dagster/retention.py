"""Runs of discovery that have said what they had to say are forgotten after a while.

Dagster keeps every run for ever, and discovery runs several times a day for every underlying, nearly always to find
nothing new: with two hundred underlyings more than half a million runs in two years, which would take more room than
all candles (docs/scale.md). What discovery found is in the archive and in the grid. Runs of cells are few, and kept.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage

if TYPE_CHECKING:
    from datetime import datetime

JOB, ASSET = "expiry_fetch", dg.AssetKey("expiries")

KEPT = timedelta(days=30)
"""Long enough to look back at what went wrong."""

AT_ONCE = 5_000
"""Runs that are forgotten in one night at most; two hundred underlyings leave eight hundred a day."""

_OVER = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]


def forget_discoveries(instance: dg.DagsterInstance, now: datetime) -> int:
    """Forget runs of discovery that ended long ago, with their events and files, and return how many those were.

    Those of an underlying that was not discovered since are kept, because they hold the newest record of it.
    """
    oldest = now - KEPT
    ended = dg.RunsFilter(job_name=JOB, statuses=_OVER, updated_before=oldest)
    old = [record.dagster_run for record in instance.get_run_records(ended, limit=AT_ONCE, ascending=True)]
    symbols = {run.tags.get("dagster/partition") for run in old}
    later = {symbol for symbol in symbols if symbol is not None and _is_discovered(instance, symbol, oldest)}
    gone = [run.run_id for run in old if run.tags.get("dagster/partition") in later]
    for run_id in gone:
        instance.delete_run(run_id)
        instance.compute_log_manager.delete_logs(prefix=[run_id])
        if isinstance(instance.event_log_storage, SqliteEventLogStorage):  # keeps a file a run, and leaves it
            Path(instance.event_log_storage.path_for_shard(run_id)).unlink(missing_ok=True)
    return len(gone)


def _is_discovered(instance: dg.DagsterInstance, symbol: str, since: datetime) -> bool:
    wanted = dg.AssetRecordsFilter(asset_key=ASSET, asset_partitions=[symbol], after_timestamp=since.timestamp())
    return bool(instance.fetch_materializations(wanted, limit=1).records)
