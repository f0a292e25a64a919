"""What keeps an eye on things: the token, the end of the list, coverage, and why nothing was requested."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from expirytrack_dagster.collect.horizon import record_list
from expirytrack_dagster.observe.alerts import standing
from expirytrack_dagster.sandbox.switches import Fault
from expirytrack_dagster.state import open_state
from expirytrack_dagster.state.tables import leases
from expirytrack_dagster.warehouse.connection import Warehouse
from expirytrack_dagster_tests.integration.automation.conftest import CLOCK, QUIET, india, token_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from expirytrack_dagster_tests.integration.automation.conftest import Machine

pytestmark = pytest.mark.filterwarnings("ignore:Non-compliant tag keys:DeprecationWarning")

TOKEN = token_until(india(30, 3, 30))


def materialized(house: Machine, *names: str) -> dg.ExecuteInProcessResult:
    """Materialize unpartitioned assets with their checks."""
    job = house.defs.get_repository_def().get_implicit_global_asset_job_def()
    selection = [dg.AssetKey(name) for name in names]
    return job.get_subset(asset_selection=set(selection)).execute_in_process(
        instance=house.instance, run_config=QUIET, raise_on_error=False
    )


def why(outcome: dg.SkipReason | int) -> str:
    """Return why nothing was requested."""
    assert isinstance(outcome, dg.SkipReason)
    return str(outcome.skip_message)


def test_every_reason_is_told(machine: Callable[..., Machine], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing tracked, no token, a busy archive, a refused token: a sentence each, and no request."""
    house = machine(india(11, 9, 5), [], TOKEN)
    for skipped in (house.schedule("discovery"), house.schedule("refresh"), house.sensor("collection")):
        assert "Nothing is tracked" in why(skipped)
    house = machine(india(11, 9, 5), ["NIFTY"], TOKEN)
    assert "Nothing is due" in why(house.sensor("collection"))
    assert "No cell waits" in why(house.schedule("refresh"))
    with Warehouse(house.settings.database).writing():
        monkeypatch.setattr("expirytrack_dagster.sensors.PATIENCE", 0.1)
        assert "The archive is busy" in why(house.sensor("collection"))
    monkeypatch.setenv("EXPIRYTRACK_ACCESS_TOKEN", token_until(india(11, 3, 30)))
    assert "died" in why(house.schedule("discovery"))
    assert house.upstox.requests() == []


def test_a_refused_token_is_not_tried_again_and_again(machine: Callable[..., Machine]) -> None:
    """A token that looks good and is refused stops all requests for a while, and one try follows."""
    house = machine(india(11, 9, 5), ["NIFTY", "SENSEX"], TOKEN)
    house.upstox.switch(faults=(Fault(401),))
    house.schedule("discovery")
    refused = len(house.upstox.requests())
    assert "refused the token" in why(house.schedule("discovery"))
    assert "refused the token" in why(house.sensor("collection"))
    assert len(house.upstox.requests()) == refused
    CLOCK.seconds += 3600
    house.upstox.switch(faults=())
    assert house.schedule("discovery") == 2


def test_after_an_outage_one_cell_tries(machine: Callable[..., Machine]) -> None:
    """One run finds out whether Upstox answers again, and the others follow once it does."""
    house = machine(india(11, 9, 5), ["NIFTY", "SENSEX"], TOKEN)
    house.schedule("discovery")
    house.upstox.switch(faults=(Fault(503),))
    assert house.sensor("collection") == 3
    CLOCK.seconds += 11 * 60
    assert house.sensor("collection") == 1
    CLOCK.seconds += 21 * 60
    house.upstox.switch(faults=())
    assert house.sensor("collection") == 1
    assert house.sensor("collection") == 2


def test_stuck_contracts_wait_for_the_refresh(machine: Callable[..., Machine]) -> None:
    """A contract that Upstox refuses is left alone by the sensor and asked again by the schedule, alone."""
    house = machine(india(5, 9, 5), ["NIFTY"], TOKEN)
    house.schedule("discovery")
    rows = house.upstox.sandbox.market.option_contracts("NSE_INDEX|Nifty 50", date(2024, 10, 3)) or []
    key = str(rows[0]["instrument_key"])
    house.upstox.switch(faults=(Fault(400, tokens=(key,)),))
    assert "or waits for the refresh" in why(house.sensor_until_idle("collection"))
    house.upstox.switch(faults=())
    before = len(house.upstox.requests())
    assert house.schedule("refresh") == 1
    asked = house.upstox.requests()[before:]
    assert all(key.split("|")[1] in entry.path for entry in asked)
    assert len(house.table("SELECT * FROM cell_seals")) == 1
    assert "No cell waits" in why(house.schedule("refresh"))


def test_a_cell_in_vain_rests_before_it_is_tried_again(machine: Callable[..., Machine]) -> None:
    """A run that fails is tried again under a new key, after ten minutes, then twenty."""
    house = machine(india(5, 9, 5), ["NIFTY"], TOKEN)
    house.schedule("discovery")
    house.upstox.switch(faults=(Fault(400, endpoints=("option_contracts",)),))
    assert house.sensor("collection") == 1
    assert "rest after a try in vain" in why(house.sensor("collection"))
    CLOCK.seconds += 11 * 60
    assert house.sensor("collection") == 1
    CLOCK.seconds += 11 * 60
    assert "rest after a try in vain" in why(house.sensor("collection"))
    CLOCK.seconds += 10 * 60
    house.upstox.switch(faults=())
    assert house.sensor("collection") == 1
    assert [success for _, _, success in house.runs[1:]] == [False, False, True]


