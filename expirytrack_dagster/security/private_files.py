"""Small files that only their owner may read: written whole or not at all, refused when others had a way to them.

What is in them belongs to the modules that use them. Windows keeps a user's files from other users by the folder's own
rights, so there only the kind of the file is looked at.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from expirytrack_dagster.errors import DiskFull, StorageError, UnsafeFile

if TYPE_CHECKING:
    from pathlib import Path

_OTHERS = 0o077
# A link is not followed, in the moment of opening too; a pipe is not waited for; Windows must not turn line ends.
_EXACTLY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def read_private(path: Path) -> bytes | None:
    """Return what is in the file; None when there is none.

    Raises:
        UnsafeFile: it is a link or no plain file, belongs to another user, or others may read or change it.
        StorageError: it cannot be read.
    """
    try:
        if path.is_symlink():
            raise _link(path)
        descriptor = os.open(path, os.O_RDONLY | _EXACTLY)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _link(path) from None
        raise StorageError(f"{path} cannot be read: {error.strerror or error}.") from error
    try:
        _require_private(path, os.fstat(descriptor))
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def write_private(path: Path, content: bytes) -> None:
    """Put a file in place, readable by its owner alone; a process that dies on the way leaves the old one.

    Raises:
        UnsafeFile: a link stands in its place.
        DiskFull: there is no room.
        StorageError: the folder cannot be written.
    """
    if path.is_symlink():
        raise _link(path)
    unfinished = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _EXACTLY, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        except OSError:
            with suppress(OSError):
                unfinished.unlink()
            raise
        sync_folder(path.parent)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DiskFull(
                f"No room is left for {path}: free some space and try again; nothing was changed."
            ) from error
        raise StorageError(f"{path} cannot be written: {error.strerror or error}.") from error


def opener(path: str, flags: int) -> int:
    """Open a file for its owner alone; to be given to `open(..., opener=opener)`."""
    return os.open(path, flags, 0o600)


def make_folder(path: Path) -> Path:
    """Make a folder and those above it, closed to others, and return it; one that exists stays as it is."""
    for folder in reversed([path, *path.parents]):
        if not folder.exists():
            folder.mkdir(mode=0o700, exist_ok=True)
    return path


def sync_folder(folder: Path) -> None:
    """Let a new name in the folder survive a power cut; where a folder cannot be opened, the system sees to it."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _require_private(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise UnsafeFile(f"{path} is no plain file: remove it, or restore the file that belongs there.")
    if os.name == "nt":
        return
    if found.st_uid != os.geteuid():
        raise UnsafeFile(f"{path} belongs to another user: give it back to its owner, or run as that user.")
    if found.st_mode & _OTHERS:
        raise UnsafeFile(
            f"{path} is open to other users: see who used it, then run 'chmod 600' on it; nothing was changed."
        )


def _link(path: Path) -> UnsafeFile:
    return UnsafeFile(f"{path} is a link, which may lead anywhere: put the file itself there; nothing was changed.")
