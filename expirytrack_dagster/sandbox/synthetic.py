"""A market made from a seed: the same seed gives the same bytes, whatever was asked before and in whichever process.

Each underlying has one minute path over the whole calendar. A future is that path with its cost of carry; an option is
Black-76 on the future's closing price, so at the close of every minute parity and the order of the strikes hold within
a tick. What is random about a contract comes from a generator seeded by the contract's own identity. Wings trade now
and then, and the outermost strikes in the money never: those contracts are listed and have no candles.

Belongs here: the market and its contracts. The calendar is `sessions.py`, contract rules are `underlyings.py`,
formulas are `pricing.py`.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from datetime import date, datetime
from functools import lru_cache

import msgspec
import numpy as np

from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.sandbox import pricing, sessions
from expirytrack_dagster.sandbox.bars import IST, Bars, Floats, Ints, aggregate, day_number, epoch, no_bars
from expirytrack_dagster.sandbox.market import Row, expired_key, expiry_of, trading_symbol
from expirytrack_dagster.sandbox.underlyings import FLOOR, UNDERLYINGS, Underlying, expiries

YEAR = 365 * 86_400
OVERNIGHT = 0.2  # share of a day's variance that falls between two sessions
FUTURE_TICKS = 10  # of 0.10 in a rupee
MAX_STRIKES = 249
TOKENS = 1_000  # an expiry's block of tokens; eight blocks rotate, so tokens are reused as on the exchange
BLOCKS = 8
FREEZE_LOTS = 24
KEPT = 32  # contracts kept in memory: 36 MB at 20,000 bars each


@dataclass(frozen=True, slots=True)
class Contract:
    """One contract: `strike` is None for a future, `offset` counts strikes from the middle of the chain."""

    underlying: Underlying
    expiry: date
    weekly: bool
    kind: str
    token: str
    strike: int | None = None
    offset: int = 0

    @property
    def key(self) -> str:
        """The key of the expired contract."""
        return expired_key(self.underlying.segment, self.token, self.expiry)

    def row(self) -> Row:
        """Return the contract as the API writes it; a future has neither `weekly` nor `strike_price`."""
        lot = self.underlying.lot(self.expiry)
        option: Row = {} if self.strike is None else {"strike_price": self.strike, "weekly": self.weekly}
        return {
            "name": self.underlying.symbol,
            "segment": self.underlying.segment,
            "exchange": self.underlying.exchange,
            "expiry": self.expiry.isoformat(),
            "instrument_key": self.key,
            "exchange_token": self.token,
            "trading_symbol": trading_symbol(self.underlying.symbol, self.expiry, self.strike, self.kind),
            "tick_size": 10 if self.strike is None else 5,  # paise
            "lot_size": lot,
            "instrument_type": self.kind,
            "freeze_quantity": FREEZE_LOTS * lot,
            "underlying_key": self.underlying.key,
            "underlying_type": self.underlying.kind,
            "underlying_symbol": self.underlying.symbol,
            "minimum_lot": lot,
        } | option


class SyntheticMarket:
    """The synthetic market; see the module for what it promises.

    Args:
        seed: chooses the paths and everything that is random about the contracts.
        strikes: strikes on each side of the middle one, so an expiry has `2 * (2 * strikes + 1)` options, or
            fewer where strikes would not be above zero.
        days: trading days that a contract lives, its expiry included; 54 give 20,000 bars a contract.
        today: the day on which the market is asked; the real one (IST) by default.

    Raises:
        ConfigurationError: the sizes cannot be served.
    """

    def __init__(self, *, seed: int = 0, strikes: int = 10, days: int = 5, today: date | None = None) -> None:
        """Take the sizes; nothing is computed before it is asked for."""
        if not 0 <= strikes <= MAX_STRIKES or days < 1 or seed < 0:
            raise ConfigurationError(
                f"The synthetic market takes 0 to {MAX_STRIKES} strikes a side, 1 or more days and a seed of 0 or more."
            )
        self.seed, self.strikes, self.days = seed, strikes, days
        self._today = today
        self._underlyings = {underlying.key: underlying for underlying in UNDERLYINGS}
        self._path = lru_cache(maxsize=None)(self._make_path)
        self._chain = lru_cache(maxsize=KEPT)(self._make_chain)
        self._bars = lru_cache(maxsize=KEPT)(self._make_bars)

    @property
    def today(self) -> date:
        """The day on which the market is asked (IST)."""
        return self._today or datetime.now(IST).date()

    def expiries(self, underlying_key: str) -> list[date] | None:
        """Return the expiries before today, ascending."""
        underlying = self._underlyings.get(underlying_key)
        return None if underlying is None else [day for day in expiries(underlying) if day < self.today]

    def option_contracts(self, underlying_key: str, expiry: date) -> list[Row] | None:
        """Return the options of an expiry: ascending strikes, PE before CE."""
        return self._rows(underlying_key, expiry, futures=False)

    def future_contracts(self, underlying_key: str, expiry: date) -> list[Row] | None:
        """Return the one future of a monthly expiry."""
        return self._rows(underlying_key, expiry, futures=True)

    def candles(self, instrument_key: str, interval: str, from_date: date, to_date: date) -> Bars | None:
        """Return the candles of the window, ascending; coarser intervals come from the same minutes."""
        minutes = self.minutes(instrument_key)
        return None if minutes is None else aggregate(minutes.within(from_date, to_date), interval)

    def minutes(self, instrument_key: str) -> Bars | None:
        """Return every minute that the contract traded, ascending."""
        contract = self.contract(instrument_key)
        return None if contract is None else self._bars(contract)

    def contract(self, instrument_key: str) -> Contract | None:
        """Return the contract of a key, or None if no such contract has expired."""
        try:
            expiry = expiry_of(instrument_key)
        except ValueError:
            return None
        for underlying in UNDERLYINGS:
            if expiry in expiries(underlying) and expiry < self.today:
                found = self._chain(underlying, expiry).get(instrument_key)
                if found:
                    return found
        return None

    def instruments_master(self) -> bytes:
        """Return the underlyings and the contracts of their next expiry, as the exchange lists them today."""
        listed: list[Row] = []
        for underlying in UNDERLYINGS:
            listed.append(_underlying_row(underlying))
            upcoming = next((day for day in expiries(underlying) if day >= self.today), None)
            if upcoming is not None:
                end = epoch(upcoming, 86_399) * 1000
                for contract in self._chain(underlying, upcoming).values():
                    key = contract.key.rsplit("|", 1)[0]
                    listed.append(contract.row() | {"instrument_key": key, "expiry": end})
        return gzip.compress(msgspec.json.encode(listed), mtime=0)

    def _rows(self, underlying_key: str, expiry: date, *, futures: bool) -> list[Row] | None:
        underlying = self._underlyings.get(underlying_key)
        if underlying is None:
            return None
        if expiry not in expiries(underlying) or expiry >= self.today:
            return []
        chain = self._chain(underlying, expiry).values()
        return [contract.row() for contract in chain if (contract.strike is None) == futures]

    def _make_path(self, underlying: Underlying) -> Floats:
        """Return the level at the close of every minute of the calendar."""
        random = np.random.default_rng([self.seed, underlying.first_contract_token])
        daily = underlying.volatility / np.sqrt(252)
        deviation = np.full(len(sessions.all_minutes()), daily * np.sqrt((1 - OVERNIGHT) / sessions.REGULAR_BARS))
        deviation[sessions.first_bars()[:-1]] = daily * np.sqrt(OVERNIGHT)
        returns = random.standard_normal(len(deviation)) * deviation
        path: Floats = underlying.level * np.exp(np.cumsum(returns - deviation * deviation / 2))
        return path

    def _life(self, expiry: date) -> slice:
        """Return where the contract's minutes lie in the calendar."""
        last = sessions.session_numbers()[expiry]
        starts = sessions.first_bars()
        return slice(int(starts[max(last - self.days + 1, 0)]), int(starts[last + 1]))

    def _make_chain(self, underlying: Underlying, expiry: date) -> dict[str, Contract]:
        """Return the contracts of an expiry by key; strikes are centred on the level at listing."""
        weekly = expiries(underlying)[expiry]
        middle = round(float(self._path(underlying)[self._life(expiry).start]) / underlying.step)
        first_token = underlying.first_contract_token + TOKENS * (day_number(expiry) // 7 % BLOCKS)
        contracts: list[Contract] = []
        for offset in range(max(-self.strikes, 1 - middle), self.strikes + 1):  # a strike is above zero
            for kind in ("PE", "CE"):
                token, strike = str(first_token + len(contracts)), (middle + offset) * underlying.step
                contracts.append(Contract(underlying, expiry, weekly, kind, token, strike, offset))
        if not weekly:
            contracts.append(Contract(underlying, expiry, weekly, "FUT", str(first_token + len(contracts))))
        return {contract.key: contract for contract in contracts}

    def _make_bars(self, contract: Contract) -> Bars:
        """Return the traded minutes of a contract: fair closing prices, the rest drawn around them."""
        activity = self._activity(contract)
        if activity == 0:
            return no_bars()
        life = self._life(contract.expiry)
        time = sessions.all_minutes()[life]
        years = np.maximum(time[-1] - time, 60) / YEAR  # the last minute is priced as if one minute were left
        carried = self._path(contract.underlying)[life] * np.exp(pricing.RATE * years)
        close: Ints = np.rint(carried * FUTURE_TICKS).astype(np.int64)
        ticks, wick = FUTURE_TICKS, 0.0001
        if contract.strike is not None:
            volatility, call = contract.underlying.volatility, contract.kind == "CE"
            close = pricing.option_ticks(close / FUTURE_TICKS, contract.strike, years, volatility, call=call)
            ticks, wick = pricing.TICKS, 0.004
        random = np.random.default_rng([self.seed, int(contract.token), day_number(contract.expiry)])
        size = len(time)
        before = np.concatenate([close[:1], close[:-1]])
        opened = np.maximum(before + random.integers(-1, 2, size), 1)
        high = np.maximum(opened, close) + random.exponential(1 + wick * close).astype(np.int64)
        low = np.maximum(np.minimum(opened, close) - random.exponential(1 + wick * close).astype(np.int64), 1)
        lot = contract.underlying.lot(contract.expiry)
        volume = lot * (1 + random.exponential(200 * activity, size).astype(np.int64))
        moves = np.where(
            np.arange(size) % 3 == 0, random.integers(-40, 61, size), 0
        )  # open interest steps every 3 minutes
        open_interest = lot * np.maximum(2000 + np.cumsum(moves), 0)
        traded = random.random(size) < activity
        if contract.strike is not None:
            traded &= time >= epoch(FLOOR)
        bars = Bars(time, opened / ticks, high / ticks, low / ticks, close / ticks, volume, open_interest)
        return bars.take(traded)

    def _activity(self, contract: Contract) -> float:
        """Return the chance that a minute trades: 1 near the middle and for futures, small in the wings.

        The outer tenth of the strikes in the money never trades.
        """
        if contract.strike is None:
            return 1.0
        share = abs(contract.offset) / max(self.strikes, 1)
        in_the_money = (contract.offset < 0) == (contract.kind == "CE")
        if in_the_money and share > 0.9:  # noqa: PLR2004 - the tenth of the docstring
            return 0.0
        return min(1.0, (1.2 - 1.15 * share * share) * (0.6 if in_the_money and share > 0.4 else 1.0))  # noqa: PLR2004 - shape of the wings


def _underlying_row(underlying: Underlying) -> Row:
    segment, code = underlying.key.split("|")
    row: Row = {
        "segment": segment,
        "name": underlying.name,
        "exchange": underlying.exchange,
        "instrument_type": "INDEX" if underlying.kind == "INDEX" else "EQ",
        "instrument_key": underlying.key,
        "exchange_token": underlying.token,
        "trading_symbol": underlying.symbol,
    }
    if underlying.kind != "INDEX":
        row |= {"isin": code, "lot_size": 1, "tick_size": 10}
    return row
