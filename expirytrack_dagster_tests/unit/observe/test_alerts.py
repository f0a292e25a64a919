"""Alerts: raised once, over once, whatever the values do in between; kept, shared, and forgotten when long over."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from expirytrack_dagster.observe.alerts import (
    KEPT,
    Alert,
    Measured,
    Name,
    Reading,
    judge,
    recent,
    record,
    standing,
)
from expirytrack_dagster_tests.engines import Engine, TimedState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from expirytrack_dagster.state import StateDatabase

NOON = datetime(2025, 9, 1, 6, 30, tzinfo=UTC)


@pytest.fixture
def state(engine: Engine) -> Iterator[StateDatabase]:
    """Give an empty state database that goes by the time of the test."""
    with TimedState(engine) as database:
        yield database


def high(value: float, subject: str = "requests") -> Reading:
    """Return a value that is bad above 10 and good again from 8 on."""
    return Reading(subject, value, 10.0, 8.0, "at most", f"It is {value:g}.", "Do something.")


def low(value: float, subject: str = "disk") -> Reading:
    """Return a value that is bad below 5 and good again from 6 on."""
    return Reading(subject, value, 5.0, 6.0, "at least", f"It is {value:g}.", "Do something.")


def failures(*readings: Reading) -> Measured:
    """Return the readings of one rule."""
    return {"failure_rate": readings}


@pytest.mark.parametrize(
    ("reading", "bad", "good"),
    [
        (high(10.1), True, False),
        (high(10), False, False),
        (high(8), False, True),
        (low(4.9), True, False),
        (low(5), False, False),
        (low(6), False, True),
    ],
)
def test_each_side_has_two_levels(reading: Reading, bad: bool, good: bool) -> None:  # noqa: FBT001 -- a table
    """At the threshold nothing is wrong yet, and between the levels nothing changes."""
    assert (reading.is_bad, reading.is_good) == (bad, good)


def test_an_alert_says_what_it_was(state: StateDatabase) -> None:
    """What raised it stays, what ended it is added, and the times are those of the two readings."""
    raised = record(state, failures(high(12)), NOON).raised
    assert raised == (Alert("failure_rate", "requests", 12, 10, "It is 12.", "Do something.", NOON),)
    assert record(state, failures(high(15)), NOON + timedelta(minutes=1)).raised == ()
    assert standing(state) == list(raised)
    over = record(state, failures(high(3)), NOON + timedelta(minutes=2)).recovered
    assert over == (replace(raised[0], recovered_at=NOON + timedelta(minutes=2), ending="It is 3."),)
    assert standing(state) == []
    assert recent(state, 5) == list(over)


def test_what_was_not_looked_at_stands(state: StateDatabase) -> None:
    """A rule without readings changes nothing; a subject that is gone from its rule's readings ends its alert."""
    record(state, failures(high(12, "a"), high(12, "b")), NOON)
    assert record(state, {}, NOON).recovered == ()
    assert record(state, {"disk_free": ()}, NOON).recovered == ()
    (over,) = record(state, failures(high(12, "b")), NOON).recovered
    assert (over.subject, over.ending) == ("a", "a is no longer judged.")


def test_the_newest_come_first_and_old_ones_go(state: StateDatabase) -> None:
    """`recent` counts from the newest; what has been over for a long time is forgotten, what stands is not."""
    for day in range(3):
        record(state, failures(high(12, f"day {day}")), NOON + timedelta(days=day))
    assert [alert.subject for alert in recent(state, 2)] == ["day 2", "day 1"]
    later = NOON + timedelta(days=3) + KEPT
    record(state, {"disk_free": [low(1)]}, later)
    assert [alert.subject for alert in recent(state, 9)] == ["disk", "day 2"]


STEPS = st.one_of(st.none(), st.floats(0, 20, allow_nan=False))


@settings(max_examples=200, deadline=None)
@given(values=st.lists(STEPS, max_size=60), reading=st.sampled_from([high, low]))
def test_once_each_whatever_the_values_do(values: list[float | None], reading: Callable[[float], Reading]) -> None:
    """Raised and over take turns; the first is on a bad value, the second on a good one, and no bad value is missed."""
    name: Name = "failure_rate"
    known: list[Alert] = []
    told: list[tuple[str, Reading]] = []
    for minute, value in enumerate(values):
        measured: Measured = {} if value is None else {name: [reading(value)]}
        judgement = judge(known, measured, NOON + timedelta(minutes=minute))
        again = judge([*judgement.raised, *(a for a in known if not judgement.recovered)], measured, NOON)
        assert again.raised == again.recovered == ()
        told += [("raised", reading(value or 0)) for _ in judgement.raised]
        told += [("recovered", reading(value or 0)) for _ in judgement.recovered]
        known = [*judgement.raised, *(alert for alert in known if not judgement.recovered)]
        if value is not None:
            assert known or not reading(value).is_bad
            assert not (known and reading(value).is_good)
    events = [event for event, _ in told]
    assert events[:1] in ([], ["raised"])
    assert all(first != second for first, second in pairwise(events))
    assert all(one.is_bad if event == "raised" else one.is_good for event, one in told)


@settings(max_examples=100, deadline=None)
@given(values=st.lists(st.floats(8.01, 12), max_size=60))
def test_a_flutter_is_told_once(values: list[float]) -> None:
    """However often a value crosses its threshold, while it is not good again there is one alert."""
    known: list[Alert] = []
    for value in values:
        judgement = judge(known, failures(high(value)), NOON)
        assert judgement.recovered == ()
        known += judgement.raised
    assert len(known) == (max(values, default=0) > 10)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(st.dictionaries(st.sampled_from("abc"), st.floats(0, 20), max_size=3), max_size=12))
def test_the_database_judges_as_the_function_does(engine: Engine, values: list[dict[str, float]]) -> None:
    """Kept in the database, the same readings raise and end the same alerts, and each is in it once."""
    with TimedState(engine) as state:
        known: list[Alert] = []
        raised = 0
        for minute, step in enumerate(values):
            now = NOON + timedelta(minutes=minute)
            measured = failures(*(high(value, subject) for subject, value in step.items()))
            expected = judge(known, measured, now)
            assert record(state, measured, now) == expected
            over = {alert.subject for alert in expected.recovered}
            known = [*(alert for alert in known if alert.subject not in over), *expected.raised]
            raised += len(expected.raised)
            assert standing(state) == known
        assert len(recent(state, 1000)) == raised
