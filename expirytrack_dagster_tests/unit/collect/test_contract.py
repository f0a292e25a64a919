"""One contract: how far back it is asked, and the state that each kind of answer proves."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import date, timedelta
from typing import TYPE_CHECKING

import pytest

from expirytrack_dagster.collect.contract import DAYS, Answer, Inquiry
from expirytrack_dagster.collect.windows import Windows
from expirytrack_dagster.errors import (
    CircuitOpen,
    DiskFull,
    EdgeBlocked,
    ExpiryTrackError,
    MalformedResponse,
    NetworkError,
    PlanRequired,
    RateLimited,
    RequestRefused,
    ServerError,
    StateLocked,
    TokenRejected,
    TruncatedResponse,
)
from expirytrack_dagster_tests.statements import sql

if TYPE_CHECKING:
    from expirytrack_dagster.state import StateDatabase
    from expirytrack_dagster.upstox.client import Candles, Interval
    from expirytrack_dagster_tests.unit.collect.conftest import Source

KEY = "NSE_FO|35001|28-08-2025"
EXPIRY = date(2025, 8, 28)
DAY = timedelta(days=1)
REFUSED = RequestRefused("Upstox does not know this key. (UDAPI100011)", status=400, code="UDAPI100011")


def inquiry(
    source: Source, state: StateDatabase, widest: int = 1830, *, reconcile: bool = False, odd: bool = False
) -> Inquiry:
    """Return the question about the one contract, as a run of its own asks it."""
    windows = Windows(state, widest), Windows(state, 1830, DAYS)
    return Inquiry(source, KEY, EXPIRY, *windows, reconcile=reconcile, odd=odd)


def ask(
    source: Source, state: StateDatabase, widest: int = 1830, *, reconcile: bool = False, odd: bool = False
) -> Answer:
    """Ask the one contract."""
    return asyncio.run(inquiry(source, state, widest, reconcile=reconcile, odd=odd).ask())


def rows_by_day(answer: Answer) -> dict[date, int]:
    """Return the number of rows received of each day; every minute must have come once."""
    ts = [moment for table in answer.tables for moment in table.column("ts").to_pylist()]
    assert len(set(ts)) == len(ts)
    return dict(Counter(moment.date() for moment in ts))


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
    """Further back only while the answer reaches the window's start; no bar comes twice or not at all."""
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


def test_no_minutes_prove_nothing(source: Source, state: StateDatabase) -> None:
    """Without minutes the state is open, for one request; the proof is asked by itself and costs another."""
    answer = ask(source, state)
    assert (answer.state, answer.requests, answer.rows) == (None, 1, 0)
    answer = asyncio.run(inquiry(source, state).prove_empty())
    assert (answer.state, answer.requests, answer.rows) == ("empty_proven", 1, 0)
    assert [interval for _, interval, *_ in source.asked] == ["1minute", "day"]


def test_empty_is_proven_at_once_where_days_are_known(source: Source, state: StateDatabase) -> None:
    """A contract that is compared with its daily candles needs no further proof, for two requests."""
    answer = ask(source, state, reconcile=True)
    assert (answer.state, answer.requests, answer.rows) == ("empty_proven", 2, 0)
    assert [interval for _, interval, *_ in source.asked] == ["day", "1minute"]


@pytest.mark.parametrize("reconcile", [True, False], ids=["compared", "proven later"])
def test_daily_candles_without_minutes_are_partial(source: Source, state: StateDatabase, *, reconcile: bool) -> None:
    """Daily candles prove that minutes are missing, and the message says how many days there are."""
    source.daily[KEY] = [EXPIRY, EXPIRY - DAY]
    question = inquiry(source, state, reconcile=reconcile)
    answer = asyncio.run(question.ask() if reconcile else question.prove_empty())
    assert answer.state == "partial"
    assert "2 daily candles" in str(answer.message)


def test_emptiness_is_proven_over_the_whole_life_of_the_chain(source: Source, state: StateDatabase) -> None:
    """Where the API allows narrow windows only, a contract is asked back to the day on which the chain begins."""
    source.cap = source.day_cap = 30
    source.days[KEY] = [EXPIRY - 70 * DAY]
    question = inquiry(source, state)
    question.minutes.seen(EXPIRY - 72 * DAY)
    question.days.seen(EXPIRY - 72 * DAY)
    assert asyncio.run(question.prove_empty()).state == "partial"
    answer = asyncio.run(question.ask())
    assert (answer.state, answer.rows) == ("complete", 3)


def test_a_contract_that_pauses_is_asked_back_to_the_birth_of_the_chain(source: Source, state: StateDatabase) -> None:
    """A contract without trades for longer than a window still gets its older minutes."""
    source.days[KEY] = [EXPIRY, EXPIRY - 65 * DAY]
    question = inquiry(source, state, widest=20)
    question.minutes.seen(EXPIRY - 66 * DAY)
    answer = asyncio.run(question.ask())
    assert rows_by_day(answer) == {EXPIRY: 3, EXPIRY - 65 * DAY: 3}
    assert answer.requests == 4


def test_daily_candles_are_asked_back_too(source: Source, state: StateDatabase) -> None:
    """A refusal of wide windows of days does not leave older minutes without their daily candles."""
    source.day_cap, source.days[KEY] = 30, [EXPIRY - step * DAY for step in range(65)]
    answer = ask(source, state, reconcile=True)
    assert answer.days is not None
    assert answer.days.num_rows == 65
    assert answer.requests == 6 + 3 + 1
    assert (answer.state, answer.rows) == ("complete", 195)


