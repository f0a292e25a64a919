"""Time as the rate limiter and the retries see it, behind a protocol so that tests need not wait.

Only reading the time and sleeping belong here; nothing else in this room asks the operating system for either.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Where `now` comes from and how waiting is done."""

    def now(self) -> float:
        """Return seconds since the epoch, comparable between processes."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after that many seconds of this clock."""
        ...


class SystemClock:
    """The machine's wall clock: the only one that processes and restarts share."""

    def now(self) -> float:
        """Return seconds since the epoch."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """Sleep in the running event loop."""
        await asyncio.sleep(seconds)
