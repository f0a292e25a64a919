"""The assets `coverage` and `collection_plan`: what is there of what Upstox lists, and what the rest will cost.

Neither has partitions nor rows: their figures are the metadata of each materialization, which the UI plots. Neither
asks the API.
"""

from typing import Any

import dagster as dg

from expirytrack_dagster.assets.candles import candles
from expirytrack_dagster.assets.common import FRESH, OWNERS, documents
from expirytrack_dagster.assets.expiries import expiries
from expirytrack_dagster.checks.results import failing_table
from expirytrack_dagster.failures import readable_failures
from expirytrack_dagster.resources import UpstoxResource, WarehouseResource

_QUARTER: dg.AutomationCondition[Any] = dg.AutomationCondition.cron_tick_passed("*/15 * * * *", "Asia/Kolkata")
_CELLS: dg.AutomationCondition[Any] = dg.AutomationCondition.any_deps_updated()
NEWS = _CELLS.since_last_handled() & _QUARTER.since_last_handled() & ~dg.AutomationCondition.in_progress()
"""These are pure derivations of the archive: counted again when a cell came in, at most every quarter of an hour."""

SHOWN = 50


@dg.asset(
    deps=[expiries, candles],
    group_name="overview",
    kinds={"duckdb"},
    owners=OWNERS,
    metadata=documents("automation"),
    freshness_policy=FRESH,
    automation_condition=NEWS,
    description="How much of what Upstox lists is in the archive. Only cells that exist are counted: by underlying, "
    "complete, begun, not begun, waiting for Upstox, and lost before they were complete.",
)
def coverage(upstox: UpstoxResource, warehouse: WarehouseResource) -> dg.MaterializeResult[None]:
    """Count the cells."""
    from expirytrack_dagster.collect.overview import overview
    from expirytrack_dagster.observe.metrics import metrics
    from expirytrack_dagster.planning import outlook

    with readable_failures():
        found = overview(outlook(upstox.settings(), warehouse.open(), upstox.ledger(), upstox.now()).cells)
    for row in found.table.to_dict("records"):
        if row["contracts"]:
            percent = 100 * row["final_contracts"] / row["contracts"]
            metrics().completeness_percent.labels(row["underlying"]).set(round(percent, 2))
    return dg.MaterializeResult(metadata={**found.numbers, "by_underlying": failing_table(found.table)})


@dg.asset(
    deps=[expiries, candles],
    group_name="overview",
    kinds={"duckdb"},
    owners=OWNERS,
    metadata=documents("automation"),
    automation_condition=NEWS,
    description="What it costs to collect what is missing: requests, candles, bytes, and when it is done under the "
    "limits as they stand, against the death of the token and the end of Upstox's list. As `expirytrack plan`.",
)
def collection_plan(upstox: UpstoxResource, warehouse: WarehouseResource) -> dg.MaterializeResult[None]:
    """Plan what is missing, in the order in which it is collected."""
    from expirytrack_dagster.collect.plan import numbers, table
    from expirytrack_dagster.planning import outlook

    with readable_failures():
        look = outlook(upstox.settings(), warehouse.open(), upstox.ledger(), upstox.now())
        plan = look.plan(look.missing())
    return dg.MaterializeResult(
        metadata={
            **numbers(plan),
            "finish": dg.MetadataValue.timestamp(plan.finish),
            "token_dies": dg.MetadataValue.timestamp(plan.token_dies),
            "next_cells": failing_table(table(plan).head(SHOWN)),
        }
    )
