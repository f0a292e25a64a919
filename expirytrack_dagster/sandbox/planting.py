"""Candles spoilt on purpose, and the exact list of them: what a test compares the quarantine with.

Belongs here: one planted row a kind and contract, at a place that depends on the contract alone; and two faults that
take several contracts, an exchange of prices and a minute that the whole chain lacks. Faults that a row shows by itself
spoil one-minute answers only. Faults that show only beside other rows are what the source itself believes: its coarser
intervals have them too, so daily candles do not betray them.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, get_args

import msgspec
import numpy as np

from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.sandbox import wire
from expirytrack_dagster.sandbox.bars import DAY, IST_OFFSET, Bars, Ints, aggregate, day_number, epoch, joined, no_bars
from expirytrack_dagster.sandbox.market import expiry_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import date

    from expirytrack_dagster.sandbox.market import Market, Row

RowKind = Literal[
    "high_below_low",
    "low_above_open",
    "negative_volume",
    "negative_open_interest",
    "zero_price",
    "null_price",
    "after_expiry",
    "off_the_minute",
    "conflicting_duplicate",
    "exact_duplicate",
]
ChainKind = Literal["far_off_price", "open_interest_jump", "swapped_strikes", "missing_minute"]
Kind = RowKind | ChainKind
ROW_KINDS: tuple[RowKind, ...] = get_args(RowKind)
"""Faults that a row shows by itself, or beside another row of its minute."""
CHAIN_KINDS: tuple[ChainKind, ...] = get_args(ChainKind)
"""Faults that show only beside other contracts or other minutes."""
KINDS: tuple[Kind, ...] = ROW_KINDS + CHAIN_KINDS
TICK = 0.05
FAR = 100.0  # rupees that a price far off is away at least
JUMP = 10


class Plant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Spoil one candle of each kind in each contract; `contracts` are full keys, `SEGMENT|token|DD-MM-YYYY`.

    Two kinds take the contracts together: `swapped_strikes` exchanges one minute between the first and the second, the
    third and the fourth, and so on; `missing_minute` withholds one minute from all of them.
    """

    contracts: tuple[str, ...]
    kinds: tuple[Kind, ...] = ROW_KINDS


class Planted(msgspec.Struct, frozen=True):
    """One row as it was served: its contract, its kind, and the candle in the form of the wire.

    A conflicting duplicate is two rows, the untouched one first; so is an exact duplicate. Of a missing minute, it is
    the row that was not served.
    """

    instrument_key: str
    kind: Kind
    candle: list[object]


