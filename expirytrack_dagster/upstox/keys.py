"""Instrument keys: their patterns, and the parts of an expired contract's key.

Text only. Which symbol has which key belongs to `instruments.py`. Source: the parameter patterns of Upstox's OpenAPI
document (segments, `SEGMENT|token|DD-MM-YYYY` for an expired contract, `SEGMENT|name` for an underlying).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime
from typing import Self

from expirytrack_dagster.errors import ConfigurationError

_SEGMENTS = (
    "NSE_EQ|NSE_FO|NCD_FO|BSE_EQ|BSE_FO|BCD_FO|MCX_FO|NSE_INDEX|BSE_INDEX|MCX_INDEX|NSE_COM"
    "|GLOBAL_INDEX|GLOBAL_INDICATOR"
)
UNDERLYING_KEY = re.compile(rf"(?:{_SEGMENTS})\|[\w ^]+", re.ASCII)
EXPIRED_KEY = re.compile(
    r"(?P<segment>NSE_EQ|NSE_FO|NCD_FO|BSE_EQ|BSE_FO|BCD_FO|MCX_FO|NSE_INDEX|BSE_INDEX|MCX_INDEX|NSE_COM)"
    r"\|(?P<token>[\w-]+)\|(?P<expiry>(?:0[1-9]|[12]\d|3[01])-(?:0[1-9]|1[012])-\d{4})",
    re.ASCII,
)


def check_underlying_key(key: str, parameter: str = "instrument_key") -> str:
    """Return the key of an underlying unchanged.

    Raises:
        ConfigurationError: it is not of the documented form; the sentence names the parameter.
    """
    if not UNDERLYING_KEY.fullmatch(key):
        raise ConfigurationError(f"{parameter} {key!r} is not of the form SEGMENT|name, such as NSE_INDEX|Nifty 50.")
    return key


@dataclass(frozen=True, slots=True, order=True)
class ExpiredKey:
    """The identity of an expired contract. Exchange tokens are reused, so the expiry is part of it."""

    segment: str
    token: str
    expiry: date

    @classmethod
    def parse(cls, text: str, parameter: str = "expired_key") -> Self:
        """Read `NSE_FO|64103|28-08-2025`.

        Raises:
            ConfigurationError: it is not of that form or names no day of the calendar.
        """
        if match := EXPIRED_KEY.fullmatch(text):
            try:
                expiry = datetime.strptime(match["expiry"], "%d-%m-%Y").date()  # noqa: DTZ007  a date has no time zone
            except ValueError:
                pass  # 31-02-2025: falls through to the same sentence
            else:
                return cls(match["segment"], match["token"], expiry)
        raise ConfigurationError(
            f"{parameter} {text!r} is not of the form SEGMENT|token|DD-MM-YYYY, such as NSE_FO|64103|28-08-2025."
        )

    def __str__(self) -> str:
        """Return the form that the API takes and sends."""
        return f"{self.segment}|{self.token}|{self.expiry.day:02}-{self.expiry.month:02}-{self.expiry.year:04}"
