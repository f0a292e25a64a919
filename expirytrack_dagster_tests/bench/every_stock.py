"""A desk that collects everything: 200 underlyings, two years, as they would be listed.

What is known of them stands here with its source, and what is not known is called an assumption. Belongs here: the
market and its sizes. What it costs is computed by the program's own planner in `bench_scale.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

import pandas as pd

from expirytrack_dagster.sandbox.underlyings import UNDERLYINGS, expiries

if TYPE_CHECKING:
    from collections.abc import Iterator

SINCE, TODAY = date(2024, 10, 3), date(2026, 10, 3)
"""Two years, from the oldest expiry that anybody has seen Upstox list."""

SESSION = 375
"""Minutes of a trading day; it has 385 from August 2026 on, which is not counted."""

WEEKLY_LIFE, MONTHLY_LIFE = 25, 63
"""Trading days for which a contract is listed: five weeks, and three months, as the exchanges announce them."""

STOCKS = 192
STOCK_OPTIONS = 64
"""Options of a stock's expiry. Upstox's list of instruments of 18 December 2025 has 208 stocks with options of the
nearest month, 64 each on average (18 to 145). The desk has 200 underlyings: the eight indices of that list and 192 of
its stocks."""

FUTURE_MINUTES = 0.95
STOCK_MINUTES = 0.06
"""Assumptions: the share of a listed contract's minutes in which a future, and a stock's option, trades."""


@dataclass(frozen=True, slots=True)
class Index:
    """An index: options of a monthly and of a weekly expiry, counted in the same list; 0 where it has none.

    `calendar` is the underlying of the sandbox whose expiry dates it shares. `minutes` is an assumption: the share of a
    listed option's minutes in which it trades.
    """

    symbol: str
    calendar: str
    monthly: int
    weekly: int
    minutes: float


INDICES = (
    Index("NIFTY", "NIFTY", 232, 160, 0.30),
    Index("BANKNIFTY", "BANKNIFTY", 333, 333, 0.20),
    Index("FINNIFTY", "RELIANCE", 200, 0, 0.05),
    Index("MIDCPNIFTY", "RELIANCE", 272, 0, 0.05),
    Index("NIFTYNXT50", "RELIANCE", 274, 0, 0.05),
    Index("SENSEX", "SENSEX", 410, 328, 0.20),
    Index("BANKEX", "SENSEX", 414, 0, 0.05),
    Index("SENSEX50", "SENSEX", 148, 0, 0.05),
)
"""BANKNIFTY had weekly expiries until November 2024; their chains are taken to be as wide as the monthly ones."""


@dataclass(frozen=True, slots=True)
class ListedCell:
    """A cell of the desk: how many options and futures it lists, and candles of all of them."""

    underlying: str
    expiry: date
    options: int
    futures: int
    candles: int

    @property
    def contracts(self) -> pd.DataFrame:
        """The cell's list as the planner needs it: `instrument_key` and `strike_price`, missing for a future."""
        strikes = [float(number // 2 + 1) for number in range(self.options)] + [None] * self.futures
        keys = [f"NSE_FO|{number}|{self.underlying}|{self.expiry}" for number in range(len(strikes))]
        return pd.DataFrame({"instrument_key": keys, "strike_price": pd.Series(strikes, dtype="float64")})


def cells(*, stocks: int = STOCKS) -> Iterator[ListedCell]:
    """Yield every cell that is listed, by underlying and date."""
    for index in INDICES:
        for day, weekly in dates(index.calendar):
            options = index.weekly if weekly else index.monthly
            if options:
                yield _cell(index.symbol, day, options, index.minutes, weekly=weekly)
    for number in range(stocks):
        for day, _ in dates("RELIANCE"):
            yield _cell(f"STOCK{number:03}", day, STOCK_OPTIONS, STOCK_MINUTES, weekly=False)


def dates(calendar: str) -> list[tuple[date, bool]]:
    """Return the expiry dates of an underlying of the sandbox within the two years, with True for weekly ones."""
    underlying = next(known for known in UNDERLYINGS if known.symbol == calendar)
    return [(day, weekly) for day, weekly in expiries(underlying).items() if SINCE <= day < TODAY]


def _cell(symbol: str, day: date, options: int, minutes: float, *, weekly: bool) -> ListedCell:
    life, futures = (WEEKLY_LIFE, 0) if weekly else (MONTHLY_LIFE, 1)
    candles = life * SESSION * (options * minutes + futures * FUTURE_MINUTES)
    return ListedCell(symbol, day, options, futures, round(candles))
