"""The asset `expiries`: which expiry dates the API lists for an underlying, and the partitions that follow."""

import asyncio
import time
from collections.abc import Iterator

import dagster as dg

from expirytrack_dagster.assets.common import FRESH, OWNERS, column_schema, documents
from expirytrack_dagster.checks.results import check_result
from expirytrack_dagster.checks.specs import expiries_checks
from expirytrack_dagster.errors import UnfitData
from expirytrack_dagster.failures import readable_failures
from expirytrack_dagster.partitions import add_expiries, settle_finished, settle_unlisted, underlyings
from expirytrack_dagster.resources import UpstoxResource, WarehouseResource


@dg.asset(
    partitions_def=underlyings,
    check_specs=expiries_checks,
    io_manager_key="archive",
    group_name="archive",
    kinds={"upstox", "duckdb"},
    owners=OWNERS,
    metadata={"dagster/column_schema": column_schema("expiries"), **documents("automation", "get-expiries")},
    freshness_policy=FRESH,
    description="Expiry dates that Upstox lists for the underlying. New dates become partitions of contracts and "
    "candles; dates once listed are kept when the API withdraws them. One request.",
)
def expiries(
    context: dg.AssetExecutionContext, upstox: UpstoxResource, warehouse: WarehouseResource
) -> Iterator[dg.AssetCheckResult | dg.Output[object]]:
    """Ask for the list, check it, and make its dates partitions."""
    from expirytrack_dagster.collect import expiries as discovery
    from expirytrack_dagster.collect import tracking
    from expirytrack_dagster.collect.horizon import record_list
    from expirytrack_dagster.planning import since
    from expirytrack_dagster.quality.expiries import check_expiries
    from expirytrack_dagster.warehouse import reader

    started = time.monotonic()
    with readable_failures():
        underlying = tracking.find(upstox.state(), context.partition_key)

        async def ask() -> discovery.Discovery:
            # Whoever materializes this asks what is new: an answer kept minutes ago would not say.
            async with upstox.client(context.run.run_id, fresh=True) as client:
                return await discovery.discover(client, underlying, upstox.now())

        found = asyncio.run(ask())
        outcome = check_expiries(found.frame)
        yield check_result(outcome, "expiries")
        if outcome.fatal and not outcome.passed:
            raise UnfitData(outcome.summary)

        gone = record_list(upstox.state(), underlying.symbol, found.dates, upstox.now())
        if gone:
            context.log.warning("%s: no longer listed: %s", underlying.symbol, ", ".join(map(str, gone)))
        dates = sorted(day.isoformat() for day in found.dates)
        oldest = since(upstox.settings(), upstox.now())
        new = add_expiries(context.instance, [day for day in dates if oldest is None or day >= oldest.isoformat()])
        listed = reader.listed(warehouse.open()) | {underlying.symbol: set(dates)}
        settled = settle_unlisted(context.instance, listed)
        recorded = settle_finished(context.instance, reader.finished(warehouse.open()))
        context.log.info("%s: %d expiries, %d of them new partitions", underlying.symbol, len(dates), len(new))
        yield dg.Output(
            found.frame,
            metadata={
                "dagster/partition_row_count": len(found.frame),
                "expiries": len(dates),
                "new_partitions": len(new),
                "withdrawn_now": len(gone),
                "cells_settled_as_not_listed": settled,
                "recorded_from_the_archive": recorded,
                "first_expiry": dates[0] if dates else None,
                "last_expiry": dates[-1] if dates else None,
                "requests": found.requests,
                "seconds": round(time.monotonic() - started, 3),
            },
        )
