"""Everything that has to be asked about one contract, and the state that the answers prove.

A contract is asked newest window first, and further back only while an answer reaches its window's start. Daily
candles, where they are asked for, show where a contract's life begins, so that an answer cut short in silence is found.
"Empty" is believed only with proof. An error is a state, never "no data". Which contracts are asked, and when, is
`cell.py`'s business; what daily candles prove is `proof.py`'s.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, Self

import pyarrow as pa
import pyarrow.compute as pc

from expirytrack_dagster.collect.states import State
from expirytrack_dagster.errors import (
    CircuitOpen,
    DateRangeRefused,
    MalformedResponse,
    RecoverableError,
    RequestRefused,
    StateBusy,
    VaultBusy,
)
from expirytrack_dagster.ist import IST
from expirytrack_dagster.upstox.decode import CANDLES_SCHEMA

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import date

    from expirytrack_dagster.collect.windows import Window, Windows
    from expirytrack_dagster.upstox.client import Candles, Interval

INDIA = pa.scalar(IST.utcoffset(None))
"""How far Indian standard time is ahead of UTC, all the year; Arrow need not know time zones, as on Windows."""
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

    `tables` hold ts (timestamp[us, UTC], bar start), open, high, low, close, volume, open_interest; `days` the daily
    candles in the same columns, None when they were not asked for. `state` is None while "no minutes" lacks its proof.
    """

    instrument_key: str
    state: State | None = State.COMPLETE
    tables: list[pa.Table] = field(default_factory=list)
    days: pa.Table | None = None
    requests: int = 0
    error_code: str | None = None
    message: str | None = None
    agrees: bool | None = None

    @classmethod
    def failed(cls, instrument_key: str, error: Exception, requests: int) -> Self:
        """Return the answer that a contract will have to be asked again, and why."""
        return cls(instrument_key, State.FAILED, requests=requests, error_code=type(error).__name__, message=str(error))

    @property
    def rows(self) -> int:
        """Number of rows received."""
        return sum(table.num_rows for table in self.tables)


@dataclass(slots=True)
class Inquiry:
    """Asks one contract; keeps count of what it cost. `reconcile` asks for its daily candles too, and first.

    An answer of another shape than the documented one ends the work, since it is likely that the API has changed. Only
    of a contract that is `odd`, because it was answered like that before, it says nothing about the others.
    """

    source: CandleSource
    instrument_key: str
    expiry: date
    minutes: Windows
    days: Windows
    reconcile: bool = False
    odd: bool = False
    requests: int = 0

    async def ask(self) -> Answer:
        """Ask for minutes, until the contract's state is known or only the proof that it never traded is missing.

        Raises:
            CriticalError: of the token, the plan, the storage or the answer's shape; the caller stops.
            CircuitOpen, StateBusy, VaultBusy: nothing can be asked for a while, which says nothing of this contract.
        """
        answer = Answer(self.instrument_key)
        async with self._judging(answer):
            if self.reconcile:
                answer.days = await self._ask_days()
            await self._ask_back(MINUTES, self.minutes, answer.tables, answer.days)
            if not answer.tables:
                answer.state = None
                if answer.days is not None:
                    settle_empty(answer, answer.days)
        return answer

    async def prove_empty(self) -> Answer:
        """Ask whether a contract without minutes has daily candles.

        Raises:
            CriticalError, CircuitOpen, StateBusy, VaultBusy: as in `ask`.
        """
        answer = Answer(self.instrument_key)
        async with self._judging(answer):
            settle_empty(answer, await self._ask_days())
        return answer

    @asynccontextmanager
    async def _judging(self, answer: Answer) -> AsyncIterator[None]:
        """Turn an error about this contract into its state."""
        try:
            yield
        except RequestRefused as error:
            answer.state = State.PARTIAL if answer.tables else State.REFUSED
            answer.error_code, answer.message = error.code, str(error)
        except (CircuitOpen, StateBusy, VaultBusy):
            raise
        except (RecoverableError, MalformedResponse) as error:
            if isinstance(error, MalformedResponse) and not self.odd:
                raise
            answer.state = State.PARTIAL if answer.tables else State.FAILED
            answer.error_code, answer.message = type(error).__name__, str(error)
        finally:
            answer.requests = self.requests

    async def _ask_days(self) -> pa.Table:
        tables: list[pa.Table] = []
        await self._ask_back(DAYS, self.days, tables)
        return pa.concat_tables(tables) if tables else CANDLES_SCHEMA.empty_table()

    async def _ask_back(
        self, interval: Interval, windows: Windows, tables: list[pa.Table], daily: pa.Table | None = None
    ) -> None:
        """Gather a contract's candles from its expiry backwards, as far as there may be any.

        Daily candles inside a window, older than all that it was answered with, make the answer doubtful: then the
        days before are asked by themselves. If they come now, the answer was cut short in silence; if not, the API has
        daily candles without minutes there.
        """
        known = [] if daily is None else days_of(daily)
        oldest = last = self.expiry
        doubted: tuple[Window, int] | None = None
        while True:
            window, table = await self._ask_window(interval, windows, last)
            if table.num_rows:
                tables.append(table)
            found = [day for day in days_of(table) if window.first <= day <= window.last]
            if found:
                oldest = found[0]
                self.minutes.seen(oldest)
                self.days.seen(oldest)
                if doubted is not None and doubted[0].first <= found[-1]:
                    windows.shortened(*doubted)
            withheld = [day for day in known if window.first <= day < min(oldest, last)]
            if withheld and (found or doubted is None):
                doubted, last = (window, len(found)), withheld[-1]
            elif windows.may_hold_more(window, oldest):
                last = window.before()
            else:
                return

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


def settle_empty(answer: Answer, days: pa.Table) -> None:
    """Give a contract without minutes its state: proven empty when it has no daily candles either."""
    answer.agrees = days.num_rows == 0
    if answer.agrees:
        answer.state = State.EMPTY_PROVEN
        return
    answer.state = State.PARTIAL
    answer.message = (
        f"The API has {days.num_rows} daily candles of this contract but no minutes: collect it again later."
    )


def days_of(table: pa.Table) -> list[date]:
    """Return the days in India on which a table of candles has rows, ascending."""
    local = pc.add(table.column("ts").cast(pa.timestamp("us")), INDIA)
    days: list[date] = pc.unique(local.cast(pa.date32(), safe=False)).sort().to_pylist()
    return days
