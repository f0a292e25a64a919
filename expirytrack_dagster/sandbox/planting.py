"""Candles spoilt on purpose, and the exact list of them: what a test compares the quarantine with.

Belongs here: one planted row a kind and contract, at a place that depends on the contract alone. Only one-minute
answers are spoilt; coarser intervals come from the clean minutes.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Literal, get_args

import msgspec
import numpy as np

from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.sandbox import wire
from expirytrack_dagster.sandbox.bars import DAY, IST_OFFSET, Bars, Ints, day_number, epoch, joined
from expirytrack_dagster.sandbox.market import expiry_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import date

    from expirytrack_dagster.sandbox.market import Market, Row

Kind = Literal[
    "high_below_low",
    "negative_volume",
    "zero_price",
    "after_expiry",
    "off_the_minute",
    "conflicting_duplicate",
    "exact_duplicate",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
TICK = 0.05


class Plant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Spoil one candle of each kind in each contract; `contracts` are full keys, `SEGMENT|token|DD-MM-YYYY`."""

    contracts: tuple[str, ...]
    kinds: tuple[Kind, ...] = KINDS


class Planted(msgspec.Struct, frozen=True):
    """One row as it was served: its contract, its kind, and the candle in the form of the wire.

    A conflicting duplicate is two rows, the untouched one first; so is an exact duplicate.
    """

    instrument_key: str
    kind: Kind
    candle: list[object]


class PlantedMarket:
    """A market whose candles are spoilt in chosen contracts; everything else passes through.

    The kinds `high_below_low`, `negative_volume` and `zero_price` replace a candle; the others add one, which is
    answered together with the candle that it stems from. `after_expiry` is the last candle again, on the day after the
    expiry. Listed rows are as a client receives them.

    Raises:
        ConfigurationError: a contract is unknown or has too few candles.
    """

    def __init__(self, market: Market, plants: Iterable[Plant]) -> None:
        """Take the market and what to spoil in it."""
        self._market = market
        self._kinds: dict[str, tuple[Kind, ...]] = {}
        for plant in plants:
            for key in plant.contracts:
                self._kinds[key] = tuple(dict.fromkeys(self._kinds.get(key, ()) + plant.kinds))
        for key, kinds in self._kinds.items():
            if len(market.minutes(key) or ()) < len(kinds) + 2:
                raise ConfigurationError(f"{key} has too few candles to plant {len(kinds)} faults in.")

    @property
    def today(self) -> date:
        """The day on which the market is asked (IST)."""
        return self._market.today

    def expiries(self, underlying_key: str) -> list[date] | None:
        """Pass through."""
        return self._market.expiries(underlying_key)

    def option_contracts(self, underlying_key: str, expiry: date) -> list[Row] | None:
        """Pass through."""
        return self._market.option_contracts(underlying_key, expiry)

    def future_contracts(self, underlying_key: str, expiry: date) -> list[Row] | None:
        """Pass through."""
        return self._market.future_contracts(underlying_key, expiry)

    def instruments_master(self) -> bytes:
        """Pass through."""
        return self._market.instruments_master()

    def candles(self, instrument_key: str, interval: str, from_date: date, to_date: date) -> Bars | None:
        """Return the candles of the window; a planted one belongs to the day of the candle that it stems from."""
        clean = self._market.minutes(instrument_key)
        if clean is None or interval != "1minute" or instrument_key not in self._kinds:
            return self._market.candles(instrument_key, interval, from_date, to_date)
        bars, source, _ = self._spoilt(instrument_key, clean)
        day = replace(bars, time=source).day
        return bars.take((day >= day_number(from_date)) & (day <= day_number(to_date)))

    def minutes(self, instrument_key: str) -> Bars | None:
        """Return the candles with the planted ones among them."""
        clean = self._market.minutes(instrument_key)
        if clean is None or instrument_key not in self._kinds:
            return clean
        return self._spoilt(instrument_key, clean)[0]

    def planted(self) -> list[Planted]:
        """Return every planted row, by contract and then by time of its source."""
        cleans = ((key, self._market.minutes(key)) for key in self._kinds)
        return [row for key, clean in cleans if clean is not None for row in self._spoilt(key, clean)[2]]

    def _spoilt(self, key: str, clean: Bars) -> tuple[Bars, Ints, list[Planted]]:
        """Return the spoilt candles, the time of the clean candle that each stems from, and the planted rows."""
        kinds, last = self._kinds[key], len(clean) - 1
        places = {(number + 1) * last // (len(kinds) + 1): kind for number, kind in enumerate(kinds)}
        if "after_expiry" in kinds:
            places = {at: kind for at, kind in places.items() if kind != "after_expiry"} | {last: "after_expiry"}
        bars, source, planted, done = [], [], [], 0
        for at, kind in places.items():
            rows, shown = _faulty(key, clean.take(slice(at, at + 1)), kind)
            bars += [clean.take(slice(done, at)), rows]
            source += [clean.time[done:at], np.repeat(clean.time[at], len(rows))]
            planted += [Planted(key, kind, row) for row in wire.rows(shown)]
            done = at + 1
        bars.append(clean.take(slice(done, None)))
        source.append(clean.time[done:])
        return joined(bars), np.concatenate(source), planted


def _faulty(key: str, bar: Bars, kind: Kind) -> tuple[Bars, Bars]:
    """Return what is served in place of one clean candle, and which of it is the planted fault."""
    zero = np.zeros(1)
    match kind:
        case "high_below_low":
            bad = replace(bar, high=bar.low, low=np.round(bar.high + TICK, 2))
        case "negative_volume":
            bad = replace(bar, volume=-np.maximum(bar.volume, 1))
        case "zero_price":
            bad = replace(bar, open=zero, high=zero, low=zero, close=zero)
        case "after_expiry":
            next_day = epoch(expiry_of(key) + timedelta(days=1))
            added = replace(bar, time=next_day + (bar.time + IST_OFFSET) % DAY)
            return joined([bar, added]), added
        case "off_the_minute":
            added = replace(bar, time=bar.time + 30)
            return joined([bar, added]), added
        case "conflicting_duplicate":
            bad = joined([bar, replace(bar, high=np.round(bar.high + TICK, 2))])
        case "exact_duplicate":
            bad = joined([bar, bar])
    return bad, bad
