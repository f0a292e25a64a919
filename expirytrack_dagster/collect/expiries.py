"""Discovery: the expiry dates of an underlying, always from the API and never computed from a weekday."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import pandas as pd

if TYPE_CHECKING:
    from datetime import date, datetime

    from expirytrack_dagster.collect.tracking import Underlying


class ExpirySource(Protocol):
    """The one call of the API client that discovery needs."""

    async def get_expiries(self, instrument_key: str) -> list[date]:
        """Return the expiry dates that the API lists."""
        ...


@dataclass(frozen=True, slots=True)
class Discovery:
    """What the API lists now.

    `frame` has the columns of the table `expiries`, one row a date; `dates` are the same dates.
    """

    frame: pd.DataFrame
    dates: list[date]
    requests: int = 1


async def discover(source: ExpirySource, underlying: Underlying, now: datetime) -> Discovery:
    """Ask once for the dates of an underlying; `now` (UTC) becomes `discovered_at`."""
    dates = sorted(await source.get_expiries(underlying.instrument_key))
    frame = pd.DataFrame(
        {
            "underlying": pd.Series([underlying.symbol] * len(dates), dtype="str"),
            "expiry": pd.Series(dates, dtype="object"),
            "underlying_key": pd.Series([underlying.instrument_key] * len(dates), dtype="str"),
            "discovered_at": pd.Series([now] * len(dates), dtype="datetime64[us, UTC]"),
        }
    )
    return Discovery(frame, dates)
