"""Rate limits as the sandbox enforces them: strict sliding windows, counted when a request arrives.

Belongs here: counting. What a refusal looks like is `server.py`'s affair. Upstox does not say whether its windows
slide; these are the strictest reading (docs/upstox-api.md), so a client that is never refused here is safe there.
"""

from __future__ import annotations

from collections import defaultdict, deque
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from expirytrack_dagster.settings import RateLimit


class Limiter:
    """Counts arrivals by key (a token, or a token and an endpoint); times are seconds of one steady clock."""

    def __init__(self, limits: Sequence[RateLimit]) -> None:
        """Start with empty windows; no limits means that nothing is refused."""
        self.limits = tuple(limits)
        self.violations = 0
        self._arrivals: defaultdict[str, list[float]] = defaultdict(list)
        # The newest arrivals that count, as many as a window allows: the oldest of a full one says when there is room.
        self._windows: defaultdict[str, tuple[deque[float], ...]] = defaultdict(
            lambda: tuple(deque(maxlen=limit.requests) for limit in self.limits)
        )

    def admit(self, key: str, now: float, *, count_refused: bool = False) -> float:
        """Count an arrival and return 0, or refuse it and return the seconds until there is room.

        A window holds the arrivals of `now - seconds < t <= now`. A refused arrival uses up no room unless
        `count_refused`.
        """
        self._arrivals[key].append(now)
        windows = self._windows[key]
        wait = max(
            (
                window[0] + limit.seconds - now
                for window, limit in zip(windows, self.limits, strict=True)
                if len(window) == limit.requests
            ),
            default=0.0,
        )
        refused = wait > 0
        self.violations += refused
        if not refused or count_refused:
            for window in windows:
                window.append(now)
        return max(wait, 0.0)

    def most_in_any_window(self) -> dict[str, int]:
        """Return, for each limit, the most arrivals (refused ones too) that any window of its width saw."""
        return {
            str(limit): max((_most(arrivals, limit.seconds) for arrivals in self._arrivals.values()), default=0)
            for limit in self.limits
        }


def _most(arrivals: list[float], seconds: float) -> int:
    times = np.array(arrivals)
    left = np.searchsorted(times, times - seconds, side="right")
    return int((np.arange(1, len(times) + 1) - left).max())
