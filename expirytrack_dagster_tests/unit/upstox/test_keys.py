"""Instrument keys: what is accepted, and that reading and writing undo each other."""

from __future__ import annotations

import string
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.upstox.keys import ExpiredKey, check_underlying_key

TOKEN = st.text(string.ascii_letters + string.digits + "-_", min_size=1, max_size=12)


@given(st.sampled_from(["NSE_FO", "BSE_FO", "MCX_FO"]), TOKEN, st.dates(min_value=date(1000, 1, 1)))
def test_expired_keys_round_trip(segment: str, token: str, expiry: date) -> None:
    """Any key that is written can be read back."""
    key = ExpiredKey(segment, token, expiry)
    assert ExpiredKey.parse(str(key)) == key


def test_recorded_key_is_read() -> None:
    """The day of the expiry comes first inside a key."""
    assert ExpiredKey.parse("NSE_FO|64103|28-08-2025") == ExpiredKey("NSE_FO", "64103", date(2025, 8, 28))


@pytest.mark.parametrize(
    "text",
    ["", "NSE_FO|64103", "NSE_FO|64103|2025-08-28", "NSE_FO|NIFTY22D0117800CE", "NSE_FO|1|31-02-2025",
     "XXX|1|01-01-2025",
     "NSE_FO|1|28-08-2025\n", "NSE_FO|1|28-08-2025 ", "NSE_FO||28-08-2025", "NSE_FO|१|28-08-2025"],
)  # fmt: skip
def test_other_spellings_are_refused(text: str) -> None:
    """The sentence names the parameter."""
    with pytest.raises(ConfigurationError, match="expired_key"):
        ExpiredKey.parse(text)


@pytest.mark.parametrize("key", ["NSE_INDEX|Nifty 50", "NSE_INDEX|NIFTY MID SELECT", "NSE_EQ|INE002A01018"])
def test_underlying_keys_are_accepted(key: str) -> None:
    """Names with spaces and ISINs are keys of underlyings."""
    assert check_underlying_key(key) == key


@pytest.mark.parametrize("key", ["NIFTY", "NSE_INDEX", "NSE_INDEX|", "NSE_INDEX|a/b", "NSE_EQ|A,NSE_EQ|B", "X|Nifty"])
def test_other_underlying_keys_are_refused(key: str) -> None:
    """The sentence names the parameter."""
    with pytest.raises(ConfigurationError, match="instrument_key"):
        check_underlying_key(key)
