"""The code location: it loads, and its graph does not drift unnoticed."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from expirytrack_dagster.definitions import build_defs, defs
from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.resources import ProgressResource

CHECKS = {
    "expiries": {"expiry_dates"},
    "contracts": {"contract_specification"},
    "candles": {"ohlc", "volume_and_open_interest", "duplicates", "timestamp_continuity", "completeness"},
}
COLUMNS = {
    "expiries": {"underlying", "expiry", "underlying_key", "discovered_at"},
    "contracts": {
        *("instrument_key", "underlying", "expiry", "instrument_type", "strike_price", "trading_symbol"),
        *("exchange_token", "lot_size", "tick_size", "minimum_lot", "freeze_quantity", "weekly"),
    },
    "candles": {
        *("underlying", "expiry", "instrument_key", "ts", "open", "high", "low", "close", "volume", "open_interest"),
    },
}
JOBS = {
    "expiry_fetch": {"expiries"},
    "contract_fetch": {"contracts"},
    "historical_data_fetch": {"contracts", "candles"},
    "parquet_export": {"parquet_archive"},
}


@pytest.fixture(scope="module")
def specs() -> dict[str, dg.AssetSpec]:
    """Return every asset by its name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("EXPIRYTRACK_HOME", raising=False)
        return {spec.key.to_user_string(): spec for spec in build_defs().resolve_all_asset_specs()}


def test_the_location_loads() -> None:
    """`defs` is what Dagster finds in the module, and everything in it fits together."""
    dg.Definitions.validate_loadable(defs())
    assert set(defs().resources or {}) >= {"upstox", "warehouse", "archive", "progress"}


def test_assets_and_their_lineage(specs: dict[str, dg.AssetSpec]) -> None:
    """Expiries lead to contracts, contracts to candles."""
    assert set(specs) >= set(CHECKS)
    upstream = {name: {dep.asset_key.to_user_string() for dep in specs[name].deps} for name in CHECKS}
    assert upstream == {"expiries": set(), "contracts": {"expiries"}, "candles": {"contracts"}}


@pytest.mark.parametrize("name", CHECKS)
def test_an_asset_reads_well_in_the_catalogue(specs: dict[str, dg.AssetSpec], name: str) -> None:
    """Group, kinds, owner and a description, and every column with its type and a sentence."""
    spec = specs[name]
    assert spec.group_name == "archive"
    assert "duckdb" in spec.kinds
    assert spec.owners == ["team:expirytrack"]
    assert spec.description
    schema = spec.metadata["dagster/column_schema"]
    schema = schema.value if isinstance(schema, dg.TableSchemaMetadataValue) else schema
    assert {column.name for column in schema.columns} >= COLUMNS[name]
    assert all(column.type and column.description for column in schema.columns)


@pytest.mark.parametrize(("name", "checks"), CHECKS.items(), ids=CHECKS)
def test_every_check_has_the_partitions_of_its_asset(
    specs: dict[str, dg.AssetSpec], name: str, checks: set[str]
) -> None:
    """The checks of each asset by name, each with a description and judged by partition."""
    found = [
        check
        for assets in build_defs().assets or []
        if isinstance(assets, dg.AssetsDefinition)
        for check in assets.check_specs
        if check.asset_key == dg.AssetKey(name)
    ]
    assert {check.name for check in found} >= checks
    assert all(check.description for check in found)
    assert all(check.partitions_def == specs[name].partitions_def for check in found)


def test_cells_are_underlying_and_expiry(specs: dict[str, dg.AssetSpec]) -> None:
    """Contracts and candles share one grid of two dynamic dimensions; expiries have the underlying alone."""
    grid = specs["candles"].partitions_def
    assert isinstance(grid, dg.MultiPartitionsDefinition)
    assert grid == specs["contracts"].partitions_def
    assert {dimension.name for dimension in grid.partitions_defs} == {"underlying", "expiry"}
    single = specs["expiries"].partitions_def
    assert isinstance(single, dg.DynamicPartitionsDefinition)
    assert single.name == "underlying"


@pytest.mark.parametrize(("name", "assets"), JOBS.items(), ids=JOBS)
def test_jobs_select_their_assets(name: str, assets: set[str]) -> None:
    """Each job materializes exactly its assets."""
    job = build_defs().resolve_job_def(name)
    assert {key.to_user_string() for key in job.asset_layer.selected_asset_keys} == assets


def test_one_cell_is_one_run() -> None:
    """A backfill of cells launches a run for each."""
    for assets in build_defs().assets or []:
        if isinstance(assets, dg.AssetsDefinition) and assets.key in {dg.AssetKey("contracts"), dg.AssetKey("candles")}:
            assert assets.backfill_policy == dg.BackfillPolicy.multi_run(max_partitions_per_run=1)


