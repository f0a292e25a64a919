"""Materializations recorded many at once, compared with those that Dagster records one by one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import dagster as dg
import pytest
from dagster._core.storage.event_log import SqlEventLogStorage
from sqlalchemy import text

from expirytrack_dagster.partitions import cell_key
from expirytrack_dagster.runless import record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """Give an instance whose events are kept in files, as a home's are."""
    with dg.DagsterInstance.local_temp(str(tmp_path)) as kept:
        yield kept


def materializations(asset: str, count: int) -> list[dg.AssetMaterialization]:
    """Return materializations of as many cells."""
    return [
        dg.AssetMaterialization(asset, partition=cell_key(f"U{number}", "2025-08-28"), metadata={"listed": False})
        for number in range(count)
    ]


def records(instance: dg.DagsterInstance, asset: str) -> list[tuple[object, ...]]:
    """Return all that is kept of each event but its time, oldest first."""
    found = instance.fetch_materializations(dg.AssetKey(asset), limit=10_000, ascending=True).records
    return [
        (
            record.run_id,
            record.partition_key,
            record.event_log_entry.level,
            record.event_log_entry.job_name,
            record.asset_materialization and dict(record.asset_materialization.metadata),
            record.asset_materialization and record.asset_materialization.tags,
        )
        for record in found
    ]


def test_many_at_once_are_what_dagster_records_one_by_one(instance: dg.DagsterInstance) -> None:
    """Event by event, without tags in either way, the newest event and the materialized partitions."""
    for made in materializations("single", 5):
        instance.report_runless_asset_event(made)
    record(instance, materializations("many", 5))
    single, many = dg.AssetKey("single"), dg.AssetKey("many")
    assert records(instance, "many") == records(instance, "single")
    assert instance.get_materialized_partitions(many) == instance.get_materialized_partitions(single)
    storage = instance.event_log_storage
    assert isinstance(storage, SqlEventLogStorage)
    with storage.index_connection() as connection:
        assert connection.execute(text("SELECT count(*) FROM asset_event_tags")).fetchall() == [(0,)]
    newest = instance.get_latest_materialization_event(many)
    assert newest is not None
    assert newest.asset_materialization is not None
    assert newest.asset_materialization.partition == "2025-08-28|U4"
    assert set(instance.all_asset_keys()) == {single, many}


def test_one_alone_is_recorded(instance: dg.DagsterInstance) -> None:
    """There is nothing to batch, and nothing is left out."""
    record(instance, materializations("many", 1))
    assert instance.get_materialized_partitions(dg.AssetKey("many")) == {"2025-08-28|U0"}


def test_a_large_grid_takes_seconds(instance: dg.DagsterInstance) -> None:
    """3,200 cells, those of ten underlyings with 400 dates; more than one statement takes."""
    began = time.process_time()
    record(instance, materializations("many", 3_200))
    assert time.process_time() - began < 10
    assert len(instance.get_materialized_partitions(dg.AssetKey("many"))) == 3_200
