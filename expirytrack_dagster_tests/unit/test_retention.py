"""Old runs of discovery are forgotten with all that they left on the disk; what they found and other runs are not."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from expirytrack_dagster import retention
from expirytrack_dagster.partitions import underlyings
from expirytrack_dagster.retention import ASSET, JOB, KEPT, forget_discoveries

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dg.asset(name=ASSET.to_user_string(), partitions_def=underlyings)
def found() -> None:
    """Find nothing new, or fail."""
    if "broken" in dg.AssetExecutionContext.get().run.tags:
        raise ValueError


DEFS = dg.Definitions([found], jobs=[dg.define_asset_job(name, [found]) for name in (JOB, "another")])


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """Give an instance whose events are kept in files, as a home's are."""
    with dg.DagsterInstance.local_temp(str(tmp_path)) as kept:
        kept.add_dynamic_partitions("underlying", ["NIFTY", "SENSEX"])
        yield kept


def ran(instance: dg.DagsterInstance, symbol: str, job: str = JOB, **tags: str) -> str:
    """Run a job of an underlying, and return the run's id."""
    resolved = DEFS.resolve_job_def(job)
    done = resolved.execute_in_process(instance=instance, partition_key=symbol, tags=tags, raise_on_error=False)
    return done.run_id


def test_only_what_was_found_again_is_forgotten(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    """An underlying's newest discovery stays, however old, and so does every run of another job."""
    old, other, last = ran(instance, "NIFTY"), ran(instance, "NIFTY", "another"), ran(instance, "SENSEX")
    time.sleep(0.01)
    between = datetime.now(tz=UTC)
    new = ran(instance, "NIFTY")
    assert forget_discoveries(instance, between + KEPT) == 1
    assert {run.run_id for run in instance.get_runs()} == {other, last, new}
    assert instance.get_materialized_partitions(ASSET) == {"NIFTY", "SENSEX"}
    assert not [path for path in tmp_path.rglob("*") if old in path.name]
    assert [path for path in tmp_path.rglob("*") if new in path.name]
    assert forget_discoveries(instance, between + KEPT) == 0


def test_the_newest_record_alone_stays_of_what_was_not_found_again(instance: dg.DagsterInstance) -> None:
    """Not the runs before it, nor those after it that failed."""
    runs = [ran(instance, "SENSEX"), ran(instance, "SENSEX"), ran(instance, "SENSEX", broken="yes")]
    assert forget_discoveries(instance, datetime.now(tz=UTC) + KEPT) == 2
    assert [run.run_id for run in instance.get_runs()] == [runs[1]]
    assert instance.get_materialized_partitions(ASSET) == {"SENSEX"}


def test_what_must_stay_is_in_nobodys_way(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much of it is older than the rest: each night forgets as many runs as it may."""
    monkeypatch.setattr(retention, "AT_ONCE", 1)
    last = ran(instance, "SENSEX")
    for _ in range(2):
        ran(instance, "NIFTY")
    time.sleep(0.01)
    between = datetime.now(tz=UTC)
    new = ran(instance, "NIFTY")
    assert [forget_discoveries(instance, between + KEPT) for _ in range(3)] == [1, 1, 0]
    assert {run.run_id for run in instance.get_runs()} == {last, new}


def test_nothing_young_is_forgotten(instance: dg.DagsterInstance) -> None:
    """However often it was found again."""
    for _ in range(2):
        ran(instance, "NIFTY")
    assert forget_discoveries(instance, datetime.now(tz=UTC)) == 0
