"""How wide a span of days one request may ask for.

The API documents no limit for expired candles, but knows UDAPI1148 for a span that it finds too wide. So the first
window is as wide as the longest life of an Indian contract (five years); each refusal halves it. A server may also
shorten a wide window without an error; the first contract of a cell finds that out. What was learned is kept in the
state database for every later run. What is asked inside a window is `contract.py`'s business.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import select

from expirytrack_dagster.state.tables import learned, put

if TYPE_CHECKING:
    from expirytrack_dagster.state import StateDatabase

REACH = timedelta(days=10)
"""Older bars are looked for until nothing is found for longer than this: the longest run of exchange holidays, weekends
included, is well below ten days. So an empty window proves nothing when it is as narrow as a weekend."""


@dataclass(frozen=True, slots=True)
class Window:
    """Days asked for at once, both ends inclusive."""

    first: date
    last: date

    @property
    def width(self) -> int:
        """Number of days."""
        return (self.last - self.first).days + 1

    def reached_by(self, oldest: date) -> bool:
        """Say whether there may be older bars before the window, when the oldest one known lies on this day."""
        return oldest - self.first <= REACH

    def before(self) -> date:
        """Return the day on which the next older window ends."""
        return self.first - timedelta(days=1)


class Windows:
    """The width to ask for, in days; shared by all requests of an interval in a cell, and remembered."""

    def __init__(self, state: StateDatabase, widest: int, interval: str = "1minute") -> None:
        """Start from what an earlier run has learned, but never wider than `widest` days."""
        self._state = state
        self._name = f"window_days/{interval}"
        rows = state.query(select(learned.c.value).where(learned.c.name == self._name))
        self.days = min(widest, int(rows[0][0])) if rows else widest
        self.born = date.max

    def seen(self, day: date) -> None:
        """Note that some contract of the cell had a candle on this day; `born` is the oldest such day.

        Contracts that traded seldom are asked back to that day, however narrow the windows and long the pauses.
        """
        self.born = min(self.born, day)

    def may_hold_more(self, window: Window, oldest: date) -> bool:
        """Say whether a contract may have bars before this window, when its oldest one known lies on `oldest`."""
        return window.reached_by(oldest) or self.born < window.first

    def ending(self, last: date) -> Window:
        """Return the window of the present width that ends on this day."""
        return Window(last - timedelta(days=self.days - 1), last)

    def refused(self, window: Window) -> bool:
        """Note that the API found this window too wide; return False when it cannot be made any narrower.

        Several requests may be refused at once: only the first of them narrows the width.
        """
        if window.width <= 1:
            return False
        if window.width <= self.days:
            self._narrow(window.width // 2)
        return True

    def shortened(self, window: Window, days: int) -> None:
        """Note that the API answered this window with so many days of trading only, without saying so.

        A window of as many calendar days cannot hold more of them, so the width is safe whatever the API counts.
        Windows wider than the present width tell nothing new.
        """
        if window.width <= self.days and 1 <= days < self.days:
            self._narrow(days)

    def _narrow(self, days: int) -> None:
        self.days = days
        found = {"value": str(days), "learned_at": self._state.now()}
        self._state.write(lambda connection: put(connection, learned, {"name": self._name}, found))
