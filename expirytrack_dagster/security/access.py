"""Who may read what this program keeps below the home: its owner alone, 0700 for folders and 0600 for files.

What our processes and their children make is closed from the start, by their umask. What is open all the same (made by
another program, copied, unpacked) is closed when a command starts or Dagster loads the project, with a sentence; where
it cannot be closed, nothing goes on. Only what this program makes is ever touched: a home may be set by mistake to a
folder that holds other things. Windows keeps a user's folders from others by the rights that they inherit, so there
nothing is done. Files that hold secrets are looked at once more each time they are read (`private_files.py`).
"""

from __future__ import annotations

import os
import stat
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from expirytrack_dagster.address import NAMES
from expirytrack_dagster.errors import UnsafeFile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from expirytrack_dagster.settings import Settings

OURS = (
    *(f"{name}*" for name in NAMES.values()),
    *(
        "lake",
        "lake.tmp-*",
        "published.tmp-*",
        "state.sqlite*",
        "audit.*",
        "vault.*",
        "keys",
        "backup.lock",
        "backups",
        "snapshot",
    ),
    *("cache", "staging", "reports", "dagster", "logs", "published", "parquet_archive"),
    *("expirytrack.toml", "workspace.yaml"),
)
"""What this program makes in a home; the archive is there unless the settings name another place."""

_OF_THE_PROJECT = {"README.md", ".gitignore"}  # beside it in ./data, where the sources lie
_OTHERS = 0o077


def close_what_is_made() -> None:
    """Let this process and those that it starts make files and folders for their owner alone."""
    if os.name == "posix":
        os.umask(_OTHERS)


def close_home(settings: Settings) -> list[str]:
    """Close to other users what this program has made in the home, and return a sentence if any of it was open.

    The home itself is closed too, unless it holds other things. Looked at is what lies in the home directly; where that
    is open, what lies below as well. A link is neither followed nor changed.

    Raises:
        UnsafeFile: something belongs to another user, or lies on a disk without rights and the settings forbid that.
    """
    if os.name != "posix" or settings.open_home or not settings.home.is_dir():
        return []
    opened = [path for path in _made_by_us(settings.home) if _is_open(path)]
    found = [path for top in opened for path in ([top] if top == settings.home else _everything(top)) if _is_open(path)]
    for path in found:
        try:
            path.chmod(stat.S_IMODE(path.lstat().st_mode) & ~_OTHERS)
        except FileNotFoundError:
            continue  # gone since it was listed
        except OSError as error:
            raise _not_closed(path, error.strerror or str(error)) from error
        if _is_open(path):
            raise _not_closed(path, "its disk keeps no rights")
    if not found:
        return []
    sentence = (
        f"{settings.home} was open to other users ({len(found):,} files and folders); it is closed now. If others use "
        "this machine, get a new token and run 'expirytrack keys rotate'."
    )
    return [sentence]


def _made_by_us(home: Path) -> list[Path]:
    inside = sorted(home.iterdir())
    ours = [path for path in inside if any(fnmatch(path.name, name) for name in OURS)]
    foreign = {path.name for path in inside} - {path.name for path in ours} - _OF_THE_PROJECT
    return ours if foreign or not ours else [home, *ours]


def _not_closed(path: Path, reason: str) -> UnsafeFile:
    return UnsafeFile(
        f"{path} is open to other users and cannot be closed ({reason}): use a home on another disk, or set "
        "EXPIRYTRACK_OPEN_HOME=on where nobody else uses this machine."
    )


def _is_open(path: Path) -> bool:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return False
    return not stat.S_ISLNK(mode) and bool(mode & _OTHERS)


def _everything(top: Path) -> Iterator[Path]:
    yield top
    for folder, folders, files in os.walk(top):
        yield from (Path(folder) / name for name in (*folders, *files))
