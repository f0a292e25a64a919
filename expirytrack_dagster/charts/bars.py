"""A contract's bars: prices as candles, and below them volume and open interest.

Bars stand side by side whatever time lies between them, so that nights and holidays take no room.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from expirytrack_dagster.charts.paper import DOWN, QUIET, UP, plain, sheet
from expirytrack_dagster.export.selection import Interval

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

MOST = 420
"""Bars that a picture shows at most when its interval is chosen for it; with more, a body is thinner than a line."""
_LABELS = 13


def fitting(minutes: pd.DataFrame) -> Interval:
    """Return the narrowest interval that makes no more than `MOST` bars of these (column `minute`)."""
    for interval in Interval:
        if (minutes["minute"] // interval.minutes).nunique() <= MOST:
            return interval
    return Interval.DAY


def draw_bars(bars: pd.DataFrame, title: str) -> Figure:
    """Draw bars.

    Args:
        bars: `ts` (datetime64, India), open, high, low, close, volume, open_interest, ascending; at least one.
        title: above the picture.
    """
    figure = sheet(10, 6.4)
    prices, volume, interest = figure.subplots(3, 1, sharex=True, height_ratios=[3.2, 1, 1])
    at = np.arange(len(bars))
    opened, closed = bars["open"].to_numpy(), bars["close"].to_numpy()
    rose = closed >= opened
    colours = np.where(rose, UP, DOWN)
    prices.vlines(at, bars["low"], bars["high"], colors=colours, linewidth=0.8)
    # A body without height would not be seen: it gets a five-hundredth of the picture.
    least = (bars["high"].max() - bars["low"].min()) / 500
    prices.bar(
        at, np.maximum(np.abs(closed - opened), least), bottom=np.minimum(opened, closed), width=0.7, color=colours
    )
    prices.use_sticky_edges = False  # a bar at the lowest price would lie on the frame, unseen
    volume.bar(at, bars["volume"], width=0.8, color=colours, alpha=0.75)
    interest.plot(at, bars["open_interest"], color=QUIET, linewidth=1.2)
    interest.fill_between(at, bars["open_interest"], bars["open_interest"].min(), color=QUIET, alpha=0.18, linewidth=0)
    lowest, highest = bars["open_interest"].min(), bars["open_interest"].max()
    if lowest == highest:
        interest.set_ylim(0, 1.1 * highest or 1)
    plain(prices, "price, rupees")
    for axes, label in ((volume, "volume"), (interest, "open interest")):
        plain(axes, label)
        axes.yaxis.set_major_formatter(_short)
    interest.set_xlim(-0.8, len(bars) - 0.2)
    places, names = _labels(bars["ts"])
    interest.set_xticks(places, names, fontsize=8)
    interest.set_xlabel(
        "start of the bar, time in India; volume and open interest in units of the underlying", fontsize=8
    )
    figure.suptitle(title, fontsize=11)
    return figure


def _labels(times: pd.Series) -> tuple[list[int], list[str]]:
    """Label round times within a day, and the first bars of days where there are several; never too many to read."""
    days = times.dt.date
    first = np.flatnonzero((days != days.shift()).to_numpy())
    if len(first) == 1:
        minutes = (times.dt.hour * 60 + times.dt.minute).to_numpy()
        for step in (1, 5, 15, 30, 60):
            places = np.flatnonzero(minutes % step == 0).tolist()
            if len(places) <= _LABELS:
                break
        return places, [f"{times.iloc[place]:%H:%M}" for place in places]
    places = first[:: -(-len(first) // _LABELS)].tolist()
    return places, [f"{times.iloc[place]:%d %b %Y}" for place in places]


def _short(value: float, _position: int | None = None) -> str:
    """Write a large number as Indian traders read it: lakh (100,000) and crore (10,000,000)."""
    for size, name in ((1e7, "Cr"), (1e5, "L"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g} {name}"
    return f"{value:g}"
