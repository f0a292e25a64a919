"""Materializations recorded without a run, many at once.

`DagsterInstance.report_runless_asset_event` opens and commits four times an event: 10 ms where the disk is idle, 80
where it is busy, so the first lists of ten underlyings, which settle some 20,000 events, would take minutes. Here the
events of an asset share a statement and a transaction. Only this module knows how Dagster keeps events; which cells are
recorded is decided in `partitions.py`.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.events import StepMaterializationData
from dagster._core.instance import RUNLESS_JOB_NAME, RUNLESS_RUN_ID
from dagster._core.storage.event_log import SqlEventLogStorage

if TYPE_CHECKING:
    from collections.abc import Sequence

_AT_ONCE = 1_000  # seven parameters an event, of which SQLite takes 32,766 a statement


def record(instance: dg.DagsterInstance, materializations: Sequence[dg.AssetMaterialization]) -> None:
    """Record materializations of one asset, without tags.

    The last one goes through Dagster's own door, which also notes it as the asset's newest.
    """
    *others, last = materializations
    storage = instance.event_log_storage
    if isinstance(storage, SqlEventLogStorage):
        for start in range(0, len(others), _AT_ONCE):
            _store(storage, others[start : start + _AT_ONCE])
    else:
        for materialization in others:
            instance.report_runless_asset_event(materialization)
    instance.report_runless_asset_event(last)


def _store(storage: SqlEventLogStorage, materializations: Sequence[dg.AssetMaterialization]) -> None:
    with storage.index_transaction() as connection:
        connection.execute(storage.prepare_insert_event_batch([_entry(made) for made in materializations]))


def _entry(made: dg.AssetMaterialization) -> dg.EventLogEntry:
    event = dg.DagsterEvent(
        event_type_value=dg.DagsterEventType.ASSET_MATERIALIZATION.value,
        event_specific_data=StepMaterializationData(made),
        job_name=RUNLESS_JOB_NAME,
    )
    return dg.EventLogEntry(  # type: ignore[no-untyped-call]
        error_info=None,
        level=logging.INFO,
        user_message="",
        run_id=RUNLESS_RUN_ID,
        timestamp=time.time(),
        step_key=None,
        job_name=RUNLESS_JOB_NAME,
        dagster_event=event,
    )
