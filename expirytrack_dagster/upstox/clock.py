"""Time as the rate limiter and the retries see it, behind a protocol so that tests need not wait.

Only reading the time and sleeping belong here; nothing else in this room asks the operating system for either.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from functools import cache
from pathlib import Path
from typing import NamedTuple, Protocol


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
    return Uptime(_boot(), time.monotonic() if counts_sleep is None else time.clock_gettime(counts_sleep))


@cache
def _boot() -> str:
    """Return what names this boot for all processes, or where there is no such name, for this process alone."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return uuid.uuid4().hex
