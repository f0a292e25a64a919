"""The asset `contracts`: every option and future of a cell, as the API lists them."""

import asyncio
import time
from collections.abc import Iterator
from datetime import date

import dagster as dg

from expirytrack_dagster.assets.common import OWNERS, POOL, CollectConfig, column_schema, documents
from expirytrack_dagster.assets.expiries import expiries
from expirytrack_dagster.checks.results import check_result
from expirytrack_dagster.checks.specs import contracts_checks
from expirytrack_dagster.errors import UnfitData
from expirytrack_dagster.failures import readable_failures
from expirytrack_dagster.io_managers import ListedContracts
from expirytrack_dagster.partitions import UNDERLYING, cell_of, cells
from expirytrack_dagster.resources import UpstoxResource, WarehouseResource


@dg.asset(
    partitions_def=cells,
    deps=[
        dg.AssetDep(
            expiries,
            partition_mapping=dg.MultiToSingleDimensionPartitionMapping(partition_dimension_name=UNDERLYING),
        )
    ],
    backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=1),
    check_specs=contracts_checks,
    io_manager_key="archive",
    pool=POOL,
    group_name="archive",
    kinds={"upstox", "duckdb"},
    owners=OWNERS,
    metadata={
        "dagster/column_schema": column_schema("contracts"),
        **documents("automation", "get-expired-option-contracts"),
    },
    description="Options and futures of an underlying at an expiry, as Upstox lists them. Two requests the first "
    "time, none after that: the list of an expired cell does not change.",
)
def contracts(
    context: dg.AssetExecutionContext, config: CollectConfig, upstox: UpstoxResource, warehouse: WarehouseResource
) -> Iterator[dg.AssetCheckResult | dg.Output[object]]:
    """Take the cell's list from the archive or ask for it, and refuse it as a whole when any row is broken."""
    from expirytrack_dagster.collect import contracts as listing
    from expirytrack_dagster.collect import tracking
    from expirytrack_dagster.collect.horizon import is_withdrawn
    from expirytrack_dagster.quality.contracts import check_contracts
    from expirytrack_dagster.warehouse import reader

    started = time.monotonic()
    symbol, day = cell_of(context.partition_key)
    expiry = date.fromisoformat(day)
    with readable_failures():
        lease = upstox.hold(symbol, expiry)
        archive = warehouse.open()
        underlying = tracking.find(upstox.state(), symbol)
        known = reader.contracts(archive, symbol, expiry)
        if day not in reader.listed(archive).get(symbol, set()):
            found = listing.not_listed()
        elif is_withdrawn(upstox.state(), symbol, expiry):
            if not len(known):
                raise UnfitData(
                    f"Upstox lists {symbol} {day} no more, and its contracts were never asked for: nothing can be "
                    "asked now. It becomes due by itself if it is ever listed again."
                )
            found = listing.from_archive(known)
        elif (len(known) or reader.is_sealed(archive, symbol, expiry)) and not config.refetch:
            found = listing.from_archive(known)
        else:

            async def ask() -> listing.ContractList:
                async with upstox.client(context.run.run_id, fresh=config.refetch) as client:
                    return await listing.ask_contracts(client, underlying, expiry)

            found = asyncio.run(ask())

        outcome = check_contracts(found.frame, underlying_key=underlying.instrument_key, expiry=expiry)
        yield check_result(outcome, "contracts")
        if outcome.fatal and not outcome.passed:
            upstox.forget_answers(underlying.instrument_key)
            raise UnfitData(outcome.summary)
        kinds = found.frame["instrument_type"].value_counts()
        yield dg.Output(
            ListedContracts(found.frame, lease),
            metadata={
                "dagster/partition_row_count": len(found.frame),
                "listed": found.listed,
                "calls": int(kinds.get("CE", 0)),
                "puts": int(kinds.get("PE", 0)),
                "futures": int(kinds.get("FUT", 0)),
                "exact_duplicates": found.duplicates,
                "requests": found.requests,
                "seconds": round(time.monotonic() - started, 3),
            },
        )
