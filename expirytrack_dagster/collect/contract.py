"""Everything that has to be asked about one contract, and the state that the answers prove.

A contract is asked newest window first, and further back only while an answer reaches its window's start. "Empty" is
believed only with proof: a well-formed empty answer of minutes *and* of days. An error is a state, never "no data".
Which contracts are asked, and when, is `cell.py`'s business.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc

from expirytrack_dagster.collect.states import State
from expirytrack_dagster.errors import (
    DateRangeRefused,
    MalformedResponse,
    RecoverableError,
    RequestRefused,
)

if TYPE_CHECKING:
    from datetime import date, datetime

    from expirytrack_dagster.collect.windows import Window, Windows
    from expirytrack_dagster.upstox.client import Candles, Interval

INDIA = ZoneInfo("Asia/Kolkata")
MINUTES: Interval = "1minute"
DAYS: Interval = "day"


class CandleSource(Protocol):
    """The one call of the API client that this module needs."""

    async def get_historical_data(
        self, expired_key: str, interval: Interval, from_date: date, to_date: date
    ) -> Candles:
        """Return the candles of a contract between two days, both inclusive."""
        ...


@dataclass(slots=True)
class Answer:
    """What the API said about one contract: rows as received, and the state that they prove.

    `tables` hold ts (timestamp[us, UTC], bar start), open, high, low, close, volume, open_interest.
    """

    instrument_key: str
    state: State
    tables: list[pa.Table] = field(default_factory=list)
    requests: int = 0
    error_code: str | None = None
    message: str | None = None

    @property
    def rows(self) -> int:
        """Number of rows received."""
        return sum(table.num_rows for table in self.tables)


@dataclass(slots=True)
class Inquiry:
    """Asks one contract; keeps count of what it cost."""

    source: CandleSource
    instrument_key: str
    expiry: date
    minutes: Windows
    days: Windows
    requests: int = 0

    async def ask(self) -> Answer:
        """Ask until the contract's state is known.

        Raises:
            CriticalError: of the token, the plan or the storage; the caller stops.
        """
        answer = Answer(self.instrument_key, State.COMPLETE)
        try:
            await self._ask_minutes(answer)
            if not answer.tables:
                await self._prove_empty(answer)
        except RequestRefused as error:
            answer.state = State.PARTIAL if answer.tables else State.REFUSED
            answer.error_code, answer.message = error.code, str(error)
        except (RecoverableError, MalformedResponse) as error:
            answer.state = State.PARTIAL if answer.tables else State.FAILED
            answer.error_code, answer.message = type(error).__name__, str(error)
        answer.requests = self.requests
        return answer

    async def _ask_minutes(self, answer: Answer) -> None:
        oldest = last = self.expiry
        while True:
            window, table = await self._ask_window(MINUTES, self.minutes, last)
            if table.num_rows:
                answer.tables.append(table)
                oldest = min(oldest, _first_day(table))
            if not window.reached_by(oldest):
                return
            last = window.before()

    async def _prove_empty(self, answer: Answer) -> None:
        _, table = await self._ask_window(DAYS, self.days, self.expiry)
        if table.num_rows == 0:
            answer.state = State.EMPTY_PROVEN
            return
        answer.state = State.PARTIAL
        answer.message = (
            f"The API has {table.num_rows} daily candles of this contract but no minutes: collect it again later."
        )

    async def _ask_window(self, interval: Interval, windows: Windows, last: date) -> tuple[Window, pa.Table]:
        while True:
            window = windows.ending(last)
            self.requests += 1
            try:
                candles = await self.source.get_historical_data(
                    self.instrument_key, interval, window.first, window.last
                )
            except DateRangeRefused:
                if not windows.refused(window):
                    raise
            else:
                return window, candles.table


def _first_day(table: pa.Table) -> date:
    first: datetime = pc.min(table.column("ts")).as_py()
    return first.astimezone(INDIA).date()
