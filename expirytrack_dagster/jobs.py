"""The jobs that can be launched by name, from the UI and from the command line.

A job selects assets (`expiries` has one dimension and the cells have two, so they cannot share a job), or calls one
function of the rooms below. When jobs run by themselves is said in `schedules.py`.
"""

from typing import TYPE_CHECKING

import dagster as dg

from expirytrack_dagster.checks.specs import chain_checks
from expirytrack_dagster.partitions import cells

if TYPE_CHECKING:  # has no public name
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

expiry_fetch = dg.define_asset_job(
    "expiry_fetch",
    selection="expiries",
    description="Ask which expiries Upstox lists for an underlying; new dates become partitions.",
)
contract_fetch = dg.define_asset_job(
    "contract_fetch",
    selection="contracts",
    description="Fetch the contract list of a cell.",
)
historical_data_fetch = dg.define_asset_job(
    "historical_data_fetch",
    selection=["contracts", "candles"],
    description="Collect a cell: its contract list, then the candles of every contract.",
)
data_validation = dg.define_asset_job(
    "data_validation",
    selection=dg.AssetSelection.checks(
        dg.AssetCheckKey(dg.AssetKey("candles"), "archive_integrity"), *(spec.key for spec in chain_checks)
    ),
    # Dagster reads a job's partitions off its assets; this one has none, only the check of one, so its config says it.
    config=dg.PartitionedConfig(partitions_def=cells, run_config_for_partition_key_fn=lambda _key: {}),
    description="Prove a stored cell from the archive itself, as `expirytrack verify` does, and judge its chain. No "
    "request.",
)
parquet_export = dg.define_asset_job(
    "parquet_export",
    selection="parquet_archive",
    description="Write a stored cell as Parquet files. No request.",
)
derivation = dg.define_asset_job(
    "derivation",
    selection=["daily_bars", "option_chain", "implied_volatility", "chain_metrics"],
    description="Make what is derived from a cell's candles: daily bars, chain, volatilities, metrics. No request.",
)
futures_rolling = dg.define_asset_job(
    "futures_rolling",
    selection="continuous_futures",
    description="Join the futures of an underlying, by three rules. No request.",
)
maintenance = dg.define_asset_job(
    "maintenance",
    selection="archive_maintenance",
    description="Compact a lake and expire its old snapshots, as `expirytrack maintain` does. No request.",
)


@dg.op(name="back_up", description="Copy the home, prove the copy, seal it, and let the oldest backup go.")
def _back_up(context: dg.OpExecutionContext) -> None:
    from expirytrack_dagster.backup import back_up
    from expirytrack_dagster.failures import readable_failures
    from expirytrack_dagster.settings import load_settings

    with readable_failures():
        made = back_up(load_settings())
    context.add_output_metadata(
        {
            "file": dg.MetadataValue.path(str(made.path)),
            "bytes": made.size,
            "files": made.parts,
            "candles": made.rows.get("candles", 0),
            "older backups removed": len(made.removed),
            "verify": made.summary,
        }
    )


@dg.job(name="backup", description="Make a sealed backup of the home, as `expirytrack backup` does.")
def backup() -> None:
    """Run the one step."""
    _back_up()


@dg.op(name="forget", description="Forget runs of discovery that ended a month ago or earlier.")
def _forget(context: dg.OpExecutionContext) -> None:
    from datetime import UTC, datetime

    from expirytrack_dagster.retention import forget_discoveries

    context.add_output_metadata({"runs forgotten": forget_discoveries(context.instance, datetime.now(tz=UTC))})


@dg.job(
    name="retention",
    description="Forget runs of discovery that ended a month ago or earlier: they would fill the disk in the end. What "
    "they found stays.",
)
def retention() -> None:
    """Run the one step."""
    _forget()


all_jobs: list["dg.JobDefinition | UnresolvedAssetJobDefinition"] = [
    expiry_fetch,
    contract_fetch,
    historical_data_fetch,
    data_validation,
    parquet_export,
    derivation,
    futures_rolling,
    maintenance,
    backup,
    retention,
]
