"""Deliveries: each channel gets each alert once, a failed one is tried again, and none is sent twice."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from expirytrack_dagster.errors import NotSent
from expirytrack_dagster.observe.alerts import Alert, Name, Reading, record
from expirytrack_dagster.observe.deliveries import LOAN, channel_states, deliver, hasten, message
from expirytrack_dagster_tests.engines import Engine, TimedState
from expirytrack_dagster_tests.statements import sql

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from expirytrack_dagster.observe.notifiers import Message
    from expirytrack_dagster.state import StateDatabase

NOON = datetime(2025, 9, 1, 6, 30, tzinfo=UTC)
DISKS = [f"disk{number:02}" for number in range(12)]


@dataclass
class Channel:
    """A channel that takes messages, unless it is broken; `meanwhile` runs while it sends."""

    channel: str = "bell"
    broken: Exception | None = None
    taken: list[Message] = field(default_factory=list)
    tries: int = 0
    meanwhile: Callable[[], object] = lambda: None

    def send(self, message: Message) -> None:
        """Take it, or fail."""
        self.tries += 1
        self.meanwhile()
        if self.broken:
            raise self.broken
        self.taken.append(message)


@pytest.fixture
def state(engine: Engine) -> Iterator[StateDatabase]:
    """Give an empty state database that goes by the time of the test."""
    with TimedState(engine) as database:
        yield database


def measured(state: StateDatabase, now: datetime, **values: float) -> None:
    """Measure the room of some disks: bad below 5, good from 6 on."""
    judged(state, now, "disk_free", values)


def judged(state: StateDatabase, now: datetime, name: Name, values: dict[str, float]) -> None:
    """Measure the subjects of a rule."""
    readings = [
        Reading(disk, value, 5, 6, "at least", f"{disk} has {value:g} GB.", "Make room.")
        for disk, value in values.items()
    ]
    record(state, {name: readings}, now)


def later(minutes: float) -> datetime:
    """Return a moment after noon."""
    return NOON + timedelta(minutes=minutes)


def test_what_is_told(state: StateDatabase) -> None:
    """What, since when, the value and the threshold, and what to do; then that it is over, from when to when."""
    bell = Channel()
    measured(state, NOON, a=3)
    assert deliver(state, [bell], later(1)) == {}
    measured(state, later(60), a=9)
    deliver(state, [bell], later(61))
    raised, over = bell.taken
    assert (raised.title, raised.urgent) == ("ExpiryTrack: a has 3 GB.", True)
    assert raised.text == (
        "ALERT: a has 3 GB.\n"
        "Since 12:00 IST on 01 September 2025: 3 GB free, wanted at least 5.\n"
        "What to do: Make room."
    )
    assert (over.title, over.urgent) == ("ExpiryTrack: over: a has 3 GB.", False)
    assert over.text == (
        "OVER: a has 9 GB.\nIt was: a has 3 GB.\nFrom 12:00 IST on 01 September 2025 to 13:00 IST on 01 September 2025."
    )


def test_many_are_one_message(state: StateDatabase) -> None:
    """Whatever is due goes at once, the oldest first; more than ten are counted."""
    bell = Channel()
    measured(state, NOON, **dict.fromkeys(DISKS, 1.0))
    deliver(state, [bell], NOON)
    (told,) = bell.taken
    assert told.title == "ExpiryTrack: 12 new"
    assert told.text.count("ALERT: ") == 10
    assert told.text.endswith("... and 2 more: run 'expirytrack alerts'.")
    measured(state, later(1), **(dict.fromkeys(DISKS, 9.0) | {"new": 1.0, DISKS[-1]: 1.0}))
    deliver(state, [bell], later(1))
    assert bell.taken[1].title == "ExpiryTrack: 1 new, 11 over"


def test_a_failed_delivery_is_tried_again_ever_more_seldom(state: StateDatabase) -> None:
    """After one, two, four minutes, at most an hour; the other channel is told once; then it gets through, once."""
    broken, bell = Channel("broken", NotSent("It is away.")), Channel()
    measured(state, NOON, a=3)
    tried = []
    for minute in range(400):
        before = broken.tries
        failed = deliver(state, [broken, bell], later(minute))
        if broken.tries > before:
            tried.append(minute)
            assert failed == {"broken": "It is away."}
    assert tried == [0, 1, 3, 7, 15, 31, 63, 123, 183, 243, 303, 363]
    assert len(bell.taken) == 1
    states = channel_states(state)
    assert (states["broken"].failures, states["broken"].waiting, states["broken"].error) == (12, 1, "It is away.")
    assert (states["bell"].failures, states["bell"].waiting, states["bell"].error) == (0, 0, None)
    broken.broken = None
    hasten(state, "broken", later(400))
    for minute in range(400, 500):
        deliver(state, [broken, bell], later(minute))
    assert len(broken.taken) == len(bell.taken) == 1
    assert channel_states(state)["broken"].failures == 0


def test_a_defect_of_a_channel_keeps_no_other_from_being_told(state: StateDatabase) -> None:
    """Whatever it raises is noted, and only its kind, because the text may hold anything."""
    broken, bell = Channel("broken", RuntimeError("a secret")), Channel()
    measured(state, NOON, a=3)
    assert deliver(state, [broken, bell], NOON) == {"broken": "The channel failed: RuntimeError."}
    assert len(bell.taken) == 1


def test_two_processes_do_not_send_the_same(state: StateDatabase) -> None:
    """While one sends, the other finds nothing due; if the first dies there, it is sent after the loan."""
    other = Channel()
    bell = Channel(meanwhile=lambda: deliver(state, [other], later(1)))
    measured(state, NOON, a=3)
    deliver(state, [bell], NOON)
    assert (len(bell.taken), len(other.taken)) == (1, 0)

    measured(state, later(2), a=3, b=3)
    dying = Channel(broken=KeyboardInterrupt())  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        deliver(state, [dying], later(2))
    deliver(state, [other], later(3))
    assert other.taken == []
    deliver(state, [other], later(2) + LOAN)
    assert [one.title for one in other.taken] == ["ExpiryTrack: b has 3 GB."]


def test_a_new_channel_is_told_what_stands(state: StateDatabase) -> None:
    """And nothing of what was over before it was there; and nobody is told that he himself cannot be told."""
    measured(state, NOON, a=3, b=3)
    measured(state, later(1), a=3, b=9)
    judged(state, later(1), "delivery", {"new": 1})
    deliver(state, [new := Channel("new"), bell := Channel()], later(2))
    assert "ALERT: a has 3 GB." in new.taken[0].text
    assert new.taken[0].title == "ExpiryTrack: a has 3 GB."
    assert bell.taken[0].title == "ExpiryTrack: 2 new"


def test_what_is_long_over_is_not_told_any_more(state: StateDatabase) -> None:
    """A channel that comes back after a week hears of what stands alone."""
    away = Channel(broken=NotSent("away."))
    measured(state, NOON, a=3, b=3)
    deliver(state, [away], NOON)
    measured(state, later(60), a=9, b=3)
    away.broken = None
    deliver(state, [away], later(7 * 24 * 60))
    assert [one.title for one in away.taken] == ["ExpiryTrack: b has 3 GB."]


def test_the_same_message_has_the_same_key() -> None:
    """So that a mail program shows it once, if it is sent twice after all."""
    alert = Alert("disk_free", "a", 3, 5, "a has 3 GB.", "Make room.", NOON)
    assert message([("raised", alert)], NOON).key == message([("raised", alert)], later(5)).key
    assert message([("raised", alert)], NOON).key != message([("recovered", alert)], NOON).key


STEPS = st.tuples(st.floats(0, 12), st.booleans(), st.integers(1, 90))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, max_size=25))
@example(steps=[(0.0, False, 1), (6.0, False, 1), (0.0, True, 1)])  # what is over was due before what it was
def test_whatever_fails_each_event_is_taken_once_in_order(engine: Engine, steps: list[tuple[float, bool, int]]) -> None:
    """Raised and over reach a channel by turns, whenever it worked; once it works, nothing is left to tell."""
    with TimedState(engine) as state:
        bell, now = Channel(), NOON
        for value, works, minutes in steps:
            bell.broken = None if works else NotSent("away.")
            measured(state, now, a=value)
            deliver(state, [bell], now)
            now += timedelta(minutes=minutes)
        bell.broken = None
        deliver(state, [bell], now + timedelta(hours=1))
        told = [line for one in bell.taken for line in one.text.splitlines() if line.startswith(("ALERT", "OVER"))]
        ((raised, over),) = state.query(sql("SELECT count(*), count(recovered_at) FROM alerts"))
        assert [line.partition(":")[0] for line in told] == (["ALERT", "OVER"] * raised)[: raised + over]
        assert all(one.waiting == 0 for one in channel_states(state).values())
