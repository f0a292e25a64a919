"""Which cells are due, in which order, when a cell is tried again, and how many are started."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expirytrack_dagster.collect.due import (
    FIRST_PAUSE,
    LONGEST_PAUSE,
    Attempt,
    Cell,
    about_to_leave,
    affordable,
    ordered,
    ready_at,
    survey,
)
from expirytrack_dagster.collect.horizon import Listing

TODAY = date(2025, 9, 1)
WARNING = timedelta(days=14)


def cell(symbol: str = "NIFTY", expiry: date = date(2025, 8, 28), **known: Any) -> Cell:
    """Return a cell that was never asked for, unless something else is known of it."""
    given: dict[str, Any] = {
        "contracts": 0,
        "final": 0,
        "stuck": 0,
        "sealed": False,
        "listed": True,
        "leaves": None,
        **known,
    }
    return Cell(symbol, expiry, **given)


@pytest.mark.parametrize(
    ("known", "due", "waits"),
    [
        pytest.param({}, True, False, id="never asked"),
        pytest.param({"contracts": 5}, True, False, id="list known, no candles"),
        pytest.param({"contracts": 5, "final": 3, "stuck": 1}, True, False, id="one without an answer"),
        pytest.param({"contracts": 5, "final": 4, "stuck": 1}, False, True, id="one not given in full"),
        pytest.param({"contracts": 5, "final": 5}, True, False, id="finished, not sealed yet"),
        pytest.param({"contracts": 5, "final": 5, "sealed": True}, False, False, id="sealed"),
        pytest.param({"sealed": True}, False, False, id="sealed, nothing listed in it"),
        pytest.param({"contracts": 5, "listed": False}, False, False, id="withdrawn"),
        pytest.param({"contracts": 5, "final": 4, "stuck": 1, "listed": False}, False, False, id="withdrawn, stuck"),
    ],
)
def test_what_is_due(known: dict[str, Any], due: bool, waits: bool) -> None:  # noqa: FBT001 -- a table of facts
    """A cell is due, waits for the API, or neither."""
    assert cell(**known).is_due is due
    assert cell(**known).waits_for_the_api is waits


DAYS = st.dates(date(2025, 1, 1), date(2025, 8, 31))
CELLS = st.lists(
    st.builds(
        cell,
        symbol=st.sampled_from(["BANKNIFTY", "NIFTY", "SENSEX"]),
        expiry=DAYS,
        leaves=st.none() | st.dates(date(2025, 8, 25), date(2025, 10, 30)),
    ),
    max_size=30,
    unique_by=lambda one: one.key,
)


@given(CELLS)
def test_the_order_of_the_work(cells: list[Cell]) -> None:
    """What leaves soon by its day, then the newest; nothing is lost, and the order does not depend on the input's."""
    order = ordered(cells, TODAY, WARNING)
    assert sorted(map(repr, order)) == sorted(map(repr, cells))
    assert ordered(list(reversed(order)), TODAY, WARNING) == order
    urgent = [one for one in order if one.is_leaving(TODAY, WARNING)]
    assert order[: len(urgent)] == urgent
    assert [one.leaves for one in urgent] == sorted(one.leaves for one in urgent if one.leaves)
    rest = [one.expiry for one in order[len(urgent) :]]
    assert rest == sorted(rest, reverse=True)


@given(CELLS)
def test_what_is_about_to_leave(cells: list[Cell]) -> None:
    """Exactly the open cells that may leave within the warning, the most urgent first."""
    found = about_to_leave(cells, TODAY, WARNING)
    assert len(found) == sum(one.is_open and one.is_leaving(TODAY, WARNING) for one in cells)
    assert [one.on for one in found] == sorted(one.on for one in found)


def test_missing_contracts_are_counted_where_they_are_known() -> None:
    """A cell whose list was never asked for misses nobody knows how many."""
    known: dict[str, Any] = {"leaves": TODAY, "contracts": 9, "final": 7}
    assert [one.missing for one in about_to_leave([cell(**known), cell(leaves=TODAY)], TODAY, WARNING)] == [2, None]


@given(st.lists(st.floats(0, 1e9), max_size=14), st.booleans())
def test_a_cell_rests_after_tries_in_vain(ends: list[float], working: bool) -> None:  # noqa: FBT001 -- drawn
    """The pause doubles up to its bound and counts from the last try; a cell at work is not tried at all."""
    attempts = [Attempt(str(number), ended) for number, ended in enumerate(ends)]
    if working:
        assert ready_at([*attempts, Attempt("now", None)]) is None
        return
    at = ready_at(attempts)
    assert at is not None
    if not ends:
        assert at == 0
        return
    pause = at - max(ends)
    assert pause == pytest.approx(min(FIRST_PAUSE * 2 ** (len(ends) - 1), LONGEST_PAUSE).total_seconds(), abs=1e-3)


@given(st.lists(st.integers(0, 900), max_size=10), st.integers(-100, 2000), st.integers(-2, 6))
def test_no_more_is_started_than_fits(costs: list[int], free: int, places: int) -> None:
    """Never more than places or budget allow, but for a first cell that is larger than a window."""
    started = affordable(costs, free, places)
    assert 0 <= started <= max(places, 0)
    if free <= 0:
        assert started == 0
    elif costs and places > 0:
        assert started >= 1
        assert started == 1 or sum(costs[:started]) <= free


def test_the_archive_and_the_lists_are_joined() -> None:
    """Counts come from the archive, what is listed and what leaves from the lists; what no list named is listed."""
    frame = pd.DataFrame(
        {
            "underlying": ["NIFTY"] * 3,
            "expiry": pd.to_datetime(["2025-08-14", "2025-08-21", "2025-08-28"]),
            "contracts": [4, 4, 0],
            "complete": [2, 1, 0],
            "empty_proven": [1, 1, 0],
            "partial": [1, 0, 0],
            "refused": [0, 1, 0],
            "sealed": [False, False, False],
        }
    )
    gone = date(2025, 8, 30)
    known = [
        Listing("NIFTY", date(2025, 8, 14), date(2025, 8, 15), gone - timedelta(days=1), gone),
        Listing("NIFTY", date(2025, 8, 21), date(2025, 8, 22), gone, None),
    ]
    old, middle, new = survey(frame, known)
    assert (old.listed, middle.listed, new.listed) == (False, True, True)
    assert (old.final, old.stuck, old.contracts) == (3, 1, 4)
    assert middle.is_due
    assert new.leaves == new.expiry + timedelta(days=16)
