"""What names a process among all that this machine will ever have, and whether it still lives.

A number alone would not do: it is given again. Only this belongs here; who writes such a name down, and what a process
that has ended means, is up to the rooms that use it.
"""

from __future__ import annotations

import os

import psutil

_BEAT = 1.0
"""Seconds by which two readings of the time at which a process began may differ."""


def this_process() -> str:
    """Return what names this process among all that this machine will ever have: its number and when it began."""
    return f"{os.getpid()} since {psutil.Process().create_time():.0f}"


def is_alive(process: str) -> bool:
    """Say whether the process of this name has not ended; one that has, and is not buried by its parent, has."""
    number, _, began = process.partition(" since ")
    try:
        found = psutil.Process(int(number))
        return abs(found.create_time() - float(began)) <= _BEAT and found.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:  # another user's, of which no more can be known than that it is there
        return True
