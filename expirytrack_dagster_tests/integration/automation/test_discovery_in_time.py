"""The grid over time: underlyings that come later, dates that come back, dates that go, and a limited look back."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from expirytrack_dagster import partitions
from expirytrack_dagster.backfill import track
from expirytrack_dagster_tests.integration.automation.conftest import CLOCK, QUIET, RollingMarket, india, token_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from expirytrack_dagster_tests.integration.automation.conftest import Machine

pytestmark = pytest.mark.filterwarnings("ignore:Non-compliant tag keys:DeprecationWarning")

TOKEN = token_until(india(30, 3, 30))


class Wayward(RollingMarket):
    """A market that keeps some dates of SENSEX to itself until it is told not to."""

    reach = 60
    hidden: frozenset[date] = frozenset()

    def expiries(self, underlying_key: str) -> list[date] | None:
        """Return what is listed today, less what is hidden."""
        listed = super().expiries(underlying_key)
        return [day for day in listed or [] if not (day in self.hidden and "SENSEX" in underlying_key)]


def settled(house: Machine) -> set[str]:
    """Return the cells that the grid shows as settled or collected."""
    return set(house.instance.get_materialized_partitions(dg.AssetKey("contracts")))


def run(house: Machine, job: str, partition: str) -> dg.ExecuteInProcessResult:
    """Run a job by hand."""
    return house.defs.resolve_job_def(job).execute_in_process(
        instance=house.instance, partition_key=partition, run_config=QUIET, raise_on_error=False
    )


def test_an_underlying_that_is_tracked_later(machine: Callable[..., Machine]) -> None:
    """Its older dates become partitions, and what is not its own, or not the others', is settled on both sides."""
    house = machine(india(11, 9, 5), ["NIFTY"], TOKEN, Wayward(strikes=1, days=1))
    assert house.schedule("discovery") == 1
    assert house.instance.get_dynamic_partitions(partitions.EXPIRY) == ["2024-10-03", "2024-10-10"]
    track(house.settings, house.instance, "SENSEX")
    CLOCK.seconds += 3600
    assert house.schedule("discovery") == 1
    assert house.instance.get_dynamic_partitions(partitions.EXPIRY) == ["2024-10-03", "2024-10-10", "2024-10-04"]
    # SENSEX on 10-10 lies after its newest date, which a list may not have yet: it stays open until a newer list.
    assert settled(house) == {"2024-10-03|SENSEX", "2024-10-04|NIFTY"}


def test_a_cell_that_does_not_exist_costs_nothing(machine: Callable[..., Machine]) -> None:
    """Materialized by hand it succeeds as not listed, without a request."""
    house = machine(india(12, 9, 5), ["NIFTY", "SENSEX"], TOKEN, Wayward(strikes=1, days=1))
    assert house.schedule("discovery") == 2
    before = len(house.upstox.requests())
    result = run(house, "historical_data_fetch", partitions.cell_key("SENSEX", "2024-10-10"))
    assert result.success
    metadata = {
        event.asset_key.to_user_string(): event.materialization.metadata
        for event in result.get_asset_materialization_events()
        if event.asset_key
    }
    assert metadata["contracts"]["listed"].value is False
    assert metadata["candles"]["requests"].value == 0
    assert len(house.upstox.requests()) == before


def test_a_settled_cell_that_is_listed_after_all(machine: Callable[..., Machine]) -> None:
    """The grid cannot forget that it was settled; the collection asks for it all the same."""
    market = Wayward(strikes=1, days=1)
    market.hidden = frozenset({date(2024, 10, 4)})
    house = machine(india(12, 9, 5), ["SENSEX"], TOKEN, market)
    partitions.add_expiries(house.instance, ["2024-10-04"])
    assert house.schedule("discovery") == 1
    assert settled(house) == {"2024-10-04|SENSEX"}
    house.sensor_until_idle("collection")
    market.hidden = frozenset()
    CLOCK.seconds += 7 * 3600
    assert house.schedule("discovery") == 1
    house.sensor_until_idle("collection")
    assert [key for job, key, _ in house.runs if job == "historical_data_fetch"] == [
        "2024-10-11|SENSEX",
        "2024-10-04|SENSEX",
    ]
    assert len(house.table("SELECT * FROM cell_seals")) == 2


def test_a_date_that_the_api_withdraws(machine: Callable[..., Machine]) -> None:
    """It is not asked any more and never sealed as empty; what is known of it stays; when it comes back, it is due."""
    market = Wayward(strikes=1, days=1)
    house = machine(india(12, 9, 5), ["SENSEX"], TOKEN, market)
    house.schedule("discovery")
    run(house, "contract_fetch", partitions.cell_key("SENSEX", "2024-10-11"))
    market.hidden = frozenset({date(2024, 10, 4), date(2024, 10, 11)})
    CLOCK.seconds += 7 * 3600
    house.schedule("discovery")
    assert "Nothing is due" in str(house.sensor("collection").skip_message)  # type: ignore[union-attr]
    before = len(house.upstox.requests())
    result = run(house, "historical_data_fetch", partitions.cell_key("SENSEX", "2024-10-04"))
    assert not result.success
    assert len(house.upstox.requests()) == before
    refetch = {"config": {"refetch": True}}
    house.defs.resolve_job_def("contract_fetch").execute_in_process(
        instance=house.instance,
        partition_key=partitions.cell_key("SENSEX", "2024-10-11"),
        run_config={**QUIET, "ops": {"contracts": refetch}},
    )
    assert house.table("SELECT count(*) FROM contracts WHERE expiry = '2024-10-11'") == [(6,)]
    assert house.table("SELECT * FROM cell_seals") == []
    market.hidden = frozenset()
    CLOCK.seconds += 7 * 3600
    house.schedule("discovery")
    house.sensor_until_idle("collection")
    assert len(house.table("SELECT * FROM cell_seals")) == 2


def test_a_limited_look_back(machine: Callable[..., Machine], monkeypatch: pytest.MonkeyPatch) -> None:
    """Older dates are known, but neither partitions nor due; with a longer look back they become both."""
    monkeypatch.setenv("EXPIRYTRACK_LOOKBACK_DAYS", "5")
    house = machine(india(12, 9, 5), ["SENSEX"], TOKEN, Wayward(strikes=1, days=1))
    house.schedule("discovery")
    assert house.instance.get_dynamic_partitions(partitions.EXPIRY) == ["2024-10-11"]
    assert "Nothing is due" in str(house.sensor_until_idle("collection").skip_message)
    assert house.table("SELECT expiry::TEXT FROM cell_seals") == [("2024-10-11",)]
    assert house.table("SELECT count(*) FROM expiries") == [(2,)]
    monkeypatch.setenv("EXPIRYTRACK_LOOKBACK_DAYS", "50")
    CLOCK.seconds += 7 * 3600
    house.schedule("discovery")
    assert house.instance.get_dynamic_partitions(partitions.EXPIRY) == ["2024-10-11", "2024-10-04"]
    house.sensor_until_idle("collection")
    assert len(house.table("SELECT * FROM cell_seals")) == 2
