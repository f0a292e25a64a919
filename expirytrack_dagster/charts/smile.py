"""The smile of a chain in a minute, and how well its calls and puts agree through the day.

Volatilities are those of the table `implied_volatility`. Put-call parity says that a call less a put of the same strike
is the discounted forward less the discounted strike; what differs is the residual, in rupees. The forward is the
chain's own, so the residuals lie around zero, and what they show is how far single strikes stray.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from expirytrack_dagster.charts.paper import CALL, DOTS, PUT, QUIET, plain, sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIDES = {"CE": ("calls", CALL, "o"), "PE": ("puts", PUT, "s")}


def draw_smile(volatilities: pd.DataFrame, chain: pd.DataFrame, title: str, dots: int = DOTS) -> Figure:
    """Draw the smile of a minute above the residuals of parity of its day.

    Args:
        volatilities: of the minute: strike_price, instrument_type, volatility (a year; missing ones are left out),
            forward.
        chain: of the day: `ts` (datetime64, India), strike_price, residual (rupees; missing where one side is).
        title: above the picture.
        dots: pixels an inch; the picture is 10 inches wide.
    """
    figure = sheet(10, 7, dots)
    smile, parity = figure.subplots(2, 1, height_ratios=[1.5, 1])
    forward = float(volatilities["forward"].iloc[0])
    for kind, (name, colour, marker) in _SIDES.items():
        side = volatilities[(volatilities["instrument_type"] == kind) & volatilities["volatility"].notna()]
        strikes = side["strike_price"].to_numpy(dtype=float)
        values = 100 * side["volatility"].to_numpy(dtype=float)
        away = strikes >= forward if kind == "CE" else strikes <= forward
        smile.plot(strikes, values, color=colour, linewidth=0.7, alpha=0.45)
        smile.scatter(strikes[away], values[away], s=24, marker=marker, color=colour, label=f"{name}, out of the money")
        smile.scatter(
            *(strikes[~away], values[~away]), s=24, marker=marker, facecolors="none", edgecolors=colour,
            label=f"{name}, in the money",
        )  # fmt: skip
    smile.axvline(forward, color=QUIET, linewidth=1, linestyle="--", label=f"forward {forward:,.2f}")
    plain(smile, "implied volatility, % a year")
    smile.set_xlabel("strike, rupees", fontsize=9)
    smile.legend(fontsize=8, frameon=False, ncols=3)
    _residuals(parity, chain)
    figure.suptitle(title, fontsize=11)
    return figure


def _residuals(axes: Axes, chain: pd.DataFrame) -> None:
    """Draw the median of the strikes minute by minute, and the bands in which half of them and nine tenths lie."""
    known = chain[chain["residual"].notna()]
    minute = known.groupby("ts")["residual"]
    times = pd.DatetimeIndex(minute.median().index)
    hours = np.asarray(times.hour * 60 + times.minute)
    for low, high, shade in ((0.05, 0.95, 0.14), (0.25, 0.75, 0.4)):
        axes.fill_between(
            hours, minute.quantile(low), minute.quantile(high), color=CALL, alpha=shade, linewidth=0,
            label=f"{high - low:.0%} of the strikes",
        )  # fmt: skip
    axes.plot(hours, minute.median(), color=CALL, linewidth=1.1, label="median strike")
    axes.axhline(0, color=QUIET, linewidth=0.8)
    plain(axes, "parity residual, rupees")
    if len(hours):
        ticks = range(-(-int(hours.min()) // 30) * 30, int(hours.max()) + 1, 30)
        axes.set_xticks(list(ticks), [f"{tick // 60:02}:{tick % 60:02}" for tick in ticks])
        axes.set_xlim(hours.min(), hours.max())
    axes.set_xlabel("minute of the day, time in India", fontsize=9)
    axes.legend(fontsize=8, frameon=False, ncols=3)
