"""One day of a chain as matrices, and the no-arbitrage rules that any minute of it must satisfy.

Bars are minutes: the closes of two contracts may lie almost a minute apart, and the market moves meanwhile. So no
close is ever compared with a close. A close is compared with the range that the other contract traded in the same
minute, and with the range of the forward, which covers any two moments of that minute exactly: a call bought at one
forward and a put sold at another differ by no more than the two forwards do. What is left for the tolerances is the
spread between bid and ask; how wide they are is decided in docs/decisions/0030-chain-tolerances.md.

Belongs here: prices of one day. Open interest and the outcome over all days are in `chain`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, time
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from expirytrack_dagster.ist import IST
from expirytrack_dagster.quality.candle_rules import microseconds

if TYPE_CHECKING:
    from datetime import date

    import pandas as pd

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
OptionType = Literal["CE", "PE"]

TICKS = 2
"""A deviation of so many ticks is never reported."""
ORDER_SHARE = 0.05
"""Nor is, between two strikes, this share of the cheaper price: far options are quoted in a few coarse steps."""
FORWARD_SHARE = 0.001
"""Nor is, against the forward, this share of it: deep options have wide spreads."""
HIGHEST_RATE = 0.10
"""A year, continuously compounded. The rate is not known; any from zero to this one is believed."""
AT_THE_MONEY = 5
"""The implied forward is the median over this many strikes, so that two broken ones cannot move it."""
FEWEST_STRIKES = 3
"""With fewer strikes that traded on both sides, a minute has no implied forward."""

_PAISE = 100
_CLOSING = time(15, 30)
_YEAR = 365 * 86_400 * 1_000_000
_NOT_TRADED = np.nan


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices of one type of contract, minutes down and strikes across; NaN where nothing was traded."""

    high: Floats
    low: Floats
    close: Floats


@dataclass(frozen=True, slots=True)
class ChainDay:
    """The options of one day that traded, and the band of the forward in each minute.

    Attributes:
        instants: microseconds since 1970 (UTC) of each minute with an option, ascending.
        strikes: in rupees, ascending.
        options: prices of calls and puts.
        forward_low, forward_high: the least and the highest forward of each minute as a column; NaN where unknown.
        discount: of the payment at expiry, at the highest rate, in each minute as a column.
        tick: the smallest step of an option's price in rupees.
    """

    instants: Ints
    strikes: Floats
    options: dict[OptionType, Prices]
    forward_low: Floats
    forward_high: Floats
    discount: Floats
    tick: float

    @property
    def band(self) -> Floats:
        """What a price may deviate from a bound that follows from the forward, in each minute."""
        return np.maximum(TICKS * self.tick, FORWARD_SHARE * self.forward_high)


class Finding(NamedTuple):
    """What a rule found in a day, all arrays of the same length.

    Attributes:
        judged: how often the rule was applied.
        minutes: in how many minutes.
        minute, strike: positions in `ChainDay.instants` and `strikes` of each violation.
        kind: CE or PE for each violation.
        price, bound: what was observed, and what it had to reach or not to exceed.
        excess: by how many rupees it lies beyond the bound; always more than the tolerance.
    """

    judged: int
    minutes: int
    minute: Ints
    strike: Ints
    kind: NDArray[np.object_]
    price: Floats
    bound: Floats
    excess: Floats


def chain_day(rows: pd.DataFrame, expiry: date) -> ChainDay:
    """Arrange a day's rows (the columns of `chain.COLUMNS`); bars without volume are quotes and left out."""
    traded = rows[rows["volume"].to_numpy() > 0]
    kinds = traded["instrument_type"]
    calls, puts, futures = (traded[(kinds == kind).to_numpy()] for kind in ("CE", "PE", "FUT"))
    instants = np.union1d(microseconds(calls["ts"]), microseconds(puts["ts"]))
    strikes = np.union1d(calls["strike_price"], puts["strike_price"])
    options: dict[OptionType, Prices] = {
        "CE": _arranged(calls, instants, strikes),
        "PE": _arranged(puts, instants, strikes),
    }
    forward_low, forward_high = _implied_forward(options, strikes)
    if len(futures):  # it is the forward itself
        futures = futures.sort_values("ts")
        at = np.minimum(np.searchsorted(microseconds(futures["ts"]), instants), len(futures) - 1)
        known = microseconds(futures["ts"])[at] == instants
        forward_low[known, 0] = futures["low"].to_numpy()[at][known]
        forward_high[known, 0] = futures["high"].to_numpy()[at][known]
    closing = int(datetime.combine(expiry, _CLOSING, IST).timestamp()) * 1_000_000
    years = np.maximum(closing - instants, 0)[:, None] / _YEAR
    ticks = traded.loc[(kinds != "FUT").to_numpy(), "tick_size"]
    return ChainDay(
        instants=instants,
        strikes=strikes,
        options=options,
        forward_low=forward_low,
        forward_high=forward_high,
        discount=np.exp(-HIGHEST_RATE * years),
        tick=float(ticks.max()) / _PAISE if len(ticks) else 0.0,
    )


