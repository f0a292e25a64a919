"""When the list of expiries is asked for: not while it is young, and always when a wanted date is unknown.

And what its discovery tells an instance that knows nothing of the archive.
"""

from __future__ import annotations

import shutil
from datetime import date
from typing import TYPE_CHECKING

import dagster as dg

from expirytrack_dagster.backfill import track
from expirytrack_dagster.console import ProgressBars
from expirytrack_dagster.instance import open_instance
from expirytrack_dagster.partitions import EXPIRY, cell_key
from expirytrack_dagster.runs import Runner
from expirytrack_dagster.sandbox.running import running
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket
from expirytrack_dagster.warehouse.connection import open_warehouse

if TYPE_CHECKING:
    from collections.abc import Callable

    from expirytrack_dagster.sandbox.running import Running
    from expirytrack_dagster_tests.integration.assets.conftest import Archive

MARKET = SyntheticMarket(strikes=1, days=1, today=date(2024, 10, 5))  # two days after the first expiry of all


def _asked(upstox: Running) -> int:
    return sum("/expiries" in entry.path for entry in upstox.requests())


def test_a_young_list_is_not_asked_again(collect: Callable[..., Archive]) -> None:
    """Collecting everything twice asks for the expiries once; when the list is old, it is asked, and nothing else."""
    with running(MARKET) as upstox:
        assert collect(upstox, []).outcome.exit_code == 0
        assert _asked(upstox) == 1
        before = len(upstox.requests())
        assert collect(upstox, []).outcome.exit_code == 0
        assert len(upstox.requests()) == before
        assert collect(upstox, [], discovery_age="0").outcome.exit_code == 0
        assert len(upstox.requests()) == before + 1
        assert _asked(upstox) == 2


def test_a_new_instance_learns_what_the_archive_has(collect: Callable[..., Archive]) -> None:
    """After a move, nothing that was collected shows as missing, and nothing of it is asked again."""
    with running(MARKET) as upstox:
        kept = collect(upstox, [])
        with open_warehouse(kept.settings).writing() as connection:  # as if it was long ago
            connection.execute("UPDATE main.cell_seals SET sealed_at = sealed_at - INTERVAL 2 HOUR")
        shutil.rmtree(kept.settings.dagster_home)
        before = len(upstox.requests())
        with open_instance(kept.settings) as instance:
            track(kept.settings, instance, "NIFTY")
            report = Runner(instance, ProgressBars()).discover("NIFTY")
            assert report.error is None
            (day,) = instance.get_dynamic_partitions(EXPIRY)
            for asset in ("contracts", "candles"):
                assert instance.get_materialized_partitions(dg.AssetKey(asset)) == {cell_key("NIFTY", day)}
            assert len(instance.get_run_records()) == 1
        assert len(upstox.requests()) == before + 1
