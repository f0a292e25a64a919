"""What a request asks for, and whether its parameters have the right form.

Belongs here: parsing and the format errors of docs/upstox-api.md. Whether the key is known, the plan,
the token and the limits are checked in `server.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING
from urllib.parse import unquote

from expirytrack_dagster.sandbox.bars import WIDTHS
from expirytrack_dagster.sandbox.wire import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

SEGMENTS = "NSE_EQ|NSE_FO|NCD_FO|BSE_EQ|BSE_FO|BCD_FO|MCX_FO|NSE_INDEX|BSE_INDEX|MCX_INDEX|NSE_COM"
UNDERLYING_KEY = re.compile(
    rf"(?:{SEGMENTS}|GLOBAL_INDEX|GLOBAL_INDICATOR)\|[\w ^]+(?:,(?:{SEGMENTS}|GLOBAL_INDEX|GLOBAL_INDICATOR)\|[\w ^]+)*"
)
EXPIRED_KEY = re.compile(rf"(?:{SEGMENTS})\|[\w\-]+\|(?:0[1-9]|[12]\d|3[01])-(?:0[1-9]|1[012])-\d{{4}}")
ISO_DATE = re.compile(r"\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])")

KEY_REQUIRED = Refusal(400, "UDAPI1009", "instrument_key is required")
KEY_FORMAT = Refusal(400, "UDAPI1011", "instrument_key is of invalid format")
EXPIRY_FORMAT = Refusal(400, "UDAPI1088", "Invalid date")
EXPIRED_KEY_FORMAT = Refusal(400, "UDAPI1021", "Instrument key is of invalid format")
INTERVAL = Refusal(400, "UDAPI1020", f"Interval accepts one of ({','.join(WIDTHS)})")
TO_DATE_REQUIRED = Refusal(400, "UDAPI1022", "to_date is required")
DATES = Refusal(
    400, "UDAPI1015", "to_date must be greater than or equal to from_date, and dates in the format yyyy-mm-dd"
)


@dataclass(frozen=True, slots=True)
class Contracts:
    """A request for the expiries of an underlying, or for the contracts of one of them."""

    key: str
    expiry: date | None


@dataclass(frozen=True, slots=True)
class Candles:
    """A request for candles; both days are included."""

    key: str
    interval: str
    from_date: date
    to_date: date


def split_path(raw_path: bytes, prefix: str) -> list[str] | None:
    """Return the four decoded segments behind the candle route's prefix, or None if there are not four.

    The path is split before it is decoded, and a `|` in it may be raw (docs/upstox-api.md).
    """
    segments = raw_path.decode("latin-1").removeprefix(prefix).split("/")
    return (
        [unquote(segment) for segment in segments] if len(segments) == len(("key", "interval", "to", "from")) else None
    )


def contracts(query: Mapping[str, str], *, dated: bool) -> Contracts | Refusal:
    """Read the query of the expiries route, or with `dated` of a contracts route."""
    key = query.get("instrument_key", "")
    if not key:
        return KEY_REQUIRED
    if not UNDERLYING_KEY.fullmatch(key):
        return KEY_FORMAT
    expiry = _date(query.get("expiry_date", "")) if dated else None
    return EXPIRY_FORMAT if dated and expiry is None else Contracts(key, expiry)


def candles(segments: list[str]) -> Candles | Refusal:
    """Read the segments of the candle route: key, interval, to_date, from_date."""
    key, interval, to_text, from_text = segments
    if not EXPIRED_KEY.fullmatch(key):
        return EXPIRED_KEY_FORMAT
    if interval not in WIDTHS:
        return INTERVAL
    if not to_text:
        return TO_DATE_REQUIRED
    to_date, from_date = _date(to_text), _date(from_text)
    if to_date is None or from_date is None or to_date < from_date:
        return DATES
    return Candles(key, interval, from_date, to_date)


def _date(text: str) -> date | None:
    try:
        return date.fromisoformat(text) if ISO_DATE.fullmatch(text) else None
    except ValueError:  # such as the 30th of February
        return None
