"""When a number of requests would be through, given how full the windows are now: the limiter's own arithmetic.

A request leaves as soon as every window and the token bucket have room, as in `ledger.py`, and is taken to be answered
at once: that is the earliest that any program could be through. Nothing is read or asked here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from expirytrack_dagster.settings import RateLimit
    from expirytrack_dagster.upstox.pacing import Bucket

_CYCLES = 3
"""Fillings of the widest window that are computed one by one; after that the pattern repeats."""


@dataclass(frozen=True)
class Forecast:
    """The state of a scope's limits at one moment; times are seconds since the epoch.

    `counted` are the newest requests by the time from which they count, ascending, as many as the widest window holds;
    `start` is when the next request may leave if no window holds it back; `paced_until` is the bucket's.
    """

    limits: tuple[RateLimit, ...]
    counted: tuple[float, ...]
    start: float
    bucket: Bucket | None = None
    paced_until: float = 0.0

    def finish(self, requests: int) -> float:
        """Return when the last of so many requests can leave."""
        if requests <= 0:
            return self.start
        times = self._departures
        if not self.limits or requests <= len(times):
            return times[requests - 1] if times else self.start
        period = max(limit.requests for limit in self.limits)
        beyond = requests - len(times)
        cycles = -(-beyond // period)
        return times[requests - 1 - cycles * period] + cycles * (times[-1] - times[-1 - period])

    def until(self, deadline: float) -> int:
        """Return how many requests can leave before the deadline."""
        low, high = 0, 1
        while self.finish(high) < deadline:
            if high > 1 << 40:  # no limits at all
                return high
            low, high = high, high * 2
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.finish(middle) < deadline else (low, middle)
        return low

    @cached_property
    def _departures(self) -> list[float]:
        known = len(self.counted)
        times = list(self.counted)
        paced, now = self.paced_until, self.start
        for _ in range(_CYCLES * max((limit.requests for limit in self.limits), default=0)):
            for limit in self.limits:
                if len(times) >= limit.requests:
                    now = max(now, times[-limit.requests] + limit.seconds)
            if self.bucket is not None:
                now += self.bucket.seconds_to_token(paced, now)
                paced = self.bucket.without_token(paced, now)
            times.append(now)
        return times[known:]