class PlantedMarket:
    """A market whose candles are spoilt in chosen contracts; everything else passes through.

    `after_expiry`, `off_the_minute` and the duplicates add a candle, which is answered together with the candle that it
    stems from; `missing_minute` takes one away; the others replace one. `after_expiry` is the last candle again, on the
    day after the expiry. Listed rows are as a client receives them.

    Raises:
        ConfigurationError: a contract is unknown or has too few candles, or two to be swapped have no minute in common.
    """

    def __init__(self, market: Market, plants: Iterable[Plant]) -> None:
        """Take the market and what to spoil in it."""
        self._market = market
        self._kinds: dict[str, tuple[Kind, ...]] = {}
        self._partner: dict[str, tuple[str, int]] = {}
        self._withheld: dict[str, int] = {}
        for plant in plants:
            alone = tuple(kind for kind in plant.kinds if kind not in {"swapped_strikes", "missing_minute"})
            for key in plant.contracts:
                self._kinds[key] = tuple(dict.fromkeys(self._kinds.get(key, ()) + alone))
                if len(market.minutes(key) or ()) < len(self._kinds[key]) + 2:
                    raise ConfigurationError(f"{key} has too few candles to plant {len(self._kinds[key])} faults in.")
            if "swapped_strikes" in plant.kinds:
                for one, other in zip(plant.contracts[::2], plant.contracts[1::2], strict=False):
                    self._swap(one, other)
            if "missing_minute" in plant.kinds:
                first = market.minutes(plant.contracts[0]) or no_bars()
                self._withheld |= dict.fromkeys(plant.contracts, int(first.time[len(first) // 3]))

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
        if instrument_key not in self._kinds:
            return self._market.candles(instrument_key, interval, from_date, to_date)
        if interval != "1minute":
            return aggregate(self._believed(instrument_key)[0].within(from_date, to_date), interval)
        bars, source, _ = self._spoilt(instrument_key)
        day = replace(bars, time=source).day
        return bars.take((day >= day_number(from_date)) & (day <= day_number(to_date)))

    def minutes(self, instrument_key: str) -> Bars | None:
        """Return the candles with the planted ones among them."""
        if instrument_key not in self._kinds:
            return self._market.minutes(instrument_key)
        return self._spoilt(instrument_key)[0]

    def planted(self) -> list[Planted]:
        """Return every planted row, by contract; the faults of the chain first, then by time of its source."""
        return [row for key in self._kinds for row in self._spoilt(key)[2]]

    def _swap(self, one: str, other: str) -> None:
        """Exchange the middle one of the minutes that two contracts have in common."""
        common = np.intersect1d(self._clean(one).time, self._clean(other).time)
        if not len(common):
            raise ConfigurationError(f"{one} and {other} have no minute in common to swap.")
        middle = int(common[len(common) // 2])
        self._partner |= {one: (other, middle), other: (one, middle)}

    def _clean(self, key: str) -> Bars:
        return self._market.minutes(key) or no_bars()

    def _believed(self, key: str) -> tuple[Bars, list[Planted]]:
        """Return the candles with the faults of the chain, and the rows of these: what the source itself believes."""
        bars, planted = self._clean(key), []
        if key in self._partner:
            partner, minute = self._partner[key]
            at, theirs = int(np.searchsorted(bars.time, minute)), self._clean(partner)
            strange = theirs.take(theirs.time == minute)
            bars = joined([bars.take(slice(at)), strange, bars.take(slice(at + 1, None))])
            planted += [Planted(key, "swapped_strikes", row) for row in wire.rows(strange)]
        if key in self._withheld:
            gone = bars.time == self._withheld[key]
            planted += [Planted(key, "missing_minute", row) for row in wire.rows(bars.take(gone))]
            bars = bars.take(~gone)
        for number, kind in enumerate(CHAIN_KINDS):
            if kind in self._kinds[key]:
                at = (2 * number + 1) * len(bars) // 5  # a fifth and three fifths of the way
                rows, shown = _faulty(key, bars.take(slice(at, at + 1)), kind)
                bars = joined([bars.take(slice(at)), rows, bars.take(slice(at + 1, None))])
                planted += [Planted(key, kind, row) for row in wire.rows(shown)]
        return bars, planted

    def _spoilt(self, key: str) -> tuple[Bars, Ints, list[Planted]]:
        """Return the spoilt candles, the time of the clean candle that each stems from, and the planted rows."""
        clean, planted = self._believed(key)
        kinds, last = [kind for kind in self._kinds[key] if kind in ROW_KINDS], len(clean) - 1
        places = {(number + 1) * last // (len(kinds) + 1): kind for number, kind in enumerate(kinds)}
        if "after_expiry" in kinds:
            places = {at: kind for at, kind in places.items() if kind != "after_expiry"} | {last: "after_expiry"}
        bars, source, done = [], [], 0
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
    if kind == "after_expiry":
        next_day = epoch(expiry_of(key) + timedelta(days=1))
        added = replace(bar, time=next_day + (bar.time + IST_OFFSET) % DAY)
    elif kind == "off_the_minute":
        added = replace(bar, time=bar.time + 30)
    else:
        if kind == "conflicting_duplicate":
            bad = joined([bar, replace(bar, high=np.round(bar.high + TICK, 2))])
        elif kind == "exact_duplicate":
            bad = joined([bar, bar])
        else:
            bad = replace(bar, **_changes(bar)[kind])
        return bad, bad
    return joined([bar, added]), added


def _changes(bar: Bars) -> dict[str, dict[str, Any]]:
    """Return the columns that each kind changes in a candle."""
    above, far, zero = np.round(bar.high + TICK, 2), 2 * bar.close + FAR, np.zeros(1)
    return {
        "high_below_low": {"high": bar.low, "low": above},
        "low_above_open": {"low": above, "high": above, "close": above},
        "negative_volume": {"volume": -np.maximum(bar.volume, 1)},
        "negative_open_interest": {"open_interest": -np.maximum(bar.open_interest, 1)},
        "zero_price": {"open": zero, "high": zero, "low": zero, "close": zero},
        "null_price": {"close": np.full(1, np.nan)},
        "far_off_price": {"open": far, "high": far, "low": far, "close": far},
        # More than was ever traded in the minutes before, or it would be believable.
        "open_interest_jump": {"open_interest": JUMP * np.maximum(bar.open_interest, 1) + JUMP * JUMP * bar.volume},
    }
