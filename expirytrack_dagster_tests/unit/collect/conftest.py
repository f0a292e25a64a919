"""A stand-in for the API's candles: it keeps bars of contracts and answers windows of them, or what it is told to."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from expirytrack_dagster.errors import DateRangeRefused
from expirytrack_dagster.state import StateDatabase
from expirytrack_dagster.upstox.client import Candles
from expirytrack_dagster.upstox.decode import CANDLES_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from expirytrack_dagster.upstox.client import Interval

OPEN_UTC = timedelta(hours=3, minutes=45)  # 09:15 in India


def bars(days: list[date], minutes: int) -> pa.Table:
    """Return sound candles: the first minutes of each day, newest first as Upstox sends them."""
    starts = [datetime.combine(day, datetime.min.time(), tzinfo=UTC) + OPEN_UTC for day in days]
    ts = sorted((start + timedelta(minutes=step) for start in starts for step in range(minutes)), reverse=True)
    size = len(ts)
    return pa.table(
        [ts, [10.0] * size, [12.0] * size, [9.0] * size, [11.0] * size, [75] * size, [750] * size],
        schema=CANDLES_SCHEMA,
    )


@dataclass
class Source:
    """Answers as the API does; `asked` holds every request (key, interval, first day, last day).

    `days` are the trading days of each contract, `daily` those for which only `day` candles exist. `cap` refuses wider
    windows of minutes. `faults` are raised instead of an answer: by key, or what a function of (key, interval, last
    day) returns.
    """

    days: dict[str, list[date]] = field(default_factory=dict)
    daily: dict[str, list[date]] = field(default_factory=dict)
    minutes: int = 3
    cap: int | None = None
    faults: dict[str, Exception] = field(default_factory=dict)
    fault: Callable[[str, str, date], Exception | None] = lambda *_: None
    asked: list[tuple[str, str, date, date]] = field(default_factory=list)

    async def get_historical_data(
        self, expired_key: str, interval: Interval, from_date: date, to_date: date
    ) -> Candles:
        """Return the bars of the window."""
        self.asked.append((expired_key, interval, from_date, to_date))
        error = self.faults.get(expired_key) or self.fault(expired_key, interval, to_date)
        if error is not None:
            raise error
        if interval == "1minute" and self.cap is not None and (to_date - from_date).days >= self.cap:
            raise DateRangeRefused("too wide (UDAPI1148)", status=400, code="UDAPI1148")
        days = self.days.get(expired_key, [])
        if interval == "day":
            days = [*days, *self.daily.get(expired_key, [])]
        inside = [day for day in days if from_date <= day <= to_date]
        return Candles(bars(inside, self.minutes if interval == "1minute" else 1), 0, 1)


@pytest.fixture
def source() -> Source:
    """Give an API that knows no candles yet."""
    return Source()


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateDatabase]:
    """Give an empty state database."""
    with StateDatabase(tmp_path / "state.sqlite") as database:
        yield database