@pytest.mark.parametrize("newest", [1, 7, 30])
def test_silent_truncation_is_found_and_remembered(source: Source, state: StateDatabase, newest: int) -> None:
    """An answer cut to its newest days, without an error, loses nothing; later runs ask with windows that are safe."""
    weekdays = [day for step in range(100) if (day := EXPIRY - step * DAY).weekday() < 5]
    source.newest, source.days[KEY] = newest, weekdays
    first = ask(source, state, reconcile=True)
    assert first.state == "complete"
    assert rows_by_day(first) == dict.fromkeys(weekdays, 3)
    learned = Windows(state, 1830).days
    trading = sum(day > EXPIRY - newest * DAY for day in weekdays)
    assert learned == trading, "weekends at the start of a window do not narrow it any further"
    source.asked.clear()
    other = ask(source, state)
    assert rows_by_day(other) == rows_by_day(first), "a contract that is not compared is whole too"
    assert other.requests <= 100 // learned + 2 + 10 // learned


def test_without_daily_candles_truncation_would_be_missed(source: Source, state: StateDatabase) -> None:
    """The proof is worth its request: the same API, not asked for daily candles, gives a month that looks whole."""
    source.newest, source.days[KEY] = 30, [EXPIRY - step * DAY for step in range(100)]
    answer = ask(source, state)
    assert (answer.state, answer.rows, answer.requests) == ("complete", 90, 1)


def test_truncation_of_a_contract_quiet_at_its_end(source: Source, state: StateDatabase) -> None:
    """When even the newest answer is empty because it was cut, the days before are found by their daily candles."""
    source.newest, source.days[KEY] = 10, [EXPIRY - step * DAY for step in range(40, 60)]
    answer = ask(source, state, reconcile=True)
    assert answer.state == "complete"
    assert rows_by_day(answer) == dict.fromkeys(source.days[KEY], 3)


def test_a_young_contract_needs_no_second_window(source: Source, state: StateDatabase) -> None:
    """Daily candles that begin where the minutes do cast no doubt: one request of each kind, and no narrower window."""
    source.days[KEY] = [EXPIRY - step * DAY for step in range(3)]
    answer = ask(source, state, reconcile=True)
    assert (answer.state, answer.requests, answer.rows) == ("complete", 2, 9)
    assert Windows(state, 1830).days == 1830


@pytest.mark.parametrize("widest", [1830, 25])
def test_a_gap_of_the_vendor_is_not_taken_for_truncation(source: Source, state: StateDatabase, widest: int) -> None:
    """Daily candles without minutes at the beginning of a life cost a request or two, and leave the width alone."""
    source.days[KEY] = [EXPIRY - step * DAY for step in range(40)]
    source.daily[KEY] = [EXPIRY - step * DAY for step in range(40, 48)]
    answer = ask(source, state, widest, reconcile=True)
    assert rows_by_day(answer) == dict.fromkeys(source.days[KEY], 3)
    assert answer.days is not None
    assert answer.days.num_rows == 48
    assert answer.requests <= (3 if widest == 1830 else 6)
    assert Windows(state, widest).days == widest
    assert not state.query(sql("SELECT * FROM learned"))


@pytest.mark.parametrize("reconcile", [True, False])
@pytest.mark.parametrize("widest", [1830, 30, 1])
def test_an_api_that_ignores_windows_is_not_asked_for_ever(
    source: Source, state: StateDatabase, monkeypatch: pytest.MonkeyPatch, widest: int, *, reconcile: bool
) -> None:
    """Whatever is asked, the same forty days come: the asking ends, and nothing is learned from it."""
    source.days[KEY] = [EXPIRY - step * DAY for step in range(40)]
    source.daily[KEY] = [EXPIRY - 45 * DAY]
    answers = source.get_historical_data

    async def ignoring(key: str, interval: Interval, _first: date, _last: date) -> Candles:
        return await answers(key, interval, EXPIRY - 100 * DAY, EXPIRY)

    monkeypatch.setattr(source, "get_historical_data", ignoring)
    answer = ask(source, state, widest, reconcile=reconcile)
    assert answer.state == "complete"
    assert answer.requests <= 70
    assert not state.query(sql("SELECT * FROM learned"))


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
    answer = ask(source, state, odd=True)
    assert (answer.state, answer.error_code, answer.message) == ("failed", type(error).__name__, str(error))

    source.faults.clear()
    source.fault = lambda _key, interval, _last: error if interval == "day" else None
    assert asyncio.run(inquiry(source, state, odd=True).prove_empty()).state == "failed"
    assert ask(source, state, reconcile=True, odd=True).state == "failed"


@pytest.mark.parametrize("error", [REFUSED, ServerError("500", status=500)], ids=["refused", "failed"])
def test_rows_that_arrived_before_an_error_are_kept(source: Source, state: StateDatabase, error: Exception) -> None:
    """An error in an older window leaves the newer rows, and the state says that there may be more."""
    source.days[KEY] = [EXPIRY - step * DAY for step in range(50)]
    source.fault = lambda _key, _interval, last: error if last < EXPIRY else None
    answer = ask(source, state, widest=30)
    assert (answer.state, answer.rows, answer.requests) == ("partial", 90, 2)
    assert answer.message == str(error)


@pytest.mark.parametrize(
    "error",
    [TokenRejected("dead"), PlanRequired("no plan"), DiskFull("full"), CircuitOpen("open"), StateLocked("locked")],
    ids=str,
)
def test_a_critical_error_is_not_a_state(source: Source, state: StateDatabase, error: ExpiryTrackError) -> None:
    """What concerns all contracts is raised, so that the caller stops."""
    source.faults[KEY] = error
    with pytest.raises(type(error)):
        ask(source, state)
    with pytest.raises(type(error)):
        asyncio.run(inquiry(source, state).prove_empty())
