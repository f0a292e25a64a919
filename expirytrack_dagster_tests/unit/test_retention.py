"""Old runs of discovery are forgotten with all that they left on the disk; what they found and other runs are not."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from expirytrack_dagster.partitions import underlyings
from expirytrack_dagster.retention import ASSET, JOB, KEPT, forget_discoveries

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dg.asset(name=ASSET.to_user_string(), partitions_def=underlyings)
def found() -> None:
    """Find nothing new."""


DEFS = dg.Definitions([found], jobs=[dg.define_asset_job(name, [found]) for name in (JOB, "another")])


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """Give an instance whose events are kept in files, as a home's are."""
    with dg.DagsterInstance.local_temp(str(tmp_path)) as kept:
        kept.add_dynamic_partitions("underlying", ["NIFTY", "SENSEX"])
        yield kept


def ran(instance: dg.DagsterInstance, symbol: str, job: str = JOB) -> str:
    """Run a job of an underlying, and return the run's id."""
    return DEFS.resolve_job_def(job).execute_in_process(instance=instance, partition_key=symbol).run_id


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


def test_nothing_young_is_forgotten(instance: dg.DagsterInstance) -> None:
    """However often it was found again."""
    for _ in range(2):
        ran(instance, "NIFTY")
    assert forget_discoveries(instance, datetime.now(tz=UTC)) == 0
