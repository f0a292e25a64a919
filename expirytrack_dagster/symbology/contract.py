"""What every notation names: a future or an option, and the pieces of text that notations share."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Literal, Self, TypeGuard

from expirytrack_dagster.errors import ConfigurationError

Kind = Literal["CE", "PE", "FUT"]

UNDERLYING = re.compile(r"[A-Z0-9][A-Z0-9&_.-]{0,31}")
"""Short symbol of an underlying: it is a partition key, a folder name and part of every notation."""

MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
STRIKE = r"(?:[1-9][0-9]*(?:\.[0-9]*[1-9])?|0\.[0-9]*[1-9])"
"""The one way to write a strike: no zero too many, no exponent."""

_CENTURY = 2000  # two digits of a year stand for 2000 to 2099: derivatives trade in India since 2000


@dataclass(frozen=True, slots=True)
class Contract:
    """A call, a put or a future: what its names say; which exchange lists it is part of its instrument key alone.

    `strike` is in rupees, exact, and None for a future.
    """

    underlying: str
    expiry: date
    kind: Kind
    strike: Decimal | None = None

    def __post_init__(self) -> None:
        """Refuse what no notation can name.

        Raises:
            ConfigurationError: the underlying is no symbol, the year lies outside 2000 to 2099, or the strike of an
                option is not above zero, or a future has one.
        """
        if not UNDERLYING.fullmatch(self.underlying):
            raise ConfigurationError(f"'{self.underlying[:40]}' is no symbol of an underlying, such as NIFTY or M&M.")
        if self.expiry.year // 100 * 100 != _CENTURY:
            raise ConfigurationError(f"The expiry {self.expiry} cannot be written with two digits of the year.")
        wrong = self.strike is not None if self.kind == "FUT" else not _is_strike(self.strike)
        if wrong:
            raise ConfigurationError(f"A {self.kind} of {self.underlying} cannot have the strike {self.strike}.")

    @classmethod
    def of(cls, underlying: str, expiry: date, kind: str, strike: float | None) -> Self:
        """Return the contract of a row of the table `contracts`; the strike is the number that its digits show.

        Raises:
            ConfigurationError: it is no contract; see the class.
        """
        if not is_kind(kind):
            raise ConfigurationError(f"'{kind}' is none of CE, PE and FUT.")
        return cls(underlying, expiry, kind, None if kind == "FUT" or strike is None else Decimal(repr(float(strike))))

    @property
    def ending(self) -> str:
        """The end of its name where nothing separates the parts: `22600PE` or `FUT`."""
        return self.kind if self.strike is None else f"{number(self.strike)}{self.kind}"


def is_kind(text: str) -> TypeGuard[Kind]:
    """Say whether this is one of CE, PE and FUT."""
    return text in {"CE", "PE", "FUT"}


def number(strike: Decimal) -> str:
    """Write a strike as all notations do: `22600`, `292.5`."""
    return format(strike.normalize(), "f")


def day_of(day: str, month: str, year: str) -> date | None:
    """Return the date of `28`, `AUG`, `25`, or None if the calendar has no such day."""
    try:
        return date(_CENTURY + int(year), MONTHS.index(month) + 1, int(day))
    except ValueError:
        return None


def contract_of(underlying: str, expiry: date, kind: str, strike: str | None) -> Contract:
    """Return the contract of parts that a pattern has found."""
    if not is_kind(kind):
        raise AssertionError(kind)
    return Contract(underlying, expiry, kind, None if strike is None else Decimal(strike))


def _is_strike(strike: Decimal | None) -> bool:
    return strike is not None and strike.is_finite() and strike > 0
