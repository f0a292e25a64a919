"""Continuity: which sessions a chain traded, which of their minutes no contract has, which bars lie outside.

Session hours come from the data alone, never from a calendar or a clock: sessions of 375 and 385 bars, Saturdays and
evening sessions come out of the minutes themselves. A minute missing in one illiquid option is normal and not judged
here; a minute missing across the chain is. Faulty rows are the business of `candles`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from expirytrack_dagster.quality.candle_rules import MINUTE, microseconds
from expirytrack_dagster.quality.outcome import plural

if TYPE_CHECKING:
    from collections.abc import Iterable

BREAK_MINUTES = 30
"""A silence shorter than this is never a break between two sessions."""
BREAK_FACTOR = 10
"""A break is also this many times longer than the day's mean step: a thin chain is often silent for half an hour."""
SHORTEST_SESSION = 15
"""With fewer traded minutes, a stretch beside a longer one is stray prints, not a session."""
DENSE_SHARE = 0.8
BROAD = 5.0
"""A session with bars in fewer than this share of its minutes, and from fewer than this many contracts on average, is
thin: its silent minutes are how the chain trades and prove no loss."""

_DAY = 1_440
_IST_OFFSET = 330
"""Minutes by which Indian time is ahead of UTC."""

Minutes = NDArray[np.int64]


@dataclass(frozen=True)
class ContinuityReport:
    """What the minutes of a chain say.

    Attributes:
        sessions: day (ISO date), first, last (HH:MM; all IST), minutes (length, both ends included), missing (no bar
            in any contract), quiet (the same in a thin session, where it is normal).
        missing: ts (datetime64[us, UTC]) of each missing minute, ascending; quiet minutes are not among them.
        breaks: day, first, last (IST), minutes: the silences between two sessions of a day.
        outside: ts, contracts (rows at that minute), traded: bars outside every session, kept and reported.
        counts: totals under stable names.
    """

    sessions: pd.DataFrame
    missing: pd.DataFrame
    breaks: pd.DataFrame
    outside: pd.DataFrame
    counts: dict[str, int]

    @property
    def summary(self) -> str:
        """One sentence without a full stop."""
        sessions = plural(self.counts["sessions"], "session")
        if self.counts["missing_minutes"]:
            found = (
                f"{plural(self.counts['missing_minutes'], 'minute')} of {sessions} missing across the chain: "
                "collect the cell again, and if they stay missing the source does not have them"
            )
        else:
            found = f"no minute of {sessions} is missing across the chain"
        notes = [
            f"{plural(self.counts[name], noun)} {words}"
            for name, noun, words in (
                ("quiet_minutes", "minute", "silent in thin sessions, which is normal"),
                ("breaks", "break", "between sessions"),
                ("outside_rows", "bar", "outside the sessions, kept"),
            )
            if self.counts[name]
        ]
        return "; ".join([found, *notes])


def minute_counts(frame: pd.DataFrame) -> pd.DataFrame:
    """Count the bars of each minute in a batch of good candles (columns ts and volume; each bar once).

    Returns:
        ts datetime64[us, UTC], contracts (with a bar) and traded (with volume above zero) as int64, ascending.
    """
    codes, instants = pd.factorize(microseconds(frame["ts"]), sort=True)
    traded = frame["volume"].to_numpy() > 0
    return _minutes_frame(
        instants,
        np.bincount(codes, minlength=len(instants)),
        np.bincount(codes[traded], minlength=len(instants)),
    )


