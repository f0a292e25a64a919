"""The checks of a cell's chain: what its contracts say about each other, after the candles have been written.

They need all contracts of a minute at once, which no batch has, so they read the archive, one day at a time. They
block nothing, and what they find fails no run: it is a warning with the worst rows and a picture of where they lie.
"""

from collections.abc import Iterator
from datetime import date
from typing import TYPE_CHECKING

import dagster as dg

from expirytrack_dagster.checks.results import check_result
from expirytrack_dagster.checks.specs import chain_checks
from expirytrack_dagster.failures import readable_failures
from expirytrack_dagster.partitions import cell_of
from expirytrack_dagster.resources import WarehouseResource

if TYPE_CHECKING:
    from expirytrack_dagster.quality.chain import ChainReport


@dg.multi_asset_check(name="chain", specs=chain_checks, can_subset=True)
def chain(context: dg.AssetCheckExecutionContext, warehouse: WarehouseResource) -> Iterator[dg.AssetCheckResult]:
    """Judge the cell's chain, as it is in the archive."""
    from expirytrack_dagster.quality.pictures import violations

    with readable_failures():
        report = judged(warehouse, context.partition_key)
        for outcome in report.outcomes:
            if dg.AssetCheckKey(dg.AssetKey("candles"), outcome.name) in context.selected_asset_check_keys:
                spots = report.spots[report.spots["check"] == outcome.name]
                yield check_result(outcome, "candles", image=violations(spots, f"{outcome.name}: violations"))


def judged(warehouse: WarehouseResource, partition_key: str) -> "ChainReport":
    """Return the report on a cell; one that is not listed or has no candles has nothing to find."""
    from expirytrack_dagster.quality.chain import judge_chain
    from expirytrack_dagster.warehouse import reader

    symbol, day = cell_of(partition_key)
    expiry = date.fromisoformat(day)
    return judge_chain(reader.chain_days(warehouse.open(), symbol, expiry), expiry)
