"""The software-defined assets: expiries by underlying, contracts and candles by cell, and what is derived from them.

Assets are thin: they ask `collect/` for data, `quality/` for judgement, report to Dagster, and hand the rest to the
I/O manager. No request, rule or SQL statement is written here.
"""

import warnings

import dagster as dg

with warnings.catch_warnings():
    # Backfill policies and the mapping of one dimension are marked beta in Dagster 1.13: a cell is one run because of
    # them. The lock pins the version for which they are tested.
    warnings.simplefilter("ignore", dg.BetaWarning)
    from expirytrack_dagster.assets.candles import candles
    from expirytrack_dagster.assets.contracts import contracts
    from expirytrack_dagster.assets.coverage import collection_plan, coverage
    from expirytrack_dagster.assets.derived import (
        chain_metrics,
        continuous_futures,
        daily_bars,
        implied_volatility,
        option_chain,
    )
    from expirytrack_dagster.assets.expiries import expiries
    from expirytrack_dagster.assets.maintenance import archive_maintenance
    from expirytrack_dagster.assets.parquet_archive import parquet_archive

derived_assets = [daily_bars, option_chain, implied_volatility, chain_metrics, continuous_futures]
all_assets = [
    expiries,
    contracts,
    candles,
    parquet_archive,
    *derived_assets,
    coverage,
    collection_plan,
    archive_maintenance,
]

__all__ = [
    "all_assets",
    "candles",
    "collection_plan",
    "contracts",
    "coverage",
    "derived_assets",
    "expiries",
    "parquet_archive",
]
