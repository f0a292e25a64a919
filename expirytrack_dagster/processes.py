"""What names a process among all that the machines of a desk will ever have, and whether it still lives.

A number alone would not do: it is given again, and every machine and every container gives the same ones. Only this
belongs here; who writes such a name down, and what a process that has ended means, is up to the rooms that use it.
"""

from __future__ import annotations

import hashlib
import os
import platform
import uuid
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil

_BEAT = 1.0
"""Seconds by which two readings of the time of day at which a process began may differ."""
_INVENTED = 1 << 40
"""The bit of a network card's address that says that there is no such card, and that the rest is chance."""


def this_process() -> str:
    """Return what names this process among all there will ever be: its number, when it began, and its host."""
    return f"{os.getpid()} since {_beginning(psutil.Process())} on {this_host()}"


@cache
def this_boot() -> str | None:
    """Return what names this machine's start among all its starts, None where the system gives no such name."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:  # only Linux has it
        return None


@cache
def this_host() -> str:
    """Return the name of this machine or container, and a mark that tells it from others of the same name."""
    card = uuid.getnode()
    parts = [platform.node(), "" if card & _INVENTED else str(card)]
    with suppress(OSError):  # Linux alone; containers that share the machine's name and network number apart
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return f"{platform.node()}~{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:6]}"


def is_here(process: str) -> bool:
    """Say whether a process of this name is, or was, one of this host."""
    return _parts(process)[2] in {"", this_host()}


def host_of(process: str) -> str:
    """Return the name of a process's host, as people call it."""
    return (_parts(process)[2] or this_host()).rpartition("~")[0] or "a host without a name"


def is_alive(process: str) -> bool:
    """Say whether the process of this name has not ended; one that has, and is not buried by its parent, has.

    Of another host's no more can be known than that it was there; that counts as alive.
    """
    if not is_here(process):
        return True
    number, began, _ = _parts(process)
    try:
        found = psutil.Process(int(number))
        return _began(found, began) and found.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:  # another user's, of which no more can be known than that it is there
        return True


def _beginning(process: psutil.Process) -> str:
    """Return when a process began: on Linux in ticks since the machine's start, and which start; else the time of day.

    psutil's time of day is made of the same ticks, and moves with every step of the clock (proc(5), `starttime`).

    Raises:
        psutil.NoSuchProcess: it has ended.
    """
    if (boot := this_boot()) is None:
        return f"{process.create_time():.0f}"
    try:
        told = Path(f"/proc/{process.pid}/stat").read_bytes()
    except OSError:
        raise psutil.NoSuchProcess(process.pid) from None
    ticks = told.rpartition(b")")[2].split()[19]  # the field before is the program's name, which may be anything
    return f"{ticks.decode()}@{boot[:8]}"


def _began(process: psutil.Process, then: str) -> bool:
    """Say whether a process began then; other systems and earlier versions tell the time of day alone."""
    if "@" in then:
        return _beginning(process) == then
    return abs(process.create_time() - float(then)) <= _BEAT


def _parts(process: str) -> tuple[str, str, str]:
    """Return number, beginning and host; earlier versions named no host, and had but one."""
    number, _, rest = process.partition(" since ")
    began, _, host = rest.partition(" on ")
    return number, began, host
