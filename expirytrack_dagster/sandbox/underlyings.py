"""The underlyings of the synthetic market and their contract rules: expiry weekdays, lots, strike steps.

Belongs here: facts about underlyings that change with the date, and the list of expiries that follows from them. The
source is docs/upstox-api.md; what those do not settle is marked as plausible.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache

from expirytrack_dagster.sandbox import sessions

FLOOR = date(2024, 10, 1)  # Upstox has no option minutes from before this day
FIRST_EXPIRY = date(2024, 10, 3)  # and lists no expiry from before this one
MONDAY, TUESDAY, WEDNESDAY, THURSDAY, FRIDAY = range(5)


@dataclass(frozen=True, slots=True)
class Underlying:
    """One underlying; pairs of (first day, value) are ascending, and the last one that has begun holds."""

    key: str
    symbol: str
    name: str
    exchange: str
    kind: str
    token: str
    level: float
    volatility: float
    step: int
    lots: tuple[tuple[date, int], ...]
    weekdays: tuple[tuple[date, int], ...]
    last_weekly: date
    first_contract_token: int

    @property
    def segment(self) -> str:
        """The segment of its contracts."""
        return f"{self.exchange}_FO"

    def lot(self, expiry: date) -> int:
        """Return the lot size of the contracts of an expiry."""
        return _valid(self.lots, expiry)


def _valid(steps: tuple[tuple[date, int], ...], day: date) -> int:
    return next(value for since, value in reversed(steps) if since <= day)


NSE_THURSDAY_TO_TUESDAY = ((date.min, THURSDAY), (date(2025, 9, 1), TUESDAY))

UNDERLYINGS = (
    Underlying(
        key="NSE_INDEX|Nifty 50",
        symbol="NIFTY",
        name="Nifty 50",
        exchange="NSE",
        kind="INDEX",
        token="26000",  # noqa: S106 - the exchange's number of an instrument, no secret
        level=21_700,
        volatility=0.14,
        step=50,
        lots=((date.min, 25), (date(2025, 1, 1), 75), (date(2026, 1, 1), 65)),
        weekdays=NSE_THURSDAY_TO_TUESDAY,
        last_weekly=date.max,
        first_contract_token=35_000,
    ),
    Underlying(
        key="NSE_INDEX|Nifty Bank",
        symbol="BANKNIFTY",
        name="Nifty Bank",
        exchange="NSE",
        kind="INDEX",
        token="26009",  # noqa: S106 - the exchange's number of an instrument, no secret
        level=48_200,
        volatility=0.16,
        step=100,
        lots=((date.min, 15), (date(2025, 1, 1), 30), (date(2025, 7, 1), 35), (date(2026, 1, 1), 30)),
        weekdays=((date.min, WEDNESDAY), (date(2025, 1, 1), THURSDAY), (date(2025, 9, 1), TUESDAY)),
        last_weekly=date(2024, 11, 13),
        first_contract_token=43_000,
    ),
    Underlying(
        key="BSE_INDEX|SENSEX",
        symbol="SENSEX",
        name="SENSEX",
        exchange="BSE",
        kind="INDEX",
        token="1",  # noqa: S106 - the exchange's number of an instrument, no secret
        level=72_000,
        volatility=0.14,
        step=100,
        lots=((date.min, 10), (date(2025, 1, 1), 20)),
        weekdays=((date.min, FRIDAY), (date(2025, 1, 1), TUESDAY), (date(2025, 9, 1), THURSDAY)),
        last_weekly=date.max,
        first_contract_token=820_000,
    ),
    Underlying(
        key="NSE_EQ|INE002A01018",
        symbol="RELIANCE",
        name="RELIANCE INDUSTRIES LTD",
        exchange="NSE",
        kind="EQUITY",
        token="2885",  # noqa: S106 - the exchange's number of an instrument, no secret
        level=1_300,
        volatility=0.22,
        step=10,
        lots=((date.min, 500),),
        weekdays=NSE_THURSDAY_TO_TUESDAY,
        last_weekly=date.min,
        first_contract_token=51_000,
    ),
)


@cache
def expiries(underlying: Underlying) -> dict[date, bool]:
    """Return every expiry of the calendar, ascending, with True for a weekly and False for a monthly one.

    The last expiry weekday of a month is the monthly one. An expiry on a holiday moves to the trading day before.
    """
    listed = {}
    day = FLOOR
    while day <= sessions.LAST_DAY - timedelta(days=7):
        if day.weekday() == _valid(underlying.weekdays, day):
            monthly = (day + timedelta(days=7)).month != day.month
            expiry = sessions.shifted(day)
            if (monthly or day <= underlying.last_weekly) and expiry >= FIRST_EXPIRY:
                listed[expiry] = not monthly
        day += timedelta(days=1)
    return listed
