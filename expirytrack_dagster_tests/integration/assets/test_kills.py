"""A collection that is killed at any moment and started anew: the same archive, and nothing asked twice."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from expirytrack_dagster_tests.bench.bench_kills import MOMENTS, Undisturbed, serving, trial

if TYPE_CHECKING:
    from pathlib import Path


def test_a_killed_collection_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    """Killed while asking, staging, writing and after the commit: every table is the same, row for row."""
    with serving() as upstox:
        undisturbed = Undisturbed(upstox, tmp_path / "undisturbed")
        result = trial(upstox, tmp_path / "killed", undisturbed, MOMENTS, random.Random(3))  # noqa: S311 -- no secret
    assert not result.failed
    assert result.kills == [*MOMENTS]
    assert not result.different
    assert undisturbed.tables["quarantine"].num_rows
    assert result.requests <= undisturbed.requests + result.in_flight
