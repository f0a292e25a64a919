"""A stand-in for the API's candles: it keeps bars of contracts and answers windows of them, or what it is told to."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from expirytrack_dagster.collect.staging import CellStaging
from expirytrack_dagster.errors import DateRangeRefused
from expirytrack_dagster.state import StateDatabase
from expirytrack_dagster.upstox.client import Candles
from expirytrack_dagster.upstox.decode import CANDLES_SCHEMA
from expirytrack_dagster_tests.unit.collect.cells import Cell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from expirytrack_dagster.upstox.client import Interval

OPEN_UTC = timedelta(hours=3, minutes=45)  # 09:15 in India
INDIA_AHEAD = timedelta(hours=5, minutes=30)


def bars(days: list[date], minutes: int) -> pa.Table:
    """Return sound candles: the first minutes of each day, newest first as Upstox sends them."""
    starts = [datetime.combine(day, datetime.min.time(), tzinfo=UTC) + OPEN_UTC for day in days]
    ts = sorted((start + timedelta(minutes=step) for start in starts for step in range(minutes)), reverse=True)
    return table(ts, [75] * len(ts))


def daily_bars(days: list[date], minutes: int) -> pa.Table:
    """Return the daily candles of the same minutes: prices are as theirs, volume is their sum, midnight in India."""
    ts = sorted((datetime.combine(day, datetime.min.time(), tzinfo=UTC) - INDIA_AHEAD for day in days), reverse=True)
    return table(ts, [75 * minutes] * len(ts))


def table(ts: list[datetime], volume: list[int]) -> pa.Table:
    """Return candles that differ in time and volume alone."""
    size = len(ts)
    return pa.table(
        [ts, [10.0] * size, [12.0] * size, [9.0] * size, [11.0] * size, volume, [750] * size], schema=CANDLES_SCHEMA
    )


@dataclass
class Source:
    """Answers as the API does; `asked` holds every request (key, interval, first day, last day).

    `days` are the trading days of each contract, `daily` those for which only `day` candles exist. `cap` refuses wider
    windows of minutes, `day_cap` those of days; `newest` cuts an answer of minutes to the newest days of its window, in
    silence. `faults` are raised instead of an answer: by key, or what a function of (key, interval, last day) returns.
    """

    days: dict[str, list[date]] = field(default_factory=dict)
    daily: dict[str, list[date]] = field(default_factory=dict)
    minutes: int = 3
    cap: int | None = None
    day_cap: int | None = None
    newest: int | None = None
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
        cap = self.day_cap if interval == "day" else self.cap
        if cap is not None and (to_date - from_date).days >= cap:
            raise DateRangeRefused("too wide (UDAPI1148)", status=400, code="UDAPI1148")
        days = self.days.get(expired_key, [])
        if interval == "day":
            days = [*days, *self.daily.get(expired_key, [])]
        elif self.newest is not None:
            from_date = max(from_date, to_date - timedelta(days=self.newest - 1))
        inside = [day for day in days if from_date <= day <= to_date]
        return Candles((daily_bars if interval == "day" else bars)(inside, self.minutes), 0, 1)


@pytest.fixture
def source() -> Source:
    """Give an API that knows no candles yet."""
    return Source()


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateDatabase]:
    """Give an empty state database."""
    with StateDatabase(tmp_path / "state.sqlite") as database:
        yield database


@pytest.fixture
def cell(source: Source, state: StateDatabase, tmp_path: Path) -> Cell:
    """Give six contracts that traded for five minutes each."""
    return Cell(source, state, CellStaging(tmp_path / "staging"))
