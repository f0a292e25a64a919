"""The checks of the chain and the coverage, as a collection leaves them in Dagster."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
from dagster._core.event_api import PartitionKeyFilter

from expirytrack_dagster.backfill import track
from expirytrack_dagster.checks.specs import chain_checks
from expirytrack_dagster.console import ProgressBars
from expirytrack_dagster.definitions import build_defs
from expirytrack_dagster.instance import open_instance
from expirytrack_dagster.partitions import EXPIRY, cell_key
from expirytrack_dagster.runs import Runner
from expirytrack_dagster.sandbox.planting import CHAIN_KINDS, Plant
from expirytrack_dagster.sandbox.running import running
from expirytrack_dagster.sandbox.switches import Fault, Switches
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket
from expirytrack_dagster.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from expirytrack_dagster.settings import Settings
    from expirytrack_dagster_tests.integration.assets.conftest import Archive

DAY = date(2025, 8, 28)
MARKET = SyntheticMarket(strikes=4, days=2, today=date(2025, 9, 15))
NAMES = {"monotonic_strikes", "intrinsic_value", "put_call_parity", "open_interest_jumps"}
IMAGE = "data:image/png;base64,"


def evaluations(settings: Settings, day: str = DAY.isoformat()) -> dict[str, dg.AssetCheckEvaluation]:
    """Return the last result of each check of the chain."""
    with open_instance(settings) as instance:
        records = instance.event_log_storage.get_latest_asset_check_execution_by_key(
            [spec.key for spec in chain_checks], PartitionKeyFilter(key=cell_key("NIFTY", day))
        )
    return {key.name: record.evaluation for key, record in records.items() if record.evaluation}


def metadata_of_candles(settings: Settings) -> dict[str, Any]:
    """Return the metadata of the last materialization of the candles."""
    with open_instance(settings) as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey("candles"))
    assert event is not None
    assert event.asset_materialization is not None
    return {name: entry.value for name, entry in event.asset_materialization.metadata.items()}


def test_a_sound_cell_passes_and_shows_its_coverage(collect: Callable[..., Archive]) -> None:
    """Every check of the chain passes for the cell in the collecting run, and the candles show a map of coverage."""
    with running(MARKET) as upstox:
        archive = collect(upstox, [DAY])
        assert archive.outcome.exit_code == 0
        assert {line.name for line in archive.outcome.checks} >= NAMES
        assert all(line.passed for line in archive.outcome.checks)
        again = collect(upstox, [DAY])
        assert (again.outcome.exit_code, again.outcome.requests) == (0, 0)
        assert not again.outcome.checks, "what passed is not told again"
    assert set(evaluations(archive.settings)) == NAMES
    metadata = metadata_of_candles(archive.settings)
    assert metadata["coverage"].startswith(f"![coverage]({IMAGE}")
    assert len(metadata["coverage"]) < 50_000
    contracts = archive.number("SELECT count(*) FROM contracts")
    assert metadata["contract_minutes"] == contracts * 2 * 375
    assert metadata["contract_minutes_traded"] == archive.number("SELECT count(*) FROM candles")
    assert metadata["coverage_percent"] == pytest.approx(
        100 * metadata["contract_minutes_traded"] / (contracts * 750), abs=0.01
    )


def test_coverage_joins_staged_and_archived_contracts(collect: Callable[..., Archive]) -> None:
    """When a second run collects what the first could not, its coverage is that of the whole cell."""
    keys = [str(row["instrument_key"]) for row in MARKET.option_contracts("NSE_INDEX|Nifty 50", DAY) or []]
    broken = tuple(key.split("|")[1] for key in keys[6:8])
    with running(MARKET) as upstox:
        upstox.switch(faults=(Fault(400, tokens=broken, endpoints=("candles",)),))
        first = collect(upstox, [DAY])
        assert first.outcome.exit_code == 3
        partly = metadata_of_candles(first.settings)["contract_minutes_traded"]
        upstox.switch(faults=())
        whole = collect(upstox, [DAY])
    assert whole.outcome.exit_code == 0
    metadata = metadata_of_candles(whole.settings)
    assert metadata["contract_minutes_traded"] == whole.number("SELECT count(*) FROM candles") > partly


def test_faults_of_the_chain_warn_with_rows_and_a_picture(collect: Callable[..., Archive]) -> None:
    """Each failed check is a warning with its worst rows and a picture; no row is dropped, the run succeeds."""
    keys = [str(row["instrument_key"]) for row in MARKET.option_contracts("NSE_INDEX|Nifty 50", DAY) or []]
    planted = Plant((keys[8], keys[10]), tuple(kind for kind in CHAIN_KINDS if kind != "missing_minute"))
    with running(MARKET, switches=Switches(planted=(planted,))) as upstox:
        archive = collect(upstox, [DAY])
    assert archive.outcome.exit_code == 0
    assert archive.number("SELECT count(*) FROM quarantine") == 0
    found = evaluations(archive.settings)
    failed = {name for name, evaluation in found.items() if not evaluation.passed}
    assert failed >= {"monotonic_strikes", "put_call_parity", "open_interest_jumps"}
    for name in failed:
        evaluation = found[name]
        assert evaluation.severity == dg.AssetCheckSeverity.WARN
        assert not evaluation.blocking
        table: Any = evaluation.metadata["failing_rows"]
        assert {"time", "instrument_key", "detail", "excess"} <= set(table.records[0].data)
        image: Any = evaluation.metadata["picture"]
        assert IMAGE in image.value
        assert len(image.value) < 50_000


def test_a_cell_that_lists_nothing_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Materialized by hand, a cell that its exchange never listed passes each check with a sentence."""
    with running(MARKET) as upstox:
        monkeypatch.setenv("EXPIRYTRACK_API_URL", upstox.url)
        monkeypatch.setenv("EXPIRYTRACK_ACCESS_TOKEN", "x")
        settings = load_settings()
        with open_instance(settings) as instance:
            track(settings, instance, "NIFTY")
            instance.add_dynamic_partitions(EXPIRY, ["2025-08-29"])
            report = Runner(instance, ProgressBars()).collect("NIFTY", "2025-08-29")
    assert report.error is None
    lines = {line.name: line for line in report.checks}
    assert all(lines[name].passed for name in NAMES)
    assert all("Nothing of this cell can be judged" in lines[name].summary for name in NAMES)


def test_the_chain_is_judged_again_without_a_request(collect: Callable[..., Archive]) -> None:
    """The checks of a stored cell can be evaluated alone, all of them or a single one."""
    key = dg.AssetCheckKey(dg.AssetKey("candles"), "put_call_parity")
    with running(MARKET) as upstox:
        archive = collect(upstox, [DAY])
        before = len(upstox.requests())
        job = build_defs().resolve_job_def("data_validation")
        with open_instance(archive.settings) as instance:
            alone = job.get_subset(asset_check_selection={key})
            for chosen, expected in ((job, {*NAMES, "archive_integrity"}), (alone, {key.name})):
                result = chosen.execute_in_process(instance=instance, partition_key=cell_key("NIFTY", DAY.isoformat()))
                assert result.success
                assert {evaluation.check_name for evaluation in result.get_asset_check_evaluations()} == expected
        assert len(upstox.requests()) == before
