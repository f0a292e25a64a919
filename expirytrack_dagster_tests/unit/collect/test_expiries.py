"""Discovery: the dates as the API lists them, in the columns of the archive."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime

from expirytrack_dagster.collect.expiries import discover
from expirytrack_dagster.collect.tracking import Underlying

NIFTY = Underlying("NIFTY", "NSE_INDEX|Nifty 50")
NOW = datetime(2025, 9, 1, 12, tzinfo=UTC)


class Source:
    """Answers with these dates for NIFTY's key."""

    def __init__(self, *dates: date) -> None:
        """Take the dates."""
        self.dates = dates

    async def get_expiries(self, instrument_key: str) -> list[date]:
        """Return the dates."""
        assert instrument_key == NIFTY.instrument_key
        return [*self.dates]


def test_dates_are_sorted_and_carry_the_moment() -> None:
    """One request; ascending dates whatever the order received, each with symbol, key and the given moment in UTC."""
    found = asyncio.run(discover(Source(date(2025, 8, 28), date(2025, 8, 21)), NIFTY, NOW))
    assert found.dates == [date(2025, 8, 21), date(2025, 8, 28)]
    assert found.requests == 1
    assert found.frame["expiry"].tolist() == found.dates
    assert set(found.frame["underlying_key"]) == {NIFTY.instrument_key}
    assert found.frame["discovered_at"].tolist() == [NOW, NOW]


def test_no_dates_are_an_answer() -> None:
    """An empty list gives an empty frame of the same columns and types."""
    empty = asyncio.run(discover(Source(), NIFTY, NOW)).frame
    full = asyncio.run(discover(Source(date(2025, 8, 28)), NIFTY, NOW)).frame
    assert len(empty) == 0
    assert empty.dtypes.to_dict() == full.dtypes.to_dict()
