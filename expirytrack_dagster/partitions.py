"""The two dimensions of every cell, defined once: underlying and expiry.

Both are dynamic: underlyings are added by `expirytrack track`, expiries by discovery. The grid is their full cross
product, so cells that no exchange ever listed are settled by `settle_unlisted` with a record that says so, and cells
that the archive has by `settle_finished`; what is left missing in the grid is real work. Never partition by contract:
tens of thousands of them, and growing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg
from sqlalchemy.exc import IntegrityError

from expirytrack_dagster.runless import record

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

UNDERLYING = "underlying"
EXPIRY = "expiry"

underlyings = dg.DynamicPartitionsDefinition(name=UNDERLYING)
expiry_dates = dg.DynamicPartitionsDefinition(name=EXPIRY)
cells = dg.MultiPartitionsDefinition({UNDERLYING: underlyings, EXPIRY: expiry_dates})

_TRIES = 5
# The last in line first: an asset is requested automatically once it is missing and what it is made from is not.
CELL_ASSETS = tuple(
    dg.AssetKey(name)
    for name in (
        *("chain_metrics", "implied_volatility", "option_chain", "daily_bars"),
        *("candles", "contracts"),
    )
)


def cell_key(underlying: str, expiry: str) -> dg.MultiPartitionKey:
    """Return the partition key of a cell; `expiry` is an ISO date."""
    return dg.MultiPartitionKey({UNDERLYING: underlying, EXPIRY: expiry})


def cell_of(partition_key: str) -> tuple[str, str]:
    """Return (underlying, ISO expiry) of a cell's key, which Dagster writes in the order of the dimensions' names."""
    expiry, underlying = partition_key.split("|")
    return underlying, expiry


def add_underlying(instance: dg.DagsterInstance, symbol: str) -> None:
    """Make an underlying's partition; nothing happens when it exists."""
    _add(instance, UNDERLYING, [symbol])


def remove_underlying(instance: dg.DagsterInstance, symbol: str) -> None:
    """Remove an underlying's partition from the grid; its events stay."""
    instance.delete_dynamic_partition(UNDERLYING, symbol)


def add_expiries(instance: dg.DagsterInstance, dates: Iterable[str]) -> list[str]:
    """Make the partitions of these ISO dates in ascending order, and return those that are new."""
    new = sorted(set(dates) - set(instance.get_dynamic_partitions(EXPIRY)))
    _add(instance, EXPIRY, new)
    return new


def _add(instance: dg.DagsterInstance, dimension: str, keys: Sequence[str]) -> None:
    """Add keys, some of which another process may be adding at this very moment."""
    for attempt in range(_TRIES):
        try:
            instance.add_dynamic_partitions(dimension, keys)
        except IntegrityError:  # Dagster looks first and inserts then, without a transaction around the two
            if attempt == _TRIES - 1:
                raise
        else:
            return


def settle_unlisted(instance: dg.DagsterInstance, listed: Mapping[str, Collection[str]]) -> int:
    """Record every cell that its exchange never listed as settled, without a run; return how many were new.

    A date after the newest one that the API lists for an underlying is left open: the list may be older than the
    date, and a cell that is settled would never show as missing again.

    Args:
        instance: where the grid lives.
        listed: for each discovered underlying, the ISO dates that the API lists.
    """
    dates = instance.get_dynamic_partitions(EXPIRY)
    settled = 0
    for asset in CELL_ASSETS:
        known = instance.get_materialized_partitions(asset)
        unlisted = [
            dg.AssetMaterialization(
                asset_key=asset,
                partition=key,
                description=f"Not listed: the API lists no expiry of {underlying} on {date}.",
                metadata={"listed": False, "dagster/partition_row_count": 0},
            )
            for underlying, own in listed.items()
            for date in dates
            if date <= max(own, default="") and date not in own and (key := cell_key(underlying, date)) not in known
        ]
        if unlisted:
            record(instance, unlisted)
        settled += len(unlisted)
    return settled


def settle_finished(instance: dg.DagsterInstance, finished: Mapping[str, Collection[tuple[str, str]]]) -> int:
    """Record what the archive has and this instance knows nothing of, without a run; return how much that was.

    So it is after a move to another instance, or when its records were lost: without this, all that was ever collected
    would show as missing.

    Args:
        instance: where the grid lives.
        finished: for each asset of a cell, underlying and ISO date of the cells that the archive has.
    """
    symbols, dates = (set(instance.get_dynamic_partitions(name)) for name in (UNDERLYING, EXPIRY))
    recorded = 0
    for asset in CELL_ASSETS:
        known = instance.get_materialized_partitions(asset)
        missing = [
            dg.AssetMaterialization(
                asset_key=asset,
                partition=key,
                description="In the archive already: it was made while other records were kept.",
                metadata={"recorded_from_the_archive": True},
            )
            for underlying, date in sorted(finished.get(asset.to_user_string(), ()))
            if underlying in symbols and date in dates and (key := cell_key(underlying, date)) not in known
        ]
        if missing:
            record(instance, missing)
        recorded += len(missing)
    return recorded
