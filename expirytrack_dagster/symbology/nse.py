"""The exchange's symbol: `NIFTY25AUG22600PE` for a monthly expiry, `NIFTY2590222600PE` for a weekly one.

A monthly symbol has the month's name and no day; a weekly one has one character for the month (1 to 9, O, N, D) and two
digits for the day. BSE's contracts are written alike. So a symbol says neither where the name of an underlying ends
nor, when monthly, which day it means: it is read only against the expiries that are listed, and refused where two of
them fit. Source: NSE's scheme of 2016 for weekly options, as brokers and data vendors document it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.symbology.contract import MONTHS, STRIKE, Contract, contract_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import date

_MONTHS_OF_WEEKS = "123456789OND"
_ENDING = re.compile(rf"(?P<future>FUT)|(?P<strike>{STRIKE})(?P<right>CE|PE)")


@dataclass(frozen=True, slots=True)
class Expiry:
    """An expiry that is listed for an underlying; `weekly` is the API's word, never a weekday's."""

    underlying: str
    day: date
    weekly: bool


def format_symbol(contract: Contract, *, weekly: bool) -> str:
    """Return the symbol, such as `NIFTY2590222600PE`.

    Args:
        contract: What to name.
        weekly: Whether its expiry is weekly, as the API says.
    """
    return _beginning(Expiry(contract.underlying, contract.expiry, weekly)) + contract.ending


class Reader:
    """Reads symbols against listed expiries."""

    def __init__(self, listed: Iterable[Expiry]) -> None:
        """Take the expiries that a symbol may mean; those of all underlyings, since one may begin like another."""
        self._beginnings: dict[str, set[Expiry]] = {}
        for expiry in listed:
            self._beginnings.setdefault(_beginning(expiry), set()).add(expiry)

    def parse(self, text: str) -> Contract:
        """Read a symbol.

        Raises:
            ConfigurationError: no listed expiry fits it, or more than one does.
        """
        found = set()
        for end in range(1, len(text)):
            if ending := _ENDING.fullmatch(text, end):
                kind, strike = ending["future"] or ending["right"], ending["strike"]
                for expiry in self._beginnings.get(text[:end], ()):
                    found.add(contract_of(expiry.underlying, expiry.day, kind, strike))
        if len(found) == 1:
            return found.pop()
        if not found:
            raise ConfigurationError(f"'{text[:60]}' is no symbol of a listed expiry, such as NIFTY25AUG22600PE.")
        meanings = " or ".join(
            sorted(f"{contract.underlying} {contract.expiry} {contract.ending}" for contract in found)
        )
        raise ConfigurationError(f"'{text[:60]}' may mean {meanings}: give the instrument key instead.")


def _beginning(expiry: Expiry) -> str:
    day = expiry.day
    if expiry.weekly:
        return f"{expiry.underlying}{day.year % 100:02}{_MONTHS_OF_WEEKS[day.month - 1]}{day.day:02}"
    return f"{expiry.underlying}{day.year % 100:02}{MONTHS[day.month - 1]}"
