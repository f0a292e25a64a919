"""What a market can be asked: the one interface between the server and where its data come from.

Belongs here: the protocol alone. The markets are `synthetic.py` and `recorded.py`; `planting.py` wraps either.
"""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from expirytrack_dagster.sandbox.bars import Bars

Row: TypeAlias = dict[str, object]
"""One contract or instrument as the API writes it."""

# Not strftime("%b"), which follows the machine's language.
MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")


class Market(Protocol):
    """A source of expired contracts. None means that the market does not know the key; nothing listed is empty."""

    @property
    def today(self) -> date:
        """The day on which the market is asked (IST): what expires later is not expired yet."""
        ...

    def expiries(self, underlying_key: str) -> list[date] | None:
        """Return the past expiries of an underlying, ascending."""
        ...

    def option_contracts(self, underlying_key: str, expiry: date) -> list[Row] | None:
        """Return the options of an expiry in the documented shape, by strike, PE before CE."""
        ...

    def future_contracts(self, underlying_key: str, expiry: date) -> list[Row] | None:
        """Return the future of an expiry in the documented shape, or nothing on a weekly expiry."""
        ...

    def candles(self, instrument_key: str, interval: str, from_date: date, to_date: date) -> Bars | None:
        """Return the candles of an expired contract on the days from `from_date` to `to_date`, ascending."""
        ...

    def minutes(self, instrument_key: str) -> Bars | None:
        """Return all one-minute candles of an expired contract: the truth that tests compare with."""
        ...

    def instruments_master(self) -> bytes:
        """Return the instruments master, gzipped JSON."""
        ...


def expiry_of(instrument_key: str) -> date:
    """Return the expiry inside a key of the form `SEGMENT|token|DD-MM-YYYY`.

    Raises:
        ValueError: the key has another form, or there is no such day.
    """
    day, month, year = instrument_key.rsplit("|", 1)[-1].split("-")
    return date(int(year), int(month), int(day))


def expired_key(segment: str, token: str, expiry: date) -> str:
    """Return `SEGMENT|token|DD-MM-YYYY`, the identity of an expired contract."""
    return f"{segment}|{token}|{expiry:%d-%m-%Y}"


def trading_symbol(symbol: str, expiry: date, strike: float | None, kind: str) -> str:
    """Return `NIFTY 22600 PE 28 AUG 25`, or `NIFTY FUT 28 AUG 25` where there is no strike."""
    middle = kind if strike is None else f"{strike:g} {kind}"
    return f"{symbol} {middle} {expiry:%d} {MONTHS[expiry.month - 1]} {expiry:%y}"