def order_of_strikes(day: ChainDay) -> Finding:
    """Find calls that cost more than the next lower strike, and puts that cost more than the next higher one.

    Neighbours are neighbours among the contracts that traded in the minute. The dearer one is named.
    """
    found = []
    for kind, prices in day.options.items():
        # Seen from its dear end, a chain only falls: calls from the lowest strike, puts from the highest.
        way = slice(None, None, 1 if kind == "CE" else -1)
        high, low, close = prices.high[:, way], prices.low[:, way], prices.close[:, way]
        minute, here = np.nonzero(~np.isnan(close))
        same = minute[1:] == minute[:-1]
        minute, before, here = minute[1:][same], here[:-1][same], here[1:][same]
        dear, cheap = close[minute, before], close[minute, here]
        excess = np.maximum(cheap - high[minute, before], low[minute, here] - dear)
        tolerance = np.maximum(TICKS * day.tick, ORDER_SHARE * np.minimum(dear, cheap))
        strike = here if kind == "CE" else len(day.strikes) - 1 - here
        found.append(_beyond(kind, minute, strike, cheap, dear, excess, tolerance))
    return _joined(found)


def intrinsic_value(day: ChainDay) -> Finding:
    """Find options that cost less than exercising them brings at the least favourable forward of the minute."""
    found = []
    for kind, prices in day.options.items():
        gain = day.forward_low - day.strikes if kind == "CE" else day.strikes - day.forward_high
        floor = np.maximum(gain, 0.0) * day.discount
        minute, strike = np.nonzero(~np.isnan(prices.close + floor))
        price, bound = prices.close[minute, strike], floor[minute, strike]
        found.append(_beyond(kind, minute, strike, price, bound, bound - price, day.band[minute, 0]))
    return _joined(found)


def put_call_parity(day: ChainDay) -> Finding:
    """Find strikes whose call less put is not the discounted forward less strike; the call is named."""
    spread = day.options["CE"].close - day.options["PE"].close
    least, most = day.forward_low - day.strikes, day.forward_high - day.strikes
    least, most = np.minimum(least, least * day.discount), np.maximum(most, most * day.discount)
    minute, strike = np.nonzero(~np.isnan(spread + least))
    observed, low, high = spread[minute, strike], least[minute, strike], most[minute, strike]
    excess = np.maximum(observed - high, low - observed)
    bound = np.where(observed > high, high, low)
    return _beyond("CE", minute, strike, observed, bound, excess, day.band[minute, 0])


def _arranged(rows: pd.DataFrame, instants: Ints, strikes: Floats) -> Prices:
    place = np.searchsorted(instants, microseconds(rows["ts"])), np.searchsorted(strikes, rows["strike_price"])
    columns = []
    for name in ("high", "low", "close"):
        matrix = np.full((len(instants), len(strikes)), _NOT_TRADED)
        matrix[place] = rows[name].to_numpy()
        columns.append(matrix)
    return Prices(*columns)


def _implied_forward(options: dict[OptionType, Prices], strikes: Floats) -> tuple[Floats, Floats]:
    """Return the least and highest forward that parity at the money implies in each minute, as columns.

    At the money, call less put is small, and with it the part that the unknown rate plays.
    """
    calls, puts = options["CE"], options["PE"]
    low = np.full((len(calls.close), 1), np.nan)
    high = low.copy()
    distance = np.abs(calls.close - puts.close)
    usable = np.flatnonzero((~np.isnan(distance)).sum(axis=1) >= FEWEST_STRIKES)
    if len(usable):
        distance = distance[usable]
        nearest = np.argsort(distance, axis=1)[:, :AT_THE_MONEY]  # NaN comes last
        both = ~np.isnan(np.take_along_axis(distance, nearest, axis=1))
        for into, dear, cheap in ((low, calls.low, puts.high), (high, calls.high, puts.low)):
            implied = np.take_along_axis(strikes + dear[usable] - cheap[usable], nearest, axis=1)
            into[usable, 0] = np.nanmedian(np.where(both, implied, np.nan), axis=1)
    return low, high


def _beyond(
    kind: OptionType,
    minute: NDArray[np.intp],
    strike: NDArray[np.intp],
    price: Floats,
    bound: Floats,
    excess: Floats,
    tolerance: Floats,
) -> Finding:
    wrong = excess > tolerance
    return Finding(
        judged=len(excess),
        minutes=len(np.unique(minute)),
        minute=minute[wrong].astype(np.int64),
        strike=strike[wrong].astype(np.int64),
        kind=np.full(int(wrong.sum()), kind, dtype=np.object_),
        price=price[wrong],
        bound=bound[wrong],
        excess=excess[wrong],
    )


def _joined(found: list[Finding]) -> Finding:
    """Put the findings of both types of option together; their minutes are largely the same."""
    columns = (np.concatenate(pair) for pair in zip(*(each[2:] for each in found), strict=True))
    return Finding(sum(each.judged for each in found), max(each.minutes for each in found), *columns)
