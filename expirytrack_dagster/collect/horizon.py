"""How far back the API's list of expiries reaches, and which dates are about to leave it.

Upstox promises six months; reports show a fixed floor that is older. So nothing is assumed: every list is remembered,
and a date that has left at the old end shows the reach. While none has, the floor is fixed as far as anyone can know,
and nothing is about to leave. What becomes of that is decided elsewhere: the order of the work in `due.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

from expirytrack_dagster.quality.outcome import plural
from expirytrack_dagster.quality.rules import IST

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from expirytrack_dagster.state import StateDatabase


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
    at, listed = now.timestamp(), [day.isoformat() for day in dates]
    with state.transaction() as connection:
        connection.executemany(
            "INSERT INTO listings (underlying, expiry, first_at, last_at) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (underlying, expiry) DO UPDATE SET last_at = excluded.last_at, gone_at = NULL",
            [(underlying, day, at, at) for day in listed],
        )
        gone = connection.execute(
            "UPDATE listings SET gone_at = ? WHERE underlying = ? AND last_at < ? AND gone_at IS NULL RETURNING expiry",
            (at, underlying, at),
        ).fetchall()
    return sorted(date.fromisoformat(day) for (day,) in gone)


def listings(state: StateDatabase) -> list[Listing]:
    """Return everything that was ever listed, by underlying and date."""
    rows = state.query("SELECT underlying, expiry, first_at, last_at, gone_at FROM listings ORDER BY 1, 2")
    return [
        Listing(name, date.fromisoformat(day), _day(first), _day(last), None if gone is None else _day(gone))
        for name, day, first, last, gone in rows
    ]


def last_listed(state: StateDatabase) -> dict[str, datetime]:
    """Return when each underlying's list was last answered."""
    rows = state.query("SELECT underlying, max(coalesce(gone_at, last_at)) FROM listings GROUP BY underlying")
    return {name: datetime.fromtimestamp(at, IST) for name, at in rows}


def is_withdrawn(state: StateDatabase, underlying: str, expiry: date) -> bool:
    """Say whether the API listed the date once and lists it no more."""
    rows = state.query(
        "SELECT gone_at FROM listings WHERE underlying = ? AND expiry = ?", (underlying, expiry.isoformat())
    )
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