def test_the_token_is_watched(machine: Callable[..., Machine], monkeypatch: pytest.MonkeyPatch) -> None:
    """A warning in the last hour, an error after its death, and a pass when a new one is there; each once."""
    house = machine(india(11, 9, 5), ["NIFTY"], token_until(india(12, 3, 30)))
    key = dg.AssetCheckKey(dg.AssetKey("coverage"), "access_token")

    def told() -> tuple[bool, str] | None:
        record = house.instance.event_log_storage.get_latest_asset_check_execution_by_key([key]).get(key)
        evaluation = record.evaluation if record else None
        assert evaluation is None or isinstance(evaluation, dg.AssetCheckEvaluation)
        return (evaluation.passed, evaluation.severity.value) if evaluation else None

    seen = []
    for moment, token in (
        (india(11, 10), None),
        (india(12, 2, 40), None),
        (india(12, 2, 45), None),
        (india(12, 3, 31), None),
        (india(12, 9), token_until(india(13, 3, 30))),
    ):
        CLOCK.set(moment)
        if token:
            monkeypatch.setenv("EXPIRYTRACK_ACCESS_TOKEN", token)
        events = house.sensor_events("token_life")
        seen.append([(event.passed, event.severity.value) for event in events])
        for event in events:
            house.instance.report_runless_asset_event(event)
    assert seen == [[(True, "ERROR")], [(False, "WARN")], [], [(False, "ERROR")], [(True, "ERROR")]]
    assert told() == (True, "ERROR")


def test_what_is_about_to_leave_is_told(machine: Callable[..., Machine]) -> None:
    """Coverage counts real cells; its check names what leaves the list incomplete, and each such cell is an alert."""
    house = machine(india(11, 9, 5), ["NIFTY", "SENSEX"], TOKEN)
    record_list(open_state(house.settings), "NIFTY", [date(2024, 10, 2)], india(11, 8) - timedelta(days=1))
    house.schedule("discovery")
    result = materialized(house, "coverage", "collection_plan")
    assert result.success
    metadata = {
        event.asset_key.to_user_string(): event.materialization.metadata
        for event in result.get_asset_materialization_events()
        if event.asset_key
    }
    assert metadata["coverage"]["cells"].value == 3
    assert metadata["coverage"]["not_begun"].value == 3
    assert metadata["collection_plan"]["cells"].value == 3
    assert metadata["collection_plan"]["requests"].value
    check = next(found for found in result.get_asset_check_evaluations() if found.check_name == "leaving_soon")
    assert not check.passed
    table = check.metadata["leaving"].value
    assert "expirytrack collect NIFTY --expiry 2024-10-03" in str(table.records[0].data["what_to_do"])  # type: ignore[union-attr]
    house.sensor("alerts")
    told = [alert for alert in standing(open_state(house.settings)) if alert.name == "horizon"]
    assert [alert.subject for alert in told] == ["NIFTY 2024-10-03", "SENSEX 2024-10-04", "NIFTY 2024-10-10"]
    assert told[0].todo == "Run: expirytrack collect NIFTY --expiry 2024-10-03"


@pytest.mark.filterwarnings("ignore:Parameter `include_sources`")  # Dagster's own, in its helper for tests
def test_derivations_follow_the_archive(machine: Callable[..., Machine]) -> None:
    """Coverage and plan are due when a cell came in, once, and not without news."""
    house = machine(india(11, 9, 5), ["NIFTY"], TOKEN)
    now = india(11, 9, 10)
    first = dg.evaluate_automation_conditions(defs=house.defs, instance=house.instance, evaluation_time=now)
    house.schedule("discovery")
    second = dg.evaluate_automation_conditions(
        defs=house.defs, instance=house.instance, cursor=first.cursor, evaluation_time=now + timedelta(minutes=20)
    )
    third = dg.evaluate_automation_conditions(
        defs=house.defs, instance=house.instance, cursor=second.cursor, evaluation_time=now + timedelta(minutes=40)
    )
    keys = [dg.AssetKey("coverage"), dg.AssetKey("collection_plan")]
    assert [[result.get_num_requested(key) for key in keys] for result in (first, second, third)] == [
        [0, 0],
        [1, 1],
        [0, 0],
    ]


def test_what_another_host_collects_is_not_requested(machine: Callable[..., Machine]) -> None:
    """The next cell in line is, and once the other host has been silent for too long, its cell is too."""
    house = machine(india(11, 20, 5), ["NIFTY"], TOKEN)
    assert house.schedule("discovery") == 1
    before = len(house.runs)
    lease = {"name": "NIFTY 2024-10-10", "number": 1, "process": "7 since 1728600000 on trader-2~abc123", "run_id": ""}
    with open_state(house.settings) as state, state.transaction() as connection:
        connection.execute(leases.insert(), lease | {"until": CLOCK.seconds + 120})
    assert house.sensor("collection") == 1
    assert [partition for _, partition, _ in house.runs[before:]] == ["2024-10-03|NIFTY"]
    assert "are due: all are under way" in why(house.sensor("collection"))
    CLOCK.seconds += 121
    assert house.sensor("collection") == 1
    assert house.runs[-1] == ("historical_data_fetch", "2024-10-10|NIFTY", True)
