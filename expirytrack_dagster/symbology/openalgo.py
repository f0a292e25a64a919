"""OpenAlgo's symbol: `NIFTY28AUG2522600PE`, `NIFTY28AUG25FUT`, `VEDL24APR25292.5CE`.

Nothing separates the parts, yet it has one meaning: the name of the month stands between two digits of the day and two
of the year, and after the last such place there are only the digits of a strike. Whatever comes before belongs to the
underlying, even digits (`NIFTYNXT50`) or the name of a month. Source: OpenAlgo's page on its symbol format.
"""

from __future__ import annotations

import re

from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.symbology.contract import MONTHS, STRIKE, UNDERLYING, Contract, contract_of, day_of

_SYMBOL = re.compile(
    rf"(?P<underlying>{UNDERLYING.pattern})(?P<day>[0-9]{{2}})(?P<month>{'|'.join(MONTHS)})(?P<year>[0-9]{{2}})"
    rf"(?:(?P<future>FUT)|(?P<strike>{STRIKE})(?P<right>CE|PE))"
)


def format_symbol(contract: Contract) -> str:
    """Return the symbol, such as `NIFTY28AUG2522600PE`."""
    day = contract.expiry
    return f"{contract.underlying}{day.day:02}{MONTHS[day.month - 1]}{day.year % 100:02}{contract.ending}"


def parse(text: str) -> Contract:
    """Read a symbol.

    Raises:
        ConfigurationError: it is written otherwise, or names no day of the calendar.
    """
    if match := _SYMBOL.fullmatch(text):
        expiry = day_of(match["day"], match["month"], match["year"])
        if expiry is not None:
            return contract_of(match["underlying"], expiry, match["future"] or match["right"], match["strike"])
    raise ConfigurationError(f"'{text[:60]}' is no symbol of OpenAlgo, such as NIFTY28AUG2522600PE or NIFTY28AUG25FUT.")
