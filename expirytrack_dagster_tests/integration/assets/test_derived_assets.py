"""Derived assets through Dagster: made from a collected cell, told in the catalogue, and made by themselves."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest

from expirytrack_dagster import archive
from expirytrack_dagster.console import ProgressBars
from expirytrack_dagster.definitions import build_defs
from expirytrack_dagster.instance import open_instance
from expirytrack_dagster.jobs import derivation, futures_rolling
from expirytrack_dagster.partitions import cell_key
from expirytrack_dagster.runs import Runner
from expirytrack_dagster.sandbox.running import running
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket

if TYPE_CHECKING:
    from collections.abc import Callable

    from expirytrack_dagster.sandbox.bars import Bars
    from expirytrack_dagster_tests.integration.assets.conftest import Archive

EXPIRY = date(2025, 8, 28)
KEY = cell_key("NIFTY", "2025-08-28")
MARKET = SyntheticMarket(strikes=3, days=1, today=date(2025, 9, 1))
CELL_ASSETS = ("daily_bars", "option_chain", "implied_volatility", "chain_metrics")


@dataclass(frozen=True)
class Revised:
    """The same market, whose future has other prices in five minutes."""

    market: SyntheticMarket

    def __getattr__(self, name: str) -> Any:
        """Leave all else to the market."""
        return getattr(self.market, name)

    def candles(self, instrument_key: str, interval: str, from_date: date, to_date: date) -> Bars | None:
        """Return what the market has, and change the future's first minutes."""
        bars = self.market.candles(instrument_key, interval, from_date, to_date)
        contract = self.market.contract(instrument_key)
        if bars is not None and contract is not None and contract.kind == "FUT" and interval == "1minute":
            bars.high[:5] += 1.0
        return bars


def last(instance: dg.DagsterInstance, asset: str, partition: str = KEY) -> dg.AssetMaterialization:
    """Return the newest materialization of an asset's partition."""
    wanted = dg.AssetRecordsFilter(dg.AssetKey(asset), asset_partitions=[partition])
    found = instance.fetch_materializations(wanted, limit=1).records[0].asset_materialization
    assert found is not None
    return found


def test_a_cell_is_derived_and_says_what_from(collect: Callable[..., Archive]) -> None:
    """Each asset names the version of the candles, its rows, its columns, and the rate where one was used."""
    with running(MARKET) as upstox:
        collected = collect(upstox, [EXPIRY])
    with open_instance(collected.settings) as instance:
        runner = Runner(instance, ProgressBars())
        assert runner.launch(derivation.name, KEY).error is None
        assert runner.launch(futures_rolling.name, "NIFTY").error is None
        version = archive.at("NIFTY", EXPIRY).version
        assert (last(instance, "candles").tags or {})["dagster/data_version"] == version
        for asset in CELL_ASSETS:
            told = last(instance, asset)
            assert told.metadata["source_version"].value == version
            rows = collected.number(f"SELECT count(*) FROM {asset}")  # noqa: S608 -- the names above
            assert told.metadata["dagster/partition_row_count"].value == rows > 0
            schema = told.metadata["dagster/column_schema"].value
            assert isinstance(schema, dg.TableSchema)
            assert all(column.description for column in schema.columns)
        assert last(instance, "implied_volatility").metadata["rate"].value == 0.065
        assert last(instance, "continuous_futures", "NIFTY").metadata["dagster/partition_row_count"].value == 3
    assert len(archive.option_chain("NIFTY", EXPIRY)) == collected.number("SELECT count(*) FROM option_chain")


def test_a_refetch_that_finds_other_rows_says_so(collect: Callable[..., Archive]) -> None:
    """Data version, counts of the change, and the old version for whoever used it."""
    with running(MARKET) as upstox:
        collected = collect(upstox, [EXPIRY])
    before = archive.at("NIFTY", EXPIRY)
    with open_instance(collected.settings) as instance:
        first = last(instance, "candles")
    assert first.metadata["candles_added"].value == before.rows
    with running(Revised(MARKET)) as upstox:
        collect(upstox, [EXPIRY], refetch=True, cache="false")
    with open_instance(collected.settings) as instance:
        second = last(instance, "candles")
    after = archive.at("NIFTY", EXPIRY)
    counts = {name: second.metadata[f"candles_{name}"].value for name in ("added", "removed", "changed")}
    assert counts == {"added": 0, "removed": 0, "changed": 5}
    assert second.metadata["previous_version"].value == before.version != after.version
    assert (second.tags or {})["dagster/data_version"] == after.version
    assert len(archive.at("NIFTY", EXPIRY, version=before.version).candles()) == before.rows


