"""Which rows of a cell are wanted, as commands and charts say it; how they are found is `cell.py`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from expirytrack_dagster.errors import ConfigurationError

if TYPE_CHECKING:
    from datetime import date, time

DAY = 1440
"""Minutes of a day."""


class Interval(StrEnum):
    """Width of a bar, as Upstox names it; days are those of India."""

    MINUTE = "1minute"
    THREE = "3minute"
    FIVE = "5minute"
    FIFTEEN = "15minute"
    THIRTY = "30minute"
    HOUR = "60minute"
    DAY = "day"

    @property
    def minutes(self) -> int:
        """Its width in minutes."""
        return DAY if self is Interval.DAY else int(self.removesuffix("minute"))

    @property
    def words(self) -> str:
        """Its width in words, such as `5 minutes`."""
        return {1: "1 minute", DAY: "1 day"}.get(self.minutes, f"{self.minutes} minutes")


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows of a cell; everything by default.

    Days and times of day are India's and both ends are included. `at_the_money` keeps, on each day, the options whose
    strike was at most so many strikes away from the money at some minute of that day, for the whole of it; futures
    stay. Where no strike traded both its call and its put, a day has no option in it.
    """

    first_day: date | None = None
    last_day: date | None = None
    first_time: time | None = None
    last_time: time | None = None
    kinds: frozenset[str] = frozenset({"CE", "PE", "FUT"})
    lowest_strike: float | None = None
    highest_strike: float | None = None
    at_the_money: int | None = None
    interval: Interval = Interval.MINUTE

    def __post_init__(self) -> None:
        """Refuse what can choose nothing.

        Raises:
            ConfigurationError: a beginning lies after its end.
        """
        ends: tuple[tuple[Any, Any], ...] = (
            (self.first_day, self.last_day),
            (self.first_time, self.last_time),
            (self.lowest_strike, self.highest_strike),
        )
        for first, last in ends:
            if first is not None and last is not None and first > last:
                raise ConfigurationError(f"Nothing lies between {first} and {last}: the first comes after the last.")
