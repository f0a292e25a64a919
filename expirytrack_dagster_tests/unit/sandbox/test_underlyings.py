"""Contract rules of the synthetic underlyings."""

import json
from datetime import date
from pathlib import Path

import pytest

from expirytrack_dagster.sandbox.underlyings import UNDERLYINGS, expiries

REALDATA = Path("../shared/realdata/upstox_recorded")
NIFTY, BANKNIFTY, SENSEX, RELIANCE = UNDERLYINGS


@pytest.mark.skipif(not REALDATA.is_dir(), reason="the recorded answers are not on this machine")
def test_nifty_expiries_are_the_recorded_ones() -> None:
    """The rules give the very 51 expiries that Upstox listed in September 2025, holidays and new weekday included."""
    recorded = json.loads((REALDATA / "expired_expiries__NSE_INDEX_Nifty50.json").read_bytes())["data"]
    assert [day.isoformat() for day in expiries(NIFTY) if day <= date(2025, 9, 16)] == recorded


def test_weekly_and_monthly() -> None:
    """The last expiry of a month is monthly, the others weekly."""
    august = {day: weekly for day, weekly in expiries(NIFTY).items() if (day.year, day.month) == (2025, 8)}
    assert august == {
        date(2025, 8, 7): True,
        date(2025, 8, 14): True,
        date(2025, 8, 21): True,
        date(2025, 8, 28): False,
    }


def test_banknifty_is_monthly_after_november_2024() -> None:
    """Weekly BANKNIFTY ended in November 2024."""
    assert max(day for day, weekly in expiries(BANKNIFTY).items() if weekly) == date(2024, 11, 13)
    assert date(2024, 10, 30) in expiries(BANKNIFTY)


def test_a_stock_is_monthly() -> None:
    """RELIANCE has 12 expiries a year, none weekly."""
    assert not any(expiries(RELIANCE).values())
    assert len([day for day in expiries(RELIANCE) if day.year == 2025]) == 12


def test_sensex_weekdays() -> None:
    """SENSEX moved from Friday to Tuesday and then to Thursday."""
    assert [
        day.weekday() for day in (date(2024, 10, 4), date(2025, 1, 7), date(2025, 9, 4)) if day in expiries(SENSEX)
    ] == [
        4,
        1,
        3,
    ]


def test_lot_changes() -> None:
    """NIFTY had lots of 25, 75 and 65."""
    assert [NIFTY.lot(date(year, 12, 1)) for year in (2024, 2025, 2026)] == [25, 75, 65]