def test_a_refetch_that_finds_the_same_keeps_the_version(collect: Callable[..., Archive]) -> None:
    """Nothing downstream has to be made again."""
    with running(MARKET) as upstox:
        collected = collect(upstox, [EXPIRY])
        before = archive.at("NIFTY", EXPIRY)
        collect(upstox, [EXPIRY], refetch=True)
    assert archive.at("NIFTY", EXPIRY) == before
    with open_instance(collected.settings) as instance:
        assert last(instance, "candles").metadata["candles_changed"].value == 0


@pytest.fixture
def automatic() -> dg.DagsterInstance:
    """Give an instance with a cell whose contracts and candles are there."""
    instance = dg.DagsterInstance.ephemeral()
    instance.add_dynamic_partitions("underlying", ["NIFTY"])
    instance.add_dynamic_partitions("expiry", ["2025-08-21"])
    return instance


def arrive(instance: dg.DagsterInstance, version: str, expiry: str = "2025-08-28") -> None:
    """Record that a cell was collected."""
    for asset in ("contracts", "candles"):
        instance.report_runless_asset_event(
            dg.AssetMaterialization(
                asset, partition=cell_key("NIFTY", expiry), tags={"dagster/data_version": f"{asset}-{version}"}
            )
        )


def requested(result: dg.EvaluateAutomationConditionsResult) -> set[tuple[str, str]]:
    """Return the assets and partitions that would be made now."""
    return {
        (key.to_user_string(), str(partition))
        for key in map(dg.AssetKey, CELL_ASSETS)
        for partition in result.get_requested_partitions(key)
    }


def test_new_candles_are_derived_by_themselves(automatic: dg.DagsterInstance) -> None:
    """Nothing before they are there, everything once they are, and nothing twice."""
    defs, derived = build_defs(), dg.AssetSelection.assets(*CELL_ASSETS)
    seen = dg.evaluate_automation_conditions(defs, automatic, asset_selection=derived)
    assert requested(seen) == set()
    automatic.add_dynamic_partitions("expiry", ["2025-08-28"])
    seen = dg.evaluate_automation_conditions(defs, automatic, asset_selection=derived, cursor=seen.cursor)
    assert requested(seen) == set()
    arrive(automatic, "1")
    seen = dg.evaluate_automation_conditions(defs, automatic, asset_selection=derived, cursor=seen.cursor)
    assert requested(seen) == {(asset, str(KEY)) for asset in CELL_ASSETS}
    seen = dg.evaluate_automation_conditions(defs, automatic, asset_selection=derived, cursor=seen.cursor)
    assert requested(seen) == set()


def test_other_candles_are_derived_again(automatic: dg.DagsterInstance) -> None:
    """A new version makes the chain again; a refetch with the same content makes nothing."""
    defs, derived = build_defs(), dg.AssetSelection.assets(*CELL_ASSETS)
    automatic.add_dynamic_partitions("expiry", ["2025-08-28"])
    arrive(automatic, "1")
    for asset in CELL_ASSETS:
        automatic.report_runless_asset_event(dg.AssetMaterialization(asset, partition=KEY))
    seen = dg.evaluate_automation_conditions(defs, automatic, asset_selection=derived)
    seen = dg.evaluate_automation_conditions(defs, automatic, asset_selection=derived, cursor=seen.cursor)
    arrive(automatic, "1")
    seen = dg.evaluate_automation_conditions(defs, automatic, asset_selection=derived, cursor=seen.cursor)
    assert requested(seen) == set()
    arrive(automatic, "2")
    seen = dg.evaluate_automation_conditions(defs, automatic, asset_selection=derived, cursor=seen.cursor)
    assert ("option_chain", str(KEY)) in requested(seen)
    assert ("daily_bars", str(KEY)) in requested(seen)


def test_cells_from_before_the_daemon_are_derived_too(automatic: dg.DagsterInstance) -> None:
    """An archive that was collected on the command line, seen for the first time."""
    defs, derived = build_defs(), dg.AssetSelection.assets(*CELL_ASSETS)
    automatic.add_dynamic_partitions("expiry", ["2025-08-28"])
    arrive(automatic, "1")
    seen = dg.evaluate_automation_conditions(defs, automatic, asset_selection=derived)
    assert ("option_chain", str(KEY)) in requested(seen)
    assert {partition for _, partition in requested(seen)} == {str(KEY)}
    seen = dg.evaluate_automation_conditions(defs, automatic, asset_selection=derived, cursor=seen.cursor)
    assert requested(seen) == set()
