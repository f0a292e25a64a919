"""The token bucket that spreads requests within the shortest window, so that they do not leave as one burst.

The windows alone would let 50 requests go in the same millisecond. Only the arithmetic of the bucket belongs here; its
one number, the instant at which it is full again, is shared by all processes in the state database (`scopes.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

_INSTANT = 1e-6  # seconds; less than this cannot be slept, nor told apart in seconds since the epoch


@dataclass(frozen=True, slots=True)
class Bucket:
    """Holds up to `depth` tokens; a new one comes every `interval` seconds, and each request takes one.

    An empty bucket is full again after `depth * interval`. So the level is known from one instant, `full_at`: it is
    full from then on, and before it misses one token an interval.
    """

    interval: float
    depth: int

    def seconds_to_token(self, full_at: float, now: float) -> float:
        """Return how long to wait for a token, 0 if there is one.

        No bucket can miss more than all its tokens: a later `full_at`, left by a clock that jumped back, counts as
        empty.
        """
        missing = min(full_at - now, self.depth * self.interval)
        wait = missing - (self.depth - 1) * self.interval
        return wait if wait > _INSTANT else 0.0

    def without_token(self, full_at: float, now: float) -> float:
        """Return the instant at which the bucket is full again, when a token is taken now."""
        return max(now, min(full_at, now + (self.depth - 1) * self.interval)) + self.interval