def test_a_resource_can_be_replaced() -> None:
    """An override takes the place of the resource of its name, and of no other."""
    mine = ProgressResource()
    replaced = build_defs(progress=mine).resources or {}
    assert replaced["progress"] is mine
    assert set(replaced) == set(build_defs().resources or {})


def test_a_bad_setting_is_told_when_the_location_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading with a setting that cannot be used raises the sentence that names it."""
    monkeypatch.setenv("EXPIRYTRACK_WORKERS", "none")
    with pytest.raises(ConfigurationError, match="EXPIRYTRACK_WORKERS"):
        build_defs()


def test_loading_writes_nothing(home: Path) -> None:
    """Definitions are built without a file or a folder being made."""
    build_defs()
    assert not home.exists()


def test_the_graph_does_not_drift_unnoticed() -> None:
    """Every asset, check, job, schedule and sensor by name: whoever adds or renames one changes this list too."""
    repository = build_defs().get_repository_def()
    graph = repository.asset_graph
    assert {
        key.to_user_string(): sorted(dep.to_user_string() for dep in graph.get(key).parent_keys)
        for key in graph.get_all_asset_keys()
    } == {
        "expiries": [],
        "contracts": ["expiries"],
        "candles": ["contracts"],
        "parquet_archive": ["candles"],
        "coverage": ["candles", "expiries"],
        "collection_plan": ["candles", "expiries"],
        "daily_bars": ["candles", "contracts"],
        "option_chain": ["candles", "contracts"],
        "implied_volatility": ["option_chain"],
        "chain_metrics": ["option_chain"],
        "continuous_futures": ["daily_bars"],
        "archive_maintenance": [],
    }
    assert {key.to_user_string() for key in graph.asset_check_keys} == {
        "expiries:expiry_dates",
        "contracts:contract_specification",
        *(f"candles:{name}" for name in CHECKS["candles"]),
        *(f"candles:{name}" for name in ("monotonic_strikes", "intrinsic_value", "put_call_parity")),
        *(f"candles:{name}" for name in ("open_interest_jumps", "archive_integrity")),
        "coverage:access_token",
        "coverage:leaving_soon",
    }
    assert {job.name for job in repository.get_all_jobs() if not job.name.startswith("__")} == {
        *JOBS,
        "data_validation",
        "derivation",
        "futures_rolling",
        "maintenance",
        "backup",
        "retention",
    }
    assert {schedule.name for schedule in repository.schedule_defs} == {
        "discovery",
        "refresh",
        "nightly_maintenance",
        "nightly_retention",
        "nightly_backup",
    }
    assert {sensor.name for sensor in repository.sensor_defs} == {
        "alerts",
        "collection",
        "token_life",
        "derivations",
    }


@pytest.mark.parametrize("automatic", [False, True])
def test_nothing_runs_by_itself_unless_wanted(monkeypatch: pytest.MonkeyPatch, *, automatic: bool) -> None:
    """Requests are scarce: schedules and sensors are switched on by a setting or in the UI, not by being there."""
    monkeypatch.setenv("EXPIRYTRACK_AUTOMATIC", str(automatic))
    repository = build_defs().get_repository_def()
    own = [schedule for schedule in repository.schedule_defs if schedule.name != "nightly_backup"]
    assert all((one.default_status is dg.DefaultScheduleStatus.RUNNING) is automatic for one in own)
    assert all((one.default_status is dg.DefaultSensorStatus.RUNNING) is automatic for one in repository.sensor_defs)
    assert {schedule.execution_timezone for schedule in repository.schedule_defs} == {"Asia/Kolkata"}


def test_what_is_late_is_seen(specs: dict[str, dg.AssetSpec]) -> None:
    """Discovery and coverage have a freshness policy; only pure derivations materialize themselves."""
    assert {name for name, spec in specs.items() if spec.freshness_policy} == {"expiries", "coverage"}
    assert {name for name, spec in specs.items() if spec.automation_condition} == {
        *("coverage", "collection_plan"),
        *("daily_bars", "option_chain", "implied_volatility", "chain_metrics", "continuous_futures"),
    }


def test_every_asset_leads_to_its_documentation(specs: dict[str, dg.AssetSpec]) -> None:
    """A page of the docs that exists, and Upstox's own for what asks the API."""
    for name, spec in specs.items():
        page = spec.metadata["docs"]
        assert isinstance(page, dg.PathMetadataValue)
        expected = (
            "exports" if name == "parquet_archive" else "queries" if spec.group_name == "derived" else "automation"
        )
        assert page.value == f"docs/{expected}.md"
        assert (Path(__file__).parents[2] / page.value).exists()
        assert ("upstox_docs" in spec.metadata) == (name in CHECKS)
