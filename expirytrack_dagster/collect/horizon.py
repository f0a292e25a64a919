"""How far back the API's list of expiries reaches, and which dates are about to leave it.

Upstox promises six months; reports show a fixed floor that is older. So nothing is assumed: every list is remembered,
and a date that has left at the old end shows the reach. While none has, the floor is fixed as far as anyone can know,
and nothing is about to leave. What becomes of that is decided elsewhere: the order of the work in `due.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import func, insert, select, update

from expirytrack_dagster.ist import IST
from expirytrack_dagster.quality.outcome import plural
from expirytrack_dagster.state.tables import listings as _LISTINGS  # noqa: N812 -- a table, beside the function

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import Connection

    from expirytrack_dagster.state import StateDatabase

_ROW = _LISTINGS.c


@dataclass(frozen=True, slots=True)
class Listing:
    """What the API's lists have said of one date; days are in India, `gone` is None while it is listed."""

    underlying: str
    expiry: date
    first: date
    last: date
    gone: date | None


@dataclass(frozen=True, slots=True)
class Leaving:
    """A cell that leaves the API's list on or soon after `on`, `missing` of whose contracts are not final.

    `missing` is None when the cell's contracts were never asked for.
    """

    underlying: str
    expiry: date
    on: date
    missing: int | None

    @property
    def sentence(self) -> str:
        """What is at stake and what to do, in one sentence."""
        lost = "all its contracts" if self.missing is None else plural(self.missing, "contract")
        return (
            f"{self.underlying} {self.expiry} may leave Upstox's list on {self.on} with {lost} missing. "
            f"Run: expirytrack collect {self.underlying} --expiry {self.expiry}"
        )


def record_list(state: StateDatabase, underlying: str, dates: Iterable[date], now: datetime) -> list[date]:
    """Remember what the API lists for an underlying at this moment, and return the dates that it lists no more."""
    at, listed = state.now(now.timestamp()), [day.isoformat() for day in dates]

    def work(connection: Connection) -> list[str]:
        known = set(connection.execute(select(_ROW.expiry).where(_ROW.underlying == underlying)).scalars())
        again = update(_LISTINGS).where(_ROW.underlying == underlying, _ROW.expiry.in_(listed))
        connection.execute(again.values(last_at=at, gone_at=None))
        new = [
            {"underlying": underlying, "expiry": day, "first_at": at, "last_at": at}
            for day in dict.fromkeys(listed)
            if day not in known
        ]
        if new:
            connection.execute(insert(_LISTINGS), new)
        missed = update(_LISTINGS).where(_ROW.underlying == underlying, _ROW.last_at < at, _ROW.gone_at.is_(None))
        return [*connection.execute(missed.values(gone_at=at).returning(_ROW.expiry)).scalars()]

    return sorted(date.fromisoformat(day) for day in state.write(work))


def listings(state: StateDatabase) -> list[Listing]:
    """Return everything that was ever listed, by underlying and date."""
    rows = state.query(select(_LISTINGS).order_by(_ROW.underlying, _ROW.expiry))
    return [
        Listing(name, date.fromisoformat(day), _day(first), _day(last), None if gone is None else _day(gone))
        for name, day, first, last, gone in rows
    ]


def last_listed(state: StateDatabase) -> dict[str, datetime]:
    """Return when each underlying's list was last answered."""
    last = func.max(func.coalesce(_ROW.gone_at, _ROW.last_at))
    rows = state.query(select(_ROW.underlying, last).group_by(_ROW.underlying))
    return {name: datetime.fromtimestamp(at, IST) for name, at in rows}


def is_withdrawn(state: StateDatabase, underlying: str, expiry: date) -> bool:
    """Say whether the API listed the date once and lists it no more."""
    cell = (_ROW.underlying == underlying, _ROW.expiry == expiry.isoformat())
    rows = state.query(select(_ROW.gone_at).where(*cell))
    return bool(rows) and rows[0][0] is not None


def withdrawn(known: Iterable[Listing]) -> set[tuple[str, date]]:
    """Return the cells that the API listed once and lists no more: asking for them would say nothing."""
    return {(listing.underlying, listing.expiry) for listing in known if listing.gone is not None}


def reach(known: Sequence[Listing]) -> timedelta | None:
    """Return for how long after its date an expiry stays listed at least; None while the floor does not move.

    The newest date that left at the old end of its list shows it: so old it was when it was last listed, and no older
    than when it was missed. A date that is listed at that age all the same says that the floor has only been moved
    once, and is fixed again. One window serves all underlyings: Upstox speaks of one.
    """
    oldest: dict[str, date] = {}
    for listing in known:
        if listing.gone is None:
            oldest[listing.underlying] = min(listing.expiry, oldest.get(listing.underlying, listing.expiry))
    left = [
        listing
        for listing in known
        if listing.gone is not None and listing.expiry < oldest.get(listing.underlying, listing.expiry)
    ]
    if not left:
        return None
    newest = max(left, key=lambda listing: (listing.gone or date.min, listing.expiry))
    still = [listing.last - listing.expiry for listing in known if listing.gone is None]
    shown = max(newest.last - newest.expiry, *still)
    missed = (newest.gone or newest.last) - newest.expiry
    return shown if shown < missed else None


def leaves_on(expiry: date, window: timedelta | None) -> date | None:
    """Return the first day on which the date may no longer be listed; None where nothing leaves."""
    return None if window is None else expiry + window + timedelta(days=1)


def _day(seconds: float) -> date:
    return datetime.fromtimestamp(seconds, IST).date()
