"""Coverage: of each contract and day, in how many minutes of the session it traded, and why not in the others.

A contract that did not trade in a minute of a session has no bar there, or one without volume. If no contract of the
chain has that minute, it is missing. Both follow from the sessions that `continuity` found. Which bars are in the
archive and which are staged is the caller's business, and so is the picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from expirytrack_dagster.ist import IST
from expirytrack_dagster.quality.candle_rules import MINUTE, microseconds

if TYPE_CHECKING:
    from collections.abc import Iterable

_MINUTES_A_DAY = 1_440
_IST_OFFSET = 330
"""Minutes by which Indian time is ahead of UTC."""


@dataclass(frozen=True)
class Coverage:
    """What was traded when.

    Attributes:
        days: instrument_key, instrument_type, strike_price, day (a date in IST), minutes (of the day's sessions),
            traded, no_trade, missing (across the chain) and outside (bars outside the sessions): one row for each
            contract and day of the cell, futures first, then calls and puts by strike; minutes = the sum of the
            next three.
        counts: totals under stable names.
    """

    days: pd.DataFrame
    counts: dict[str, int | float]


def spans(sessions: pd.DataFrame) -> pd.DataFrame:
    """Return first and last (datetime64[us, UTC]) of each session of a `ContinuityReport`, ascending."""
    bounds = {}
    for name in ("first", "last"):
        times = pd.to_datetime(sessions["day"] + " " + sessions[name], format="%Y-%m-%d %H:%M")
        bounds[name] = times.dt.tz_localize(IST).dt.tz_convert("UTC").astype("datetime64[us, UTC]")
    return pd.DataFrame(bounds).sort_values("first", ignore_index=True)


def count_trades(frame: pd.DataFrame, sessions: pd.DataFrame) -> pd.DataFrame:
    """Count the minutes of each contract and day in a batch of good candles.

    Args:
        frame: instrument_key, ts (datetime64[us, UTC]) and volume; each bar once.
        sessions: of the whole chain, as in a `ContinuityReport`.

    Returns:
        instrument_key, day (a date in IST), traded (minutes of the sessions with volume), outside (bars outside them).
    """
    contract, keys = pd.factorize(frame["instrument_key"])
    minute = microseconds(frame["ts"]) // MINUTE + _IST_OFFSET
    day, days = pd.factorize(minute // _MINUTES_A_DAY)
    bounds = spans(sessions)
    first, last = (microseconds(bounds[name]) // MINUTE + _IST_OFFSET for name in ("first", "last"))
    session = np.searchsorted(first, minute, side="right") - 1
    away = session < 0
    away[~away] = minute[~away] > last[session[~away]]
    shape = len(keys), len(days)
    place = contract * len(days) + day
    traded = ~away & (frame["volume"].to_numpy() > 0)
    every, inside, apart = (
        np.bincount(each, minlength=len(keys) * len(days)).reshape(shape)
        for each in (place, place[traded], place[away])
    )
    row, column = np.nonzero(every)
    return pd.DataFrame(
        {
            "instrument_key": np.asarray(keys, dtype=object)[row],
            "day": days[column].astype("datetime64[D]").astype(object),
            "traded": inside[row, column],
            "outside": apart[row, column],
        }
    )


def assess_coverage(contracts: pd.DataFrame, trades: Iterable[pd.DataFrame], sessions: pd.DataFrame) -> Coverage:
    """Say for each contract and day what became of the session's minutes.

    Args:
        contracts: instrument_key, instrument_type, strike_price of the listed contracts.
        trades: frames as of `count_trades`; what they say of the same contract and day is added up.
        sessions: of the whole chain, as in a `ContinuityReport`.
    """
    by_day = sessions.groupby("day", sort=True)[["minutes", "missing"]].sum()
    by_day.index = pd.Index([day.date() for day in pd.to_datetime(by_day.index)], name="day", dtype=object)
    counted = pd.concat([_NO_TRADES, *trades]).groupby(["instrument_key", "day"])[["traded", "outside"]].sum()
    grid = pd.MultiIndex.from_product([_in_order(contracts)["instrument_key"], by_day.index])
    found = counted.reindex(grid, fill_value=0).astype("int64").reset_index()
    known = contracts.set_index("instrument_key").reindex(found["instrument_key"])
    of_day = by_day.reindex(found["day"])
    minutes, missing = of_day["minutes"].to_numpy(), of_day["missing"].to_numpy()
    days = pd.DataFrame(
        {
            "instrument_key": found["instrument_key"],
            "instrument_type": known["instrument_type"].to_numpy(),
            "strike_price": known["strike_price"].to_numpy(),
            "day": found["day"],
            "minutes": minutes,
            "traded": found["traded"],
            "no_trade": minutes - missing - found["traded"].to_numpy(),
            "missing": missing,
            "outside": found["outside"],
        }
    )
    total = int(days["minutes"].sum())
    return Coverage(
        days,
        {
            "contract_minutes": total,
            "contract_minutes_traded": int(days["traded"].sum()),
            "contract_minutes_missing": int(days["missing"].sum()),
            "coverage_percent": round(100 * int(days["traded"].sum()) / total, 2) if total else 0.0,
        },
    )


def _in_order(contracts: pd.DataFrame) -> pd.DataFrame:
    """Sort contracts as people read a chain: the future, calls by strike, puts by strike."""
    rank = contracts["instrument_type"].map({"FUT": 0, "CE": 1, "PE": 2})
    return contracts.assign(rank=rank).sort_values(["rank", "strike_price"], kind="stable")


_NO_TRADES = pd.DataFrame({"instrument_key": [], "day": [], "traded": [], "outside": []}).astype(
    {"instrument_key": object, "day": object, "traded": "int64", "outside": "int64"}
)
