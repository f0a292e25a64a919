"""The trading calendar."""

from datetime import date

import numpy as np
import pytest

from expirytrack_dagster.sandbox import sessions
from expirytrack_dagster.sandbox.bars import epoch


@pytest.mark.parametrize(
    ("day", "start", "bars"),
    [
        pytest.param(date(2026, 7, 31), 33_300, 375, id="last day of 375"),
        pytest.param(date(2026, 8, 3), 33_300, 385, id="first day of 385"),
        pytest.param(date(2025, 2, 1), 33_300, 375, id="budget Saturday"),
        pytest.param(date(2025, 10, 21), 65_700, 60, id="evening"),
    ],
)
def test_session(day: date, start: int, bars: int) -> None:
    """A session starts and ends when the exchange says."""
    assert sessions.session(day) == (day, epoch(day, start), bars)


@pytest.mark.parametrize("day", [date(2025, 8, 2), date(2025, 8, 3), date(2025, 8, 15)])
def test_closed(day: date) -> None:
    """Weekends and holidays have no session."""
    assert sessions.session(day) is None


def test_minutes_are_those_of_the_sessions() -> None:
    """The calendar's minutes ascend strictly and each session's positions point at its bars."""
    minutes, first = sessions.all_minutes(), sessions.first_bars()
    assert (np.diff(minutes) > 0).all()
    assert first[-1] == len(minutes)
    number = sessions.session_numbers()[date(2025, 10, 21)]
    evening = minutes[first[number] : first[number + 1]]
    assert len(evening) == 60
    assert evening[0] == epoch(date(2025, 10, 21), 65_700)


@pytest.mark.parametrize(
    ("nominal", "expiry"),
    [
        (date(2025, 4, 10), date(2025, 4, 9)),
        (date(2025, 10, 21), date(2025, 10, 20)),  # an evening session is no day to expire on
        (date(2025, 4, 17), date(2025, 4, 17)),
    ],
)
def test_expiry_moves_off_a_holiday(nominal: date, expiry: date) -> None:
    """An expiry on a day without a full session moves to the trading day before."""
    assert sessions.shifted(nominal) == expiry
