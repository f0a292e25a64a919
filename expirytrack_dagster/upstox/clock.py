"""Time as the rate limiter and the retries see it, behind a protocol so that tests need not wait.

Only reading the time and sleeping belong here; nothing else in this room asks the operating system for either.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import NamedTuple, Protocol

from expirytrack_dagster.processes import this_boot

_ITSELF = uuid.uuid4().hex
"""What names the boot where the system does not: this process, which stands for itself."""


class Clock(Protocol):
    """Where `now` comes from and how waiting is done."""

    def now(self) -> float:
        """Return seconds since the epoch, comparable between processes."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after that many seconds of this clock."""
        ...


class Uptime(NamedTuple):
    """Seconds that nobody can set: two of them may be compared if they are of the same boot."""

    boot: str
    seconds: float


class SystemClock:
    """The machine's wall clock: the only one that processes and restarts share."""

    def now(self) -> float:
        """Return seconds since the epoch."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """Sleep in the running event loop."""
        await asyncio.sleep(seconds)


def system_uptime() -> Uptime:
    """Return the machine's uptime, on Linux with the time that it slept."""
    counts_sleep = getattr(time, "CLOCK_BOOTTIME", None)
    return Uptime(
        this_boot() or _ITSELF, time.monotonic() if counts_sleep is None else time.clock_gettime(counts_sleep)
    )
