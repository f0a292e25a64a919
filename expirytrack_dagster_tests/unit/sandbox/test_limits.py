"""Strict sliding windows."""

from hypothesis import given
from hypothesis import strategies as st

from expirytrack_dagster.sandbox.limits import Limiter
from expirytrack_dagster.settings import RateLimit


def test_room_comes_back_when_the_oldest_leaves() -> None:
    """The third request of a window of two waits for the first to be a whole window old, and not a moment more."""
    limiter = Limiter([RateLimit(1, 2)])
    assert limiter.admit("a", 0.0) == 0
    assert limiter.admit("a", 0.5) == 0
    assert limiter.admit("a", 0.75) == 0.25
    assert limiter.admit("a", 1.0) == 0
    assert limiter.admit("a", 1.25) == 0.25
    assert limiter.violations == 2


def test_keys_are_apart() -> None:
    """One account's requests use up none of another's room."""
    limiter = Limiter([RateLimit(1, 1)])
    assert limiter.admit("a", 0.0) == limiter.admit("b", 0.0) == 0
    assert limiter.most_in_any_window() == {"1/1": 1}


def test_refused_requests_count_when_asked_to() -> None:
    """With `count_refused`, knocking without a pause is never let in."""
    limiter = Limiter([RateLimit(1, 1)])
    waits = [limiter.admit("a", number * 0.5, count_refused=True) for number in range(10)]
    assert waits == [0.0] + [0.5] * 9


def test_no_limits() -> None:
    """Without limits nothing is refused."""
    assert all(Limiter([]).admit("a", 0.0) == 0 for _ in range(10))


@given(
    st.lists(st.integers(0, 64), max_size=60), st.lists(st.tuples(st.integers(1, 9), st.integers(1, 64)), min_size=1)
)
def test_agrees_with_counting(gaps: list[int], sizes: list[tuple[int, int]]) -> None:
    """Any arrivals are let in exactly when every window, counted afresh, has room."""
    limits = [RateLimit(seconds / 8, requests) for requests, seconds in sizes]
    limiter = Limiter(limits)
    now = 0.0
    accepted: list[float] = []
    arrivals: list[float] = []
    for gap in gaps:
        now += gap / 8
        arrivals.append(now)
        room = all(sum(now - limit.seconds < time <= now for time in accepted) < limit.requests for limit in limits)
        assert (limiter.admit("a", now) == 0) == room
        if room:
            accepted.append(now)
    for limit in limits:
        most = max((sum(end - limit.seconds < time <= end for time in arrivals) for end in arrivals), default=0)
        # Arrivals at the same instant are all in the window of the last of them.
        assert limiter.most_in_any_window()[str(limit)] == most
