"""One contract: how far back it is asked, and the state that each kind of answer proves."""

from __future__ import annotations

import asyncio
from datetime import date, timedelta
from typing import TYPE_CHECKING

import pytest

from expirytrack_dagster.collect.contract import DAYS, Answer, Inquiry
from expirytrack_dagster.collect.windows import Windows
from expirytrack_dagster.errors import (
    DiskFull,
    EdgeBlocked,
    ExpiryTrackError,
    MalformedResponse,
    NetworkError,
    PlanRequired,
    RateLimited,
    RequestRefused,
    ServerError,
    TokenRejected,
    TruncatedResponse,
)

if TYPE_CHECKING:
    from expirytrack_dagster.state import StateDatabase
    from expirytrack_dagster_tests.unit.collect.conftest import Source

KEY = "NSE_FO|35001|28-08-2025"
EXPIRY = date(2025, 8, 28)
DAY = timedelta(days=1)
REFUSED = RequestRefused("Upstox does not know this key. (UDAPI100011)", status=400, code="UDAPI100011")


def ask(source: Source, state: StateDatabase, widest: int = 1830) -> Answer:
    """Ask the one contract."""
    return asyncio.run(Inquiry(source, KEY, EXPIRY, Windows(state, widest), Windows(state, widest, DAYS)).ask())


def minutes_asked(source: Source) -> list[tuple[date, date]]:
    """Return the windows of minutes, in the order of asking."""
    return [(first, last) for _, interval, first, last in source.asked if interval == "1minute"]


def test_one_wide_window_is_enough(source: Source, state: StateDatabase) -> None:
    """A contract whose first bar lies well inside the first window costs one request."""
    source.days[KEY] = [EXPIRY - step * DAY for step in range(60)]
    answer = ask(source, state)
    assert (answer.state, answer.requests, answer.rows) == ("complete", 1, 180)
    assert source.asked == [(KEY, "1minute", EXPIRY - 1829 * DAY, EXPIRY)]


def test_older_windows_are_asked_while_the_start_is_reached(source: Source, state: StateDatabase) -> None:
    """Further back only while the answer reaches the window's start; windows touch, no bar comes twice or not at all."""
    source.days[KEY] = [EXPIRY - step * DAY for step in range(65)]
    answer = ask(source, state, widest=30)
    assert minutes_asked(source) == [
        (EXPIRY - 29 * DAY, EXPIRY),
        (EXPIRY - 59 * DAY, EXPIRY - 30 * DAY),
        (EXPIRY - 89 * DAY, EXPIRY - 60 * DAY),
    ]
    assert (answer.state, answer.rows) == ("complete", 65 * 3)


@pytest.mark.parametrize("widest", [1, 2, 3, 5, 7])
def test_a_window_as_narrow_as_a_weekend_proves_no_end(source: Source, state: StateDatabase, widest: int) -> None:
    """With windows of a few days, empty ones over a weekend and holidays do not hide what traded before them."""
    source.days[KEY] = [EXPIRY - step * DAY for step in range(40) if step % 7 not in {2, 3} and not 10 < step < 18]
    answer = ask(source, state, widest=widest)
    assert (answer.state, answer.rows) == ("complete", 3 * len(source.days[KEY]))


def test_a_range_refusal_narrows_and_goes_on(source: Source, state: StateDatabase) -> None:
    """UDAPI1148 halves until the API is content; nothing is lost, and every try is counted."""
    source.cap, source.days[KEY] = 30, [EXPIRY - step * DAY for step in range(40)]
    answer = ask(source, state)
    assert (answer.state, answer.rows) == ("complete", 120)
    assert answer.requests == len(source.asked) == 6 + 2
    source.asked.clear()
    assert ask(source, state).requests == 2, "the width is remembered"


def test_a_range_refusal_of_one_day_is_a_refusal(source: Source, state: StateDatabase) -> None:
    """When even one day is too wide, the contract is refused with Upstox's code instead of asked for ever."""
    source.cap, source.days[KEY] = 0, [EXPIRY]
    answer = ask(source, state)
    assert (answer.state, answer.error_code) == ("refused", "UDAPI1148")
    assert answer.requests == 11


def test_empty_is_believed_with_proof_only(source: Source, state: StateDatabase) -> None:
    """No minutes and no daily candles: proven empty, for two requests."""
    answer = ask(source, state)
    assert (answer.state, answer.requests, answer.rows) == ("empty_proven", 2, 0)
    assert [interval for _, interval, *_ in source.asked] == ["1minute", "day"]


def test_daily_candles_without_minutes_are_partial(source: Source, state: StateDatabase) -> None:
    """Daily candles prove that minutes are missing, and the message says how many days there are."""
    source.daily[KEY] = [EXPIRY, EXPIRY - DAY]
    answer = ask(source, state)
    assert answer.state == "partial"
    assert "2 daily candles" in str(answer.message)


def test_a_refusal_is_no_data_of_its_own_kind(source: Source, state: StateDatabase) -> None:
    """A 4xx gives the state refused, Upstox's code and its sentence, and is never taken for empty."""
    source.faults[KEY] = REFUSED
    answer = ask(source, state)
    assert (answer.state, answer.error_code, answer.message) == ("refused", "UDAPI100011", str(REFUSED))
    assert answer.requests == 1


@pytest.mark.parametrize(
    "error",
    [
        NetworkError("no answer"),
        ServerError("500", status=500),
        RateLimited("429"),
        EdgeBlocked("a page", status=200),
        TruncatedResponse("cut off"),
        MalformedResponse("another shape"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_is_failed_and_never_empty(source: Source, state: StateDatabase, error: ExpiryTrackError) -> None:
    """What may pass leads to failed with the error's name, also when it strikes only at the proof of emptiness."""
    source.faults[KEY] = error
    answer = ask(source, state)
    assert (answer.state, answer.error_code, answer.message) == ("failed", type(error).__name__, str(error))

    source.faults.clear()
    source.fault = lambda _key, interval, _last: error if interval == "day" else None
    assert ask(source, state).state == "failed"


@pytest.mark.parametrize("error", [REFUSED, ServerError("500", status=500)], ids=["refused", "failed"])
def test_rows_that_arrived_before_an_error_are_kept(source: Source, state: StateDatabase, error: Exception) -> None:
    """An error in an older window leaves the newer rows, and the state says that there may be more."""
    source.days[KEY] = [EXPIRY - step * DAY for step in range(50)]
    source.fault = lambda _key, _interval, last: error if last < EXPIRY else None
    answer = ask(source, state, widest=30)
    assert (answer.state, answer.rows, answer.requests) == ("partial", 90, 2)
    assert answer.message == str(error)


@pytest.mark.parametrize("error", [TokenRejected("dead"), PlanRequired("no plan"), DiskFull("full")], ids=str)
def test_a_critical_error_is_not_a_state(source: Source, state: StateDatabase, error: ExpiryTrackError) -> None:
    """What concerns all contracts is raised, so that the caller stops."""
    source.faults[KEY] = error
    with pytest.raises(type(error)):
        ask(source, state)
