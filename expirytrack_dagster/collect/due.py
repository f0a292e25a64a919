"""Which cells have to be asked now, and in which order.

A cell is due while the API lists it and a contract of it is not final. What is about to leave the list goes first,
the earliest first; then the newest expiry, because that is what its users wait for. What a cell costs is `plan.py`'s
business, what is about to leave `horizon.py`'s; who runs them, the sensors and `expirytrack collect`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING

import pandas as pd

from expirytrack_dagster.collect.horizon import Leaving, leaves_on, reach, withdrawn

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from expirytrack_dagster.collect.horizon import Listing

FIRST_PAUSE = timedelta(minutes=10)
LONGEST_PAUSE = timedelta(hours=6)
"""How long an automatic collection leaves a cell alone after it was tried in vain; each further time doubles it."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell that the API has listed; counts are contracts, all 0 before its list was asked for.

    `stuck` are those that were answered, but not in full (partial or refused). `leaves` is the first day on which the
    cell may no longer be listed, None where nothing leaves.
    """

    underlying: str
    expiry: date
    contracts: int
    final: int
    stuck: int
    sealed: bool
    listed: bool
    leaves: date | None

    @property
    def key(self) -> tuple[str, date]:
        """What names the cell."""
        return self.underlying, self.expiry

    @property
    def is_open(self) -> bool:
        """Something of it is missing, and the API can still be asked."""
        return self.listed and not self.sealed

    @property
    def waits_for_the_api(self) -> bool:
        """All that is missing was asked and not given in full: asking again the same day would be a waste."""
        return self.is_open and self.stuck > 0 and self.final + self.stuck == self.contracts

    @property
    def is_due(self) -> bool:
        """Something of it was never asked for, or got no answer."""
        return self.is_open and not self.waits_for_the_api

    def is_leaving(self, today: date, warning: timedelta) -> bool:
        """Say whether it may leave the list within so many days."""
        return self.leaves is not None and self.leaves - today <= warning


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run of a cell; `ended` is seconds since the epoch, None while it waits or works."""

    run_id: str
    ended: float | None


def survey(cells: pd.DataFrame, known: Sequence[Listing]) -> list[Cell]:
    """Join what the archive holds with what the API lists.

    Args:
        cells: the columns of `warehouse.reader.cells`.
        known: everything that was ever listed.
    """
    window, gone = reach(known), withdrawn(known)
    columns = ["underlying", "expiry", "contracts", "complete", "empty_proven", "partial", "refused", "sealed"]
    days = pd.to_datetime(cells["expiry"]).dt.date
    rows = cells.assign(expiry=days)[columns].itertuples(index=False, name=None)
    return [
        Cell(
            underlying=underlying,
            expiry=expiry,
            contracts=int(contracts),
            final=int(complete + proven),
            stuck=int(partial + refused),
            sealed=bool(sealed),
            listed=(underlying, expiry) not in gone,
            leaves=leaves_on(expiry, window),
        )
        for underlying, expiry, contracts, complete, proven, partial, refused, sealed in rows
    ]


def ordered(cells: Iterable[Cell], today: date, warning: timedelta) -> list[Cell]:
    """Put cells in the order in which they are collected: what leaves the list soon by its day, then newest first."""

    def rank(cell: Cell) -> tuple[bool, int, str, date]:
        leaving = cell.is_leaving(today, warning)
        day = cell.leaves.toordinal() if leaving and cell.leaves else -cell.expiry.toordinal()
        return not leaving, day, cell.underlying, cell.expiry

    return sorted(cells, key=rank)


def about_to_leave(cells: Iterable[Cell], today: date, warning: timedelta) -> list[Leaving]:
    """Return the open cells that may leave the list within so many days, the most urgent first."""
    urgent = [cell for cell in cells if cell.is_open and cell.is_leaving(today, warning)]
    return [
        Leaving(cell.underlying, cell.expiry, cell.leaves, cell.contracts - cell.final if cell.contracts else None)
        for cell in ordered(urgent, today, warning)
        if cell.leaves
    ]


def ready_at(attempts: Collection[Attempt]) -> float | None:
    """Return from when on a cell that is still due may be tried again, None while it is being tried.

    Args:
        attempts: its runs of the last day.
    """
    ends = [attempt.ended for attempt in attempts if attempt.ended is not None]
    if len(ends) < len(attempts):
        return None
    if not ends:
        return 0.0
    pause = min(FIRST_PAUSE * 2.0 ** min(len(ends) - 1, 10), LONGEST_PAUSE)
    return max(ends) + pause.total_seconds()


def affordable(costs: Sequence[int], free: int, places: int) -> int:
    """Return how many cells, taken in this order, may be started now.

    The first one may cost more than is free, because a cell waits for the windows inside its run; but it starts only
    when something is free at all.

    Args:
        costs: requests of each cell, in order.
        free: requests that the longest window still has room for, less what runs under way will need.
        places: how many more runs may wait or work.
    """
    started = 0
    for cost in costs[: max(places, 0)]:
        if free <= 0 or (started and cost > free):
            break
        free -= cost
        started += 1
    return started
