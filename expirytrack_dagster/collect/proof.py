"""What daily candles prove about minutes, and which contracts are asked for them.

Daily candles cost requests, so few contracts are asked: those at the money and a share of the rest, every contract
without minutes that lies among traded strikes, and a share of those in a dead wing. A dead wing are the contracts of
one type beyond the outermost strike that traded or may have: every listed strike farther out is empty as well. Only
the choice and the comparison belong here; asking is `contract.py`'s and `cell.py`'s business.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import pandas as pd

from expirytrack_dagster.ist import IST

if TYPE_CHECKING:
    from collections.abc import Collection

    import pyarrow as pa

AT_THE_MONEY = 2
"""Strikes on each side of the middle one whose minutes are always compared with their daily candles."""

_SHARES = 1_000_000


def in_share(key: str, share: float) -> bool:
    """Say whether a contract is in a sample of this share, 0 to 1; the same for the same contract, always."""
    return zlib.crc32(key.encode()) % _SHARES < share * _SHARES


def to_reconcile(contracts: pd.DataFrame, share: float) -> set[str]:
    """Return the contracts whose minutes are compared with daily candles.

    These are the future, which lives longest, the options around the middle strike, and a share of all.

    Args:
        contracts: `instrument_key` and `strike_price` (missing for futures).
        share: of all contracts, 0 to 1.
    """
    strikes = contracts["strike_price"].dropna().drop_duplicates().sort_values()
    middle = len(strikes) // 2
    near = strikes.iloc[max(0, middle - AT_THE_MONEY) : middle + AT_THE_MONEY + 1]
    at_the_money = contracts["strike_price"].isna() | contracts["strike_price"].isin(near)
    around = contracts.loc[at_the_money, "instrument_key"]
    return {*around, *(key for key in contracts["instrument_key"] if in_share(key, share))}


def dead_wings(contracts: pd.DataFrame, traded: Collection[str], unknown: Collection[str] = ()) -> set[str]:
    """Return the contracts beyond the outermost strike of their type that traded or may have.

    A type of which nothing is known to have traded has no wings: there is nothing that its strikes lie beyond.

    Args:
        contracts: `instrument_key`, `instrument_type`, `strike_price`.
        traded: keys of contracts whose candles were received.
        unknown: keys of contracts without an answer, which may have traded.
    """
    dead: set[str] = set()
    for _, listed in contracts.dropna(subset=["strike_price"]).groupby("instrument_type"):
        keys = listed["instrument_key"]
        if not keys.isin(list(traded)).any():
            continue
        strikes = listed.loc[keys.isin([*traded, *unknown]), "strike_price"]
        beyond = (listed["strike_price"] < strikes.min()) | (listed["strike_price"] > strikes.max())
        dead |= set(keys[beyond])
    return dead


def disagreements(minutes: pd.DataFrame, days: pa.Table, unsound: Collection[object] = ()) -> list[str]:
    """Return the days (ISO) on which minutes and daily candles contradict each other.

    A day agrees when both have it, the volumes of its minutes add up to the day's, and highest, lowest and last close
    are the day's own.

    Args:
        minutes: sound candles of one contract: ts (UTC), high, low, close, volume; any order.
        days: daily candles of the same contract, as `upstox.decode` returns them.
        unsound: days (`datetime.date`) with rows in quarantine, which cannot agree and are told elsewhere.
    """
    ordered = minutes.sort_values("ts")
    held = ordered.groupby(ordered["ts"].dt.tz_convert(IST).dt.date).agg(
        high=("high", "max"), low=("low", "min"), close=("close", "last"), volume=("volume", "sum")
    )
    daily: pd.DataFrame = days.to_pandas()
    daily.index = pd.Index(daily["ts"].dt.tz_convert(IST).dt.date)
    daily = daily[~daily.index.duplicated()]
    both = held.join(daily[["high", "low", "close", "volume"]].add_suffix("_day"), how="outer")
    agree = pd.Series(data=True, index=both.index)
    for column in ("high", "low", "close", "volume"):
        agree &= both[column] == both[f"{column}_day"]
    return [str(day) for day in both.index[~agree] if day not in unsound]
