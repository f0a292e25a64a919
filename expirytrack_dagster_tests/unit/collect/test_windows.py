"""Windows: their ends, when to look further back, and what a refusal teaches."""

from __future__ import annotations

import tempfile
import time
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expirytrack_dagster.collect.windows import REACH, Window, Windows
from expirytrack_dagster.state import StateDatabase
from expirytrack_dagster_tests.statements import sql

if TYPE_CHECKING:
    from collections.abc import Iterator

    from expirytrack_dagster_tests.engines import Engine

EXPIRY = date(2025, 8, 28)
DAY = timedelta(days=1)


@pytest.fixture
def state(engine: Engine) -> Iterator[StateDatabase]:
    """Give an empty state database on either engine."""
    with StateDatabase(engine.fresh()) as database:
        yield database


def test_a_window_has_both_ends(state: StateDatabase) -> None:
    """A window of n days names n days, the last one included; one of a single day begins where it ends."""
    assert Windows(state, 30).ending(EXPIRY) == Window(EXPIRY - 29 * DAY, EXPIRY)
    assert Windows(state, 1).ending(EXPIRY) == Window(EXPIRY, EXPIRY)


def test_an_answer_near_the_start_may_go_on(state: StateDatabase) -> None:
    """Within ten days of the start there may be older bars behind a holiday; further off there are none."""
    window = Windows(state, 100).ending(EXPIRY)
    assert window.reached_by(window.first)
    assert window.reached_by(window.first + REACH)
    assert not window.reached_by(window.first + REACH + DAY)


def test_a_refusal_halves_the_width_for_good(state: StateDatabase) -> None:
    """Each refusal halves the width; another handle starts there, an interval of another name does not."""
    windows = Windows(state, 1830)
    widths = []
    for _ in range(6):
        assert windows.refused(windows.ending(EXPIRY))
        widths.append(windows.days)
    assert widths == [915, 457, 228, 114, 57, 28]
    with StateDatabase(state.address) as other:
        assert Windows(other, 1830).days == 28
        assert Windows(other, 10).days == 10
        assert Windows(other, 1830, "day").days == 1830
        assert other.query(sql("SELECT learned_at FROM learned"))[0][0] == pytest.approx(time.time(), abs=60)


def test_refusals_at_once_narrow_once(state: StateDatabase) -> None:
    """Ten requests of the same width that are refused together halve it once, not ten times."""
    windows = Windows(state, 1830)
    asked = [windows.ending(EXPIRY - number * DAY) for number in range(10)]
    assert all(windows.refused(window) for window in asked)
    assert windows.days == 915


def test_one_day_cannot_be_narrowed(state: StateDatabase) -> None:
    """A refused window of one day is the end: the refusal is about something else."""
    windows = Windows(state, 2)
    assert windows.refused(windows.ending(EXPIRY))
    assert windows.days == 1
    assert not windows.refused(windows.ending(EXPIRY))
    assert windows.days == 1


def test_a_shortened_answer_narrows_to_the_days_that_came(state: StateDatabase) -> None:
    """Of many answers shortened at once the first counts; a narrow window or an empty answer teaches nothing."""
    windows = Windows(state, 1830)
    wide = windows.ending(EXPIRY)
    windows.shortened(wide, 0)
    windows.shortened(wide, 1830)
    assert windows.days == 1830
    windows.shortened(wide, 22)
    windows.shortened(wide, 20)
    assert windows.days == Windows(state, 1830).days == 22
    windows.shortened(windows.ending(EXPIRY), 15)
    assert windows.days == 15


def test_the_chain_may_be_older_than_the_reach_of_a_contract(state: StateDatabase) -> None:
    """Older windows are asked while a contract's bars reach the start, and while the chain is older than the window."""
    windows = Windows(state, 30)
    window = windows.ending(EXPIRY)
    assert not windows.may_hold_more(window, EXPIRY)
    assert windows.may_hold_more(window, window.first + REACH)
    windows.seen(window.first)
    assert not windows.may_hold_more(window, EXPIRY)
    windows.seen(window.first - DAY)
    windows.seen(EXPIRY)
    assert windows.may_hold_more(window, EXPIRY)
    assert not windows.may_hold_more(windows.ending(window.before()), EXPIRY)


@settings(max_examples=40, deadline=None)
@given(widest=st.integers(1, 2000), refused=st.sets(st.integers(0, 30), max_size=8))
def test_windows_never_overlap_nor_leave_gaps(widest: int, refused: set[int]) -> None:
    """Going back through a year, whichever windows are refused on the way, every day is asked exactly once."""
    with tempfile.TemporaryDirectory() as folder, StateDatabase(Path(folder) / "state.sqlite") as state:
        windows = Windows(state, widest)
        last, asked, number = EXPIRY, [], 0
        while last > EXPIRY - 365 * DAY and number < 400:
            window = windows.ending(last)
            if number in refused and windows.refused(window):
                number += 1
                continue
            asked += [window.first + step * DAY for step in range((window.last - window.first).days + 1)][::-1]
            last = window.before()
            number += 1
    assert asked == [EXPIRY - step * DAY for step in range(len(asked))]
