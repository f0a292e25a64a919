"""The asset `candles`: the minutes of every contract of a cell, validated, with the state of each contract."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

import dagster as dg
import pandas as pd

from expirytrack_dagster.assets.common import OWNERS, POOL, CollectConfig, column_schema, documents
from expirytrack_dagster.checks.results import check_result, picture
from expirytrack_dagster.checks.specs import candles_checks
from expirytrack_dagster.errors import MalformedResponse, UnfitData
from expirytrack_dagster.failures import readable_failures
from expirytrack_dagster.io_managers import StagedCandles
from expirytrack_dagster.partitions import cell_of, cells
from expirytrack_dagster.resources import ProgressResource, UpstoxResource, WarehouseResource

if TYPE_CHECKING:
    from expirytrack_dagster.collect.cell import CellRequest
    from expirytrack_dagster.collect.progress import Progress
    from expirytrack_dagster.collect.staging import Batch, CellStaging


@dg.asset(
    partitions_def=cells,
    backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=1),
    check_specs=candles_checks,
    io_manager_key="archive",
    pool=POOL,
    group_name="archive",
    kinds={"upstox", "pandera", "duckdb"},
    owners=OWNERS,
    metadata={
        "dagster/column_schema": column_schema("candles"),
        **documents("automation", "get-expired-historical-candle-data"),
    },
    description="One-minute candles with open interest of every contract of the cell. About one request a contract; "
    "none for a contract whose state is final. Bad rows go to quarantine with the rule that they broke.",
)
def candles(
    context: dg.AssetExecutionContext,
    config: CollectConfig,
    contracts: pd.DataFrame,
    upstox: UpstoxResource,
    warehouse: WarehouseResource,
    progress: dg.ResourceParam[ProgressResource],
) -> Iterator[dg.AssetCheckResult | dg.Output[StagedCandles]]:
    """Ask for what is not final yet, judge the cell as a whole, and hand the staged files over."""
    import pyarrow as pa

    from expirytrack_dagster.collect.coverage import coverage_of
    from expirytrack_dagster.collect.leases import UnderLease
    from expirytrack_dagster.collect.plan import cost
    from expirytrack_dagster.collect.report import CellReport
    from expirytrack_dagster.collect.staging import CellStaging
    from expirytrack_dagster.collect.underway import recorded
    from expirytrack_dagster.collect.verdict import judge_cell
    from expirytrack_dagster.observe.metrics import metrics
    from expirytrack_dagster.planning import planned_requests
    from expirytrack_dagster.quality.coverage import spans
    from expirytrack_dagster.quality.pictures import coverage_map
    from expirytrack_dagster.security.parquet import staging_key
    from expirytrack_dagster.upstox.clock import SystemClock
    from expirytrack_dagster.warehouse import reader

    # Arrow's own pool keeps what a batch took: a cell of 4,600,000 candles then needs 690 MB at its height, not 540.
    pa.set_memory_pool(pa.system_memory_pool())
    started = time.monotonic()
    symbol, day = cell_of(context.partition_key)
    expiry = date.fromisoformat(day)
    settings, archive = upstox.settings(), warehouse.open()
    staging = CellStaging(settings.staging / symbol / day, staging_key(settings))
    with readable_failures(), ExitStack() as cell:
        lease = upstox.hold(symbol, expiry)
        clock, shown = upstox.clock() or SystemClock(), progress.following(context.log)
        follower = cell.enter_context(recorded(upstox.state(), (symbol, expiry), context.run.run_id, shown, clock))
        known = reader.statuses(archive, symbol, expiry)
        if config.refetch:
            staging.clear()
        staging.forget_older_than(dict(zip(known["instrument_key"], known["checked_at"], strict=True)))
        request = _request(context.partition_key, contracts, known, upstox, config)
        planned = upstox.ledger().spent(context.run.run_id) + planned_requests(request, staging, archive)
        batches = _collect(context, request, staging, upstox, UnderLease(lease, follower), config)
        fresh = {status.instrument_key for batch in batches for status in batch.statuses}
        verdict = judge_cell(
            listed=list(contracts["instrument_key"]),
            batches=batches,
            archived=known[~known["instrument_key"].isin(fresh)],
            archived_bad=reader.quarantined(archive, symbol, expiry, except_keys=fresh),
            archived_minutes=reader.minutes(archive, symbol, expiry, except_keys=fresh),
            threshold=settings.quarantine_threshold,
        )
        report = CellReport(symbol, day, context.run.run_id, datetime.now(tz=UTC), verdict)
        saved = report.save(settings.reports)
        metrics().cell_completeness_percent.set(verdict.numbers["completeness_percent"])
        for outcome in verdict.outcomes:
            yield check_result(outcome, "candles")
        if verdict.unfit is not None:
            raise UnfitData(
                f"{verdict.unfit.summary} What arrived is kept in {staging.folder.relative_to(settings.home)}: refetch "
                "the cell, or raise EXPIRYTRACK_QUARANTINE_THRESHOLD to take it as it is."
            )
        archived = reader.trades(archive, symbol, expiry, spans(verdict.sessions), except_keys=fresh)
        coverage = coverage_of(contracts, batches, archived, verdict.sessions)
        image = coverage_map(coverage, f"{symbol} {day}: {len(contracts):,} contracts")
        yield dg.Output(
            StagedCandles(batches, verdict.fresh_statuses, staging, started, lease, let_go=cell.pop_all().close),
            metadata={
                "validation_report": dg.MetadataValue.md(report.as_markdown()),
                **({"coverage": picture(image, "coverage")} if image else {}),
                **verdict.numbers,
                **coverage.counts,
                "planned_requests": planned,
                **cost(upstox.ledger().spent(context.run.run_id), int(verdict.fresh_statuses["received"].sum())),
                "seconds": round(time.monotonic() - started, 3),
                "report_file": dg.MetadataValue.path(saved),
            },
        )


def _request(
    partition_key: str, contracts: pd.DataFrame, known: pd.DataFrame, upstox: UpstoxResource, config: CollectConfig
) -> "CellRequest":
    """Say what to collect; `known` are the cell's states in the archive."""
    from expirytrack_dagster.collect.cell import CellRequest, incomplete
    from expirytrack_dagster.collect.contract import DAYS, MINUTES
    from expirytrack_dagster.collect.windows import Windows
    from expirytrack_dagster.ist import IST

    symbol, day = cell_of(partition_key)
    settings, state = upstox.settings(), upstox.state()
    unfinished = set(incomplete(known)["instrument_key"])
    return CellRequest(
        label=f"{symbol} {day}",
        contracts=contracts,
        expiry=date.fromisoformat(day),
        sealed=set() if config.refetch else set(known["instrument_key"]) - unfinished,
        traded=set(known.loc[known["received"] > 0, "instrument_key"]),
        partial=set(known.loc[known["status"] == "partial", "instrument_key"]),
        odd=set(known.loc[known["error_code"] == MalformedResponse.__name__, "instrument_key"]),
        oldest=None if known["first_ts"].isna().all() else known["first_ts"].min().tz_convert(IST).date(),
        proof_share=settings.proof_share,
        minutes=Windows(state, settings.window_days, MINUTES),
        days=Windows(state, settings.window_days, DAYS),
        workers=settings.workers,
        batch_rows=settings.batch_rows,
    )


def _collect(
    context: dg.AssetExecutionContext,
    request: "CellRequest",
    staging: "CellStaging",
    upstox: UpstoxResource,
    progress: "Progress",
    config: CollectConfig,
) -> "list[Batch]":
    from expirytrack_dagster.collect.cell import collect_cell

    # What the API could not give in full may be there now; a kept answer would only say the same again.
    fresh = config.refetch or bool(request.partial)

    async def ask() -> "list[Batch]":
        async with upstox.client(context.run.run_id, fresh=fresh) as client:
            return await collect_cell(client, request, staging, progress)

    return asyncio.run(ask())
