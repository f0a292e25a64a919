"""Where DuckDB puts what does not fit into its memory: a folder for each database that is open, beside the archive.

DuckDB names these files the same everywhere, and two processes that spill into one folder overwrite each other's and
crash (seen with 1.5: both end with SIGSEGV, readers of one file too). It makes the folder when it first spills, and
removes it when the database is closed.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from pathlib import Path

Settings: TypeAlias = "dict[str, str | bool | int | float | list[str]]"
"""Of DuckDB, as it takes them."""

_LEFT = 86_400.0
"""Seconds after which a folder in which nothing was made any more is that of a process that was killed."""


def spilling(archive: Path) -> Settings:
    """Return the setting with which a database in memory spills beside this file or folder.

    What killed processes have left there is removed.
    """
    return _beside(archive, _new())


def spilling_of_file(archive: Path) -> Settings:
    """Return the same for the file itself, which is one database to all connections of this process."""
    return _beside(archive, _of_process(os.getpid()))


def spilling_safely(archive: Path) -> Settings:
    """Return what `spilling` does, so that it is encrypted; it needs `encryption.load_extension`."""
    return {**spilling(archive), "temp_file_encryption": "true"}


def _beside(archive: Path, name: str) -> Settings:
    with suppress(OSError):
        for left in archive.parent.glob(f"{archive.name}.tmp-*"):
            if left.stat().st_mtime < time.time() - _LEFT:
                shutil.rmtree(left, ignore_errors=True)
    return {"temp_directory": f"{archive}.tmp-{name}"}


def _new() -> str:
    return uuid.uuid4().hex[:12]


@cache
def _of_process(pid: int) -> str:
    """Return a name that a fork does not share."""
    return f"{pid}-{_new()}"