def merge_minutes(parts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Add up the counts of batches that share no bar; the same columns as `minute_counts`, ascending."""
    everything = pd.concat([_minutes_frame(*([np.empty(0, dtype=np.int64)] * 3)), *parts])
    return everything.groupby("ts", as_index=False, sort=True)[["contracts", "traded"]].sum()


def assess_continuity(minutes: pd.DataFrame) -> ContinuityReport:
    """Find the sessions of a chain and what is missing from them.

    A day's sessions run from the first to the last minute in which at least half the day's usual (median) number of
    contracts traded, so that prints after the close stay outside. A silence of `BREAK_MINUTES` or more splits the
    day, unless silences are usual in that chain. On a day without any volume, bars stand in for trades.

    Args:
        minutes: ts datetime64[us, UTC], contracts, traded (int64); one row for each distinct minute, in any order.
    """
    minutes = minutes.sort_values("ts", ignore_index=True)
    at = microseconds(minutes["ts"]) // MINUTE + _IST_OFFSET  # minutes of Indian time since 1970
    contracts = minutes["contracts"].to_numpy()
    first, last = _session_bounds(at, _activity(at, contracts, minutes["traded"].to_numpy()))

    session = np.searchsorted(first, at, side="right") - 1
    inside = session >= 0
    inside[inside] = at[inside] <= last[session[inside]]
    present = np.bincount(session[inside], minlength=len(first))
    bars = np.bincount(session[inside], weights=contracts[inside], minlength=len(first))
    length = last - first + 1
    thin = (present < DENSE_SHARE * length) & (bars < BROAD * present)

    every = np.repeat(first, length) + _count_up(length)
    absent = every[np.repeat(~thin, length)]
    absent = absent[~np.isin(absent, at[inside], assume_unique=True)]
    outside = minutes.loc[~inside, ["ts", "contracts", "traded"]].reset_index(drop=True)
    next_first, same_day = first[1:], first[1:] // _DAY == last[:-1] // _DAY
    breaks = _spans(last[:-1][same_day] + 1, next_first[same_day] - 1)
    return ContinuityReport(
        sessions=_spans(first, last).assign(
            missing=np.where(thin, 0, length - present), quiet=np.where(thin, length - present, 0)
        ),
        missing=pd.DataFrame({"ts": _instants((absent - _IST_OFFSET) * MINUTE)}),
        breaks=breaks,
        outside=outside,
        counts={
            "days": len(np.unique(at // _DAY)),
            "sessions": len(first),
            "session_minutes": int(length.sum()),
            "missing_minutes": len(absent),
            "quiet_minutes": int((length - present)[thin].sum()),
            "breaks": len(breaks),
            "outside_minutes": len(outside),
            "outside_rows": int(outside["contracts"].sum()),
        },
    )


def _activity(at: Minutes, contracts: Minutes, traded: Minutes) -> pd.DataFrame:
    """Return the minutes in which something happened: at, day, and how many contracts took part."""
    day = at // _DAY
    any_volume = pd.Series(traded).groupby(day).transform("max").to_numpy() > 0
    frame = pd.DataFrame({"at": at, "day": day, "active": np.where(any_volume, traded, contracts)})
    return frame[frame["active"] > 0]


def _session_bounds(at: Minutes, live: pd.DataFrame) -> tuple[Minutes, Minutes]:
    """Return the first and last minute of each session, ascending."""
    if len(at) == 0:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    by_day = live.groupby("day")
    step = by_day["at"].diff()
    # A step of 31 minutes is a silence of 30.
    is_break = (step > BREAK_MINUTES) & (step > BREAK_FACTOR * step.groupby(live["day"]).transform("mean"))
    stretch = (is_break | step.isna()).cumsum()
    core = live["active"] * 2 >= by_day["active"].transform("median")
    stretches = live[core].groupby(stretch[core])
    bounds = stretches["at"].agg(["min", "max", "size"])
    longest = bounds["size"].groupby(bounds["min"] // _DAY).transform("max")
    bounds = bounds[(bounds["size"] >= SHORTEST_SESSION) | (bounds["size"] == longest)]
    return bounds["min"].to_numpy(), bounds["max"].to_numpy()


def _count_up(lengths: Minutes) -> Minutes:
    """Return 0, 1, ... for each of the lengths, one after the other."""
    starts = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) - np.repeat(starts, lengths)


def _spans(first: Minutes, last: Minutes) -> pd.DataFrame:
    """Return spans of Indian minutes as people write them: day, first, last, and their length in minutes."""
    start, end = (pd.Series(bound.astype("datetime64[m]").astype("datetime64[s]")) for bound in (first, last))
    return pd.DataFrame(
        {
            "day": start.dt.strftime("%Y-%m-%d").astype("str"),
            "first": start.dt.strftime("%H:%M").astype("str"),
            "last": end.dt.strftime("%H:%M").astype("str"),
            "minutes": last - first + 1,
        }
    )


def _instants(microseconds_utc: Minutes) -> pd.Series:
    return pd.Series(pd.DatetimeIndex(microseconds_utc.view("datetime64[us]"), tz="UTC"))


def _minutes_frame(instants: Minutes, contracts: Minutes, traded: Minutes) -> pd.DataFrame:
    return pd.DataFrame(
        {"ts": _instants(instants), "contracts": contracts.astype("int64"), "traded": traded.astype("int64")}
    )
