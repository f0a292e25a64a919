"""Upstox's trading symbol: `NIFTY 22600 PE 28 AUG 25`, `NIFTY FUT 28 AUG 25`.

Its parts stand apart, so it has one meaning. Source: every contract of the instruments master is written like this.
"""

from __future__ import annotations

import re

from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.symbology.contract import MONTHS, STRIKE, UNDERLYING, Contract, contract_of, day_of, number

_SYMBOL = re.compile(
    rf"(?P<underlying>{UNDERLYING.pattern}) (?:(?P<future>FUT)|(?P<strike>{STRIKE}) (?P<right>CE|PE))"
    rf" (?P<day>[0-9]{{2}}) (?P<month>{'|'.join(MONTHS)}) (?P<year>[0-9]{{2}})"
)


def format_symbol(contract: Contract) -> str:
    """Return the trading symbol, such as `NIFTY 22600 PE 28 AUG 25`."""
    day = contract.expiry
    what = contract.kind if contract.strike is None else f"{number(contract.strike)} {contract.kind}"
    return f"{contract.underlying} {what} {day.day:02} {MONTHS[day.month - 1]} {day.year % 100:02}"


def parse(text: str) -> Contract:
    """Read a trading symbol.

    Raises:
        ConfigurationError: it is written otherwise, or names no day of the calendar.
    """
    if match := _SYMBOL.fullmatch(text):
        expiry = day_of(match["day"], match["month"], match["year"])
        if expiry is not None:
            return contract_of(match["underlying"], expiry, match["future"] or match["right"], match["strike"])
    raise ConfigurationError(
        f"'{text[:60]}' is no trading symbol of Upstox, such as NIFTY 22600 PE 28 AUG 25 or NIFTY FUT 28 AUG 25."
    )
