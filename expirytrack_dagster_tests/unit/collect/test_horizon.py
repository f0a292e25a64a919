"""How far back the API's list reaches: seen, never assumed; a fixed floor loses nothing, a rolling one is foreseen."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from expirytrack_dagster.collect.horizon import (
    Leaving,
    is_withdrawn,
    last_listed,
    leaves_on,
    listings,
    reach,
    record_list,
    withdrawn,
)
from expirytrack_dagster.ist import IST
from expirytrack_dagster_tests.engines import Engine, TimedState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from expirytrack_dagster.state import StateDatabase

NOON = datetime(2025, 9, 1, 12, tzinfo=IST)


@pytest.fixture
def state(engine: Engine) -> Iterator[StateDatabase]:
    """Give an empty state database that goes by the time of the test."""
    with TimedState(engine) as database:
        yield database


def _weekly(first: date, number: int) -> list[date]:
    return [first + timedelta(weeks=week) for week in range(number)]


def test_a_list_is_remembered(state: StateDatabase) -> None:
    """New dates are added, known ones are seen again, missing ones are gone, and what comes back is listed again."""
    old, mid, new = date(2025, 8, 14), date(2025, 8, 21), date(2025, 8, 28)
    assert record_list(state, "NIFTY", [old, mid], NOON) == []
    assert record_list(state, "NIFTY", [mid, new], NOON + timedelta(days=1)) == [old]
    assert withdrawn(listings(state)) == {("NIFTY", old)}
    assert is_withdrawn(state, "NIFTY", old)
    assert not is_withdrawn(state, "NIFTY", mid)
    assert not is_withdrawn(state, "SENSEX", old)
    assert record_list(state, "NIFTY", [old, mid, new], NOON + timedelta(days=2)) == []
    assert withdrawn(listings(state)) == set()
    assert last_listed(state) == {"NIFTY": NOON + timedelta(days=2)}
    assert [listing.first for listing in listings(state)] == [date(2025, 9, 1), date(2025, 9, 1), date(2025, 9, 2)]


def test_an_empty_list_withdraws_everything(state: StateDatabase) -> None:
    """A list that has become empty leaves no date listed, and says nothing about a reach."""
    record_list(state, "NIFTY", [date(2025, 8, 14)], NOON)
    assert record_list(state, "NIFTY", [], NOON + timedelta(days=1)) == [date(2025, 8, 14)]
    assert reach(listings(state)) is None


def test_a_fixed_floor_loses_nothing(state: StateDatabase) -> None:
    """While no date leaves, nothing is about to leave, however old it is."""
    for day in range(0, 400, 20):
        record_list(state, "NIFTY", _weekly(date(2024, 10, 3), 40 + day // 7), NOON + timedelta(days=day))
    assert reach(listings(state)) is None
    assert leaves_on(date(2024, 10, 3), None) is None


def test_a_date_that_leaves_in_the_middle_is_no_floor(state: StateDatabase) -> None:
    """A withdrawn date with older ones still listed shows nothing about the reach."""
    dates = _weekly(date(2025, 6, 5), 10)
    record_list(state, "NIFTY", dates, NOON)
    record_list(state, "NIFTY", [*dates[:4], *dates[5:]], NOON + timedelta(days=1))
    assert reach(listings(state)) is None


def test_a_floor_that_moved_once_is_fixed_again(state: StateDatabase) -> None:
    """When a date grows as old as those that were removed together, and stays, nothing is foreseen any more."""
    dates = _weekly(date(2025, 6, 5), 10)
    record_list(state, "NIFTY", dates, NOON)
    record_list(state, "NIFTY", dates[3:], NOON + timedelta(days=1))
    assert reach(listings(state)) == NOON.date() - dates[2]
    record_list(state, "NIFTY", dates[3:], NOON + timedelta(days=8))
    assert reach(listings(state)) is None


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    window=st.integers(5, 40),
    gaps=st.lists(st.integers(1, 6), min_size=10, max_size=30),
    spacing=st.integers(1, 9),
)
def test_a_rolling_list_is_foreseen(engine: Engine, window: int, gaps: list[int], spacing: int) -> None:
    """Whatever the window: a date never leaves before the day foreseen, and not much later than it."""
    first = date(2025, 1, 1)
    every = [first + timedelta(days=spacing * number) for number in range(120)]
    day = first + timedelta(days=window + 1)
    with TimedState(engine) as state:
        for gap in gaps:
            listed = [d for d in every if d < day and (day - d).days <= window]
            record_list(state, "NIFTY", listed, datetime.combine(day, NOON.timetz()))
            found = reach(listings(state))
            if found is not None:
                assert found.days <= window
                # What left was listed at the look before, and what is listed grows older with each look.
                assert found.days >= window - max(gaps) - spacing
                for listing in listings(state):
                    leaves = leaves_on(listing.expiry, found)
                    assert leaves is not None
                    assert leaves <= listing.expiry + timedelta(days=window + 1)
            day += timedelta(days=gap)


def test_what_is_at_stake_is_one_sentence() -> None:
    """What is missing, by when, and the command; a cell that was never asked for misses everything."""
    never = Leaving("NIFTY", date(2025, 3, 6), date(2025, 9, 5), None)
    some = Leaving("SENSEX", date(2025, 3, 7), date(2025, 9, 6), 1)
    assert "all its contracts missing" in never.sentence
    assert "1 contract missing. Run: expirytrack collect SENSEX --expiry 2025-03-07" in some.sentence
