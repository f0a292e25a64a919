"""What is made from the candles of a cell, and the continuous futures of an underlying: by SQL, without a request.

The SQL is in `warehouse/derivations/`, the mathematics in `analytics/`. An asset here only says what it is made from,
when it is made by itself, and what became of it.
"""

import time
from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING

import dagster as dg

from expirytrack_dagster.assets.candles import candles
from expirytrack_dagster.assets.common import OWNERS, documents
from expirytrack_dagster.assets.contracts import contracts
from expirytrack_dagster.checks.results import picture
from expirytrack_dagster.failures import readable_failures
from expirytrack_dagster.partitions import UNDERLYING, cell_of, cells, underlyings
from expirytrack_dagster.resources import WarehouseResource
from expirytrack_dagster.settings import load_settings

if TYPE_CHECKING:
    from expirytrack_dagster.warehouse.derived import CellTable, Derived

CONVENTION = (
    "Black-76 on the forward; time in actual minutes over 365 days, from the end of the bar to the end of the last "
    "minute of the expiry day; rate continuously compounded; vega and rho a percentage point, theta a calendar day."
)

_WHEN = dg.AutomationCondition
# A cell is made once when it is missing and its candles are there, also those from before the daemon ran for the first
# time (on_missing() leaves these out), and again when what it is made from has become something else.
_NEW_OR_OTHER = (
    (
        _WHEN.missing().newly_true().since(_WHEN.newly_requested() | _WHEN.newly_updated())
        | (_WHEN.any_deps_match(_WHEN.data_version_changed()) & ~_WHEN.in_progress())
    )
    & ~_WHEN.any_deps_missing()
    & _WHEN.all_deps_blocking_checks_passed()
)


def _of_cell(table: "CellTable", made_from: list[dg.AssetsDefinition], description: str) -> dg.AssetsDefinition:
    """Return the asset of a table of one cell."""

    @dg.asset(
        name=table,
        partitions_def=cells,
        deps=made_from,
        backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=1),
        automation_condition=_NEW_OR_OTHER,
        code_version="1",
        group_name="derived",
        kinds={"duckdb", "sql"},
        owners=OWNERS,
        metadata=documents("queries"),
        description=description,
    )
    def made(context: dg.AssetExecutionContext, warehouse: WarehouseResource) -> dg.MaterializeResult[None]:
        from expirytrack_dagster.charts.drawing import smile_picture
        from expirytrack_dagster.warehouse.derived import derive
        from expirytrack_dagster.warehouse.published import publish

        started = time.monotonic()
        underlying, day = cell_of(context.partition_key)
        expiry = date.fromisoformat(day)
        with readable_failures():
            rate = load_settings().interest_rate
            archive = warehouse.open()
            found = derive(archive, table, underlying, expiry, rate, context.run.run_id)
            publish(archive, underlying, expiry)
            image = smile_picture(archive, underlying, expiry) if table == "implied_volatility" else None
        told: dict[str, float | str] = {} if table == "daily_bars" else {"rate": rate, "convention": CONVENTION}
        version = f"{found.source_version}-{rate}" if told else found.source_version
        shown = {"smile": picture(image, "smile")} if image else {}
        return _result(found, started, {**told, **shown}, version=version)

    return made


daily_bars = _of_cell(
    "daily_bars",
    [contracts, candles],
    "One bar a contract and trading day. Bars of 3, 5, 15, 30 and 60 minutes are views: bars_3m to bars_60m.",
)
option_chain = _of_cell(
    "option_chain",
    [contracts, candles],
    "One row a minute and strike with both options, the forward that the chain implies, moneyness, days to expiry, "
    "intrinsic and time value, in the order of time.",
)
implied_volatility = _of_cell(
    "implied_volatility",
    [option_chain],
    "Volatility and greeks of every option and minute; where a price determines none, the reason.",
)
chain_metrics = _of_cell(
    "chain_metrics",
    [option_chain],
    "One row a minute: put-call ratios, max pain, the straddle at the money, changes of open interest, the forward.",
)


@dg.asset(
    partitions_def=underlyings,
    deps=[
        dg.AssetDep(
            daily_bars,
            partition_mapping=dg.MultiToSingleDimensionPartitionMapping(partition_dimension_name=UNDERLYING),
        )
    ],
    automation_condition=_WHEN.any_deps_updated() & ~_WHEN.in_progress(),
    code_version="1",
    group_name="derived",
    kinds={"duckdb", "sql"},
    owners=OWNERS,
    metadata=documents("queries"),
    description="The futures of an underlying as one series, by three rules of rolling, with the sums and products of "
    "gaps that adjust earlier prices; the macros continuous and continuous_minutes apply them.",
)
def continuous_futures(context: dg.AssetExecutionContext, warehouse: WarehouseResource) -> dg.MaterializeResult[None]:
    """Join the daily bars of all futures that are there."""
    from expirytrack_dagster.warehouse.derived import derive_continuous
    from expirytrack_dagster.warehouse.published import publish

    started = time.monotonic()
    with readable_failures():
        archive = warehouse.open()
        found = derive_continuous(archive, context.partition_key, context.run.run_id)
        publish(archive, context.partition_key)
    return _result(found, started, {}, version=found.source_version)


def _result(
    found: "Derived", started: float, told: Mapping[str, float | str | dg.MetadataValue], *, version: str
) -> dg.MaterializeResult[None]:
    columns = [dg.TableColumn(name, kind, description=meaning) for name, kind, meaning in found.columns]
    return dg.MaterializeResult(
        data_version=dg.DataVersion(version),
        metadata={
            "dagster/partition_row_count": found.rows,
            "dagster/column_schema": dg.TableSchema(columns=columns),
            "source_version": found.source_version,
            "seconds": round(time.monotonic() - started, 3),
            **told,
        },
    )
