"""The trading calendar of the synthetic market: which days trade, from when, and for how many minutes.

Belongs here: days, sessions and the shift of an expiry off a holiday. The dates follow the exchanges' published lists
as far as they are known (docs/upstox-api.md); the collector never reads this, it takes hours from the data.
"""

from __future__ import annotations

from datetime import date, timedelta
from functools import cache
from typing import NamedTuple

import numpy as np

from expirytrack_dagster.sandbox.bars import OPENING, Ints, epoch

FIRST_DAY = date(2024, 1, 1)
LAST_DAY = date(2027, 12, 31)
REGULAR_BARS = 375  # 09:15 to 15:29
LONGER_BARS = 385  # 09:15 to 15:39
LONGER_SINCE = date(2026, 8, 3)  # NSE derivatives close at 15:40 from this day
EVENING_BARS = 60

# Days without a regular session, 2027 as far as the dates are fixed by law.
HOLIDAY_LIST = """
    2024-01-22 2024-01-26 2024-03-08 2024-03-25 2024-03-29 2024-04-11 2024-04-17 2024-05-01 2024-05-20 2024-06-17
    2024-07-17 2024-08-15 2024-10-02 2024-11-01 2024-11-15 2024-11-20 2024-12-25
    2025-02-26 2025-03-14 2025-03-31 2025-04-10 2025-04-14 2025-04-18 2025-05-01 2025-08-15 2025-08-27 2025-10-02
    2025-10-21 2025-10-22 2025-11-05 2025-12-25
    2026-01-15 2026-01-26 2026-03-03 2026-03-26 2026-03-31 2026-04-03 2026-04-14 2026-05-01 2026-05-28 2026-06-26
    2026-09-14 2026-10-02 2026-10-20 2026-11-10 2026-11-24 2026-12-25
    2027-01-26
"""
HOLIDAYS = frozenset(map(date.fromisoformat, HOLIDAY_LIST.split()))
# Budget days, traded in full although they are a Saturday and a Sunday.
WEEKEND_SESSIONS = frozenset({date(2025, 2, 1), date(2026, 2, 1)})
# Evening (muhurat) sessions: start in seconds after midnight IST.
EVENINGS = {date(2024, 11, 1): 64_800, date(2025, 10, 21): 65_700, date(2026, 11, 8): 65_700}
SATURDAY = 5


class Session(NamedTuple):
    """One session: its day, the UTC start of its first bar in seconds, and its number of one-minute bars."""

    day: date
    start: int
    bars: int


def session(day: date) -> Session | None:
    """Return the session of a day, or None where the market stays closed."""
    if day in EVENINGS:
        return Session(day, epoch(day, EVENINGS[day]), EVENING_BARS)
    if is_full_day(day):
        return Session(day, epoch(day, OPENING), LONGER_BARS if day >= LONGER_SINCE else REGULAR_BARS)
    return None


def is_full_day(day: date) -> bool:
    """Say whether a day has a full session; only such a day can be an expiry."""
    return (day.weekday() < SATURDAY and day not in HOLIDAYS) or day in WEEKEND_SESSIONS


def shifted(day: date) -> date:
    """Return the last full trading day up to `day`: an expiry on a holiday moves earlier, never later."""
    while not is_full_day(day):
        day -= timedelta(days=1)
    return day


@cache
def all_sessions() -> tuple[Session, ...]:
    """Return every session of the calendar, ascending."""
    days = (FIRST_DAY + timedelta(days=number) for number in range((LAST_DAY - FIRST_DAY).days + 1))
    return tuple(found for found in map(session, days) if found)


@cache
def all_minutes() -> Ints:
    """Return the start of every one-minute bar of the calendar: UTC seconds, ascending."""
    return np.concatenate([item.start + 60 * np.arange(item.bars) for item in all_sessions()])


@cache
def first_bars() -> Ints:
    """Return the position in `all_minutes()` of each session's first bar, and one more for the end."""
    return np.concatenate([[0], np.cumsum([item.bars for item in all_sessions()])])


@cache
def session_numbers() -> dict[date, int]:
    """Return the position of each day in `all_sessions()`."""
    return {item.day: number for number, item in enumerate(all_sessions())}
