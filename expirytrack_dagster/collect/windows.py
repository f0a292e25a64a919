"""How wide a span of days one request may ask for.

The API documents no limit for expired candles, but knows UDAPI1148 for a span that it finds too wide. So the first
window is as wide as the longest life of an Indian contract (five years); each refusal halves it, and what was learned
is kept in the state database for every later run. What is asked inside a window is `contract.py`'s business.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING

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

    def reached_by(self, oldest: date) -> bool:
        """Say whether there may be older bars before the window, when the oldest one known lies on this day."""
        return oldest - self.first <= REACH

    def before(self) -> date:
        """Return the day on which the next older window ends."""
        return self.first - timedelta(days=1)


class Windows:
    """The width to ask for, in days; shared by all requests of an interval, and remembered."""

    def __init__(self, state: StateDatabase, widest: int, interval: str = "1minute") -> None:
        """Start from what an earlier run has learned, but never wider than `widest` days."""
        self._state = state
        self._name = f"window_days/{interval}"
        with state.transaction() as connection:
            row = connection.execute("SELECT value FROM learned WHERE name = ?", (self._name,)).fetchone()
        self.days = min(widest, int(row[0])) if row else widest

    def ending(self, last: date) -> Window:
        """Return the window of the present width that ends on this day."""
        return Window(last - timedelta(days=self.days - 1), last)

    def refused(self, window: Window) -> bool:
        """Note that the API found this window too wide; return False when it cannot be made any narrower.

        Several requests may be refused at once: only the first of them narrows the width.
        """
        width = (window.last - window.first).days + 1
        if width <= 1:
            return False
        if width <= self.days:
            self.days = width // 2
            with self._state.transaction() as connection:
                connection.execute(
                    "INSERT INTO learned (name, value, learned_at) VALUES (?, ?, ?) "
                    "ON CONFLICT (name) DO UPDATE SET value = excluded.value, learned_at = excluded.learned_at",
                    (self._name, str(self.days), time.time()),
                )
        return True
