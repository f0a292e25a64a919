"""Files and folders that nobody but their owner may read: how they are made, and put on disk for good.

POSIX modes are set where there are any; on Windows a profile's folders are closed to other users by its own rules.
What is checked and mended at start is `access.py`.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

FOLDER_MODE = 0o700
FILE_MODE = 0o600


def make_folder(path: Path) -> Path:
    """Make a folder and those above it, each closed to others, and return it; one that exists stays as it is."""
    for folder in reversed([path, *path.parents]):
        if not folder.exists():
            folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
    return path


def opener(path: str, flags: int) -> int:
    """Open a file for its owner alone; to be given to `open(..., opener=opener)`."""
    return os.open(path, flags, FILE_MODE)


def write_whole(path: Path, content: bytes) -> None:
    """Put a file at its place at once and whole: after a crash there is the old content or the new one, on disk.

    Raises:
        OSError: it could not be written; what stood there still does.
    """
    unfinished = path.with_name(f"{path.name}.unfinished")
    with open(unfinished, "wb", opener=opener) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Put on disk which names a folder holds; without effect where folders cannot be opened (Windows)."""
    with suppress(PermissionError):
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
