"""The two dimensions of the grid, on a real Dagster instance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg
import pytest
from sqlalchemy.exc import IntegrityError

from expirytrack_dagster import partitions

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """Give an instance that lives as long as the test."""
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


def materialized(instance: dg.DagsterInstance, asset: str) -> set[str]:
    """Return the keys of the asset's materialized partitions."""
    return set(instance.get_materialized_partitions(dg.AssetKey(asset)))


def test_a_cell_key_is_what_dagster_writes() -> None:
    """The key of a cell goes to text and back, with symbols that hold other signs too."""
    key = partitions.cell_key("M&M", "2025-08-28")
    assert str(key) == "2025-08-28|M&M"
    assert partitions.cell_of(str(key)) == ("M&M", "2025-08-28")


def test_underlyings_come_and_go(instance: dg.DagsterInstance) -> None:
    """Adding twice makes one partition; removing takes it from the grid."""
    for _ in range(2):
        partitions.add_underlying(instance, "NIFTY")
    assert instance.get_dynamic_partitions(partitions.UNDERLYING) == ["NIFTY"]
    partitions.remove_underlying(instance, "NIFTY")
    assert instance.get_dynamic_partitions(partitions.UNDERLYING) == []


def test_expiries_are_added_in_ascending_order(instance: dg.DagsterInstance) -> None:
    """New dates are returned and added ascending, known ones are left where they are."""
    assert partitions.add_expiries(instance, ["2025-08-28", "2025-08-21"]) == ["2025-08-21", "2025-08-28"]
    assert partitions.add_expiries(instance, ["2025-09-02", "2025-08-21"]) == ["2025-09-02"]
    assert partitions.add_expiries(instance, []) == []
    assert instance.get_dynamic_partitions(partitions.EXPIRY) == ["2025-08-21", "2025-08-28", "2025-09-02"]


def test_another_process_may_add_the_same_at_once(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When another process has added a date between Dagster's look and its insert, all dates are there in the end."""
    real = instance.add_dynamic_partitions

    def raced(dimension: str, keys: list[str]) -> None:
        monkeypatch.undo()
        real(dimension, keys[:1])  # what the other process did
        raise IntegrityError("INSERT", {}, Exception("UNIQUE constraint failed"))

    monkeypatch.setattr(instance, "add_dynamic_partitions", raced)
    partitions.add_expiries(instance, ["2025-08-28", "2025-08-21"])
    assert instance.get_dynamic_partitions(partitions.EXPIRY) == ["2025-08-21", "2025-08-28"]


def test_cells_that_never_were_are_settled_once(instance: dg.DagsterInstance) -> None:
    """A date of another underlying is recorded as not listed, for both assets, without a run, and only once."""
    partitions.add_expiries(instance, ["2025-08-21", "2025-08-28"])
    listed = {"NIFTY": {"2025-08-21", "2025-08-28"}, "BANKNIFTY": {"2025-08-28"}}
    assert partitions.settle_unlisted(instance, listed) == len(partitions.CELL_ASSETS)
    assert partitions.settle_unlisted(instance, listed) == 0
    for asset in ("contracts", "candles"):
        assert materialized(instance, asset) == {"2025-08-21|BANKNIFTY"}
    event = instance.get_latest_materialization_event(dg.AssetKey("candles"))
    assert event is not None
    assert event.asset_materialization is not None
    assert event.asset_materialization.metadata["listed"].value is False
    assert "Not listed" in str(event.asset_materialization.description)
    assert instance.get_run_records() == []


def test_a_date_newer_than_a_list_is_left_open(instance: dg.DagsterInstance) -> None:
    """A list that ends before a date proves nothing about it: that cell stays missing until a newer list settles it."""
    partitions.add_expiries(instance, ["2025-08-28", "2025-09-02", "2025-09-09"])
    listed = {"NIFTY": {"2025-08-28", "2025-09-02", "2025-09-09"}, "SENSEX": {"2025-08-28"}, "NEW": set[str]()}
    assert partitions.settle_unlisted(instance, listed) == 0
    assert partitions.settle_unlisted(instance, listed | {"SENSEX": {"2025-08-28", "2025-09-09"}}) == len(
        partitions.CELL_ASSETS
    )
    assert materialized(instance, "candles") == {"2025-09-02|SENSEX"}


def test_a_collected_cell_is_not_settled(instance: dg.DagsterInstance) -> None:
    """What has been materialized stays as it is, even when the API later withdraws the date."""
    partitions.add_expiries(instance, ["2025-08-21", "2025-08-28"])
    key = partitions.cell_key("NIFTY", "2025-08-21")
    for asset in partitions.CELL_ASSETS:
        instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition=key, metadata={"real": True}))
    assert partitions.settle_unlisted(instance, {"NIFTY": {"2025-08-28"}}) == 0


def test_what_the_archive_has_is_recorded_once(instance: dg.DagsterInstance) -> None:
    """By an instance that knows nothing of it: what it knows, and what is not in its grid, is left alone."""
    partitions.add_underlying(instance, "NIFTY")
    partitions.add_expiries(instance, ["2025-08-21", "2025-08-28"])
    instance.report_runless_asset_event(
        dg.AssetMaterialization(
            "candles", partition=partitions.cell_key("NIFTY", "2025-08-21"), metadata={"real": True}
        )
    )
    both = {("NIFTY", "2025-08-21"), ("NIFTY", "2025-08-28")}
    finished = {"contracts": both, "candles": both, "daily_bars": {("GONE", "2025-08-28"), ("NIFTY", "2020-01-30")}}
    assert partitions.settle_finished(instance, finished) == 3
    assert partitions.settle_finished(instance, finished) == 0
    assert (
        materialized(instance, "contracts")
        == materialized(instance, "candles")
        == {
            "2025-08-21|NIFTY",
            "2025-08-28|NIFTY",
        }
    )
    assert materialized(instance, "daily_bars") == set()
    assert instance.get_run_records() == []
