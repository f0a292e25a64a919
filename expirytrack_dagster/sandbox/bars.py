"""Candles as columns: the one form in which every market of the sandbox hands them over.

Belongs here: the columns, the choice of a window, and the coarser intervals made from minutes. How candles are written
as JSON is in `wire.py`; where they come from is the markets' affair.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, timedelta, timezone
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Sequence

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]

DAY = 86_400
IST_OFFSET = 19_800  # seconds that Indian standard time is ahead of UTC; there is no summer time
IST = timezone(timedelta(seconds=IST_OFFSET))
OPENING = 33_300  # 09:15, from which Upstox counts the bars of a day
WIDTHS = {"1minute": 60, "3minute": 180, "5minute": 300, "15minute": 900, "30minute": 1800, "day": DAY}


@dataclass(frozen=True, slots=True)
class Bars:
    """Candles in the order in which they came, one array a column.

    `time` is the start of the bar in seconds since 1970 (UTC). Prices are rupees, volume and open interest units (not
    lots). Nothing is guaranteed about order or validity: a planted fault is a `Bars` too.
    """

    time: Ints
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Ints
    open_interest: Ints

    def __len__(self) -> int:
        """Return the number of candles."""
        return len(self.time)

    @property
    def day(self) -> Ints:
        """The trading day of each bar in IST, as days since 1970-01-01."""
        return (self.time + IST_OFFSET) // DAY

    def take(self, which: npt.NDArray[np.bool_] | Ints | slice) -> Bars:
        """Return the candles that a mask, an array of positions or a slice chooses."""
        return Bars(*(getattr(self, field.name)[which] for field in fields(self)))

    def within(self, from_date: date, to_date: date) -> Bars:
        """Return the candles of the trading days from `from_date` to `to_date`, both included."""
        return self.take((self.day >= day_number(from_date)) & (self.day <= day_number(to_date)))


def no_bars() -> Bars:
    """Return a `Bars` without candles."""
    floats, ints = np.empty(0), np.empty(0, np.int64)
    return Bars(ints, floats, floats, floats, floats, ints, ints)


def joined(parts: Sequence[Bars]) -> Bars:
    """Return the candles of all parts, one part after the other."""
    return Bars(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Bars)))


def day_number(day: date) -> int:
    """Return the number of days from 1970-01-01 to `day`."""
    return (day - date(1970, 1, 1)).days


def epoch(day: date, seconds: int = 0) -> int:
    """Return the UTC time, in seconds since 1970, of `seconds` after midnight IST of `day`."""
    return day_number(day) * DAY - IST_OFFSET + seconds


def local_date(seconds: int) -> date:
    """Return the IST day of a time in seconds since 1970."""
    return datetime.fromtimestamp(seconds, UTC).astimezone(IST).date()


def aggregate(minutes: Bars, interval: str) -> Bars:
    """Make the bars of a coarser interval from ascending minutes.

    First open, highest high, lowest low, last close, summed volume, last open interest. Bars are counted from 09:15, so
    the first 30-minute bar of a day starts at 09:15; daily bars start at midnight IST (docs/upstox-api.md).
    """
    width = WIDTHS[interval]
    if width == WIDTHS["1minute"] or not len(minutes):
        return minutes
    anchor = 0 if width == DAY else OPENING
    start = (minutes.time + IST_OFFSET - anchor) // width * width + anchor - IST_OFFSET
    first = np.flatnonzero(np.diff(start, prepend=start[0] - 1))
    last = np.append(first[1:], len(minutes)) - 1
    return Bars(
        start[first],
        minutes.open[first],
        np.maximum.reduceat(minutes.high, first),
        np.minimum.reduceat(minutes.low, first),
        minutes.close[last],
        np.add.reduceat(minutes.volume, first),
        minutes.open_interest[last],
    )


def filled(bars: Bars, interval: str) -> Bars:
    """Put a flat bar of volume zero in each gap between two bars of the same day, as some answers of Upstox do."""
    width = WIDTHS[interval]
    if len(bars) == 0 or width == DAY:
        return bars
    step = np.diff(bars.time) // width
    repeats = np.append(np.where(np.diff(bars.day) == 0, np.maximum(step, 1), 1), 1)
    source = np.repeat(np.arange(len(bars)), repeats)
    offset = np.arange(len(source)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    added = offset > 0
    flat = bars.take(source)
    return Bars(
        flat.time + offset * width,
        np.where(added, flat.close, flat.open),
        np.where(added, flat.close, flat.high),
        np.where(added, flat.close, flat.low),
        flat.close,
        np.where(added, 0, flat.volume),
        flat.open_interest,
    )
