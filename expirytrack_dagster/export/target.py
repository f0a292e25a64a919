"""Where an export goes: a folder or a zip file that appears whole, or not at all.

Everything is written into a folder beside the target with a name of its own, which takes the target's place when all
is done. What a killed program left is cleared away by the next export to the same target. Only an export may be
replaced, never a folder with anything else in it.
"""

from __future__ import annotations

import os
import re
import shutil
import zipfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psutil

from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.export.manifest import is_export
from expirytrack_dagster.export.written import writing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PACKED_ALREADY = {".parquet", ".feather", ".zip"}


def check_target(target: Path, *, overwrite: bool) -> Path:
    """Return the target as a full path.

    Raises:
        ConfigurationError: it climbs out of the present folder by `..`, stands already and may not be replaced, or is
            no export.
    """
    if not target.is_absolute() and os.path.relpath(target).startswith(".."):
        raise ConfigurationError(f"{target} leads out of the present folder: give the full path if that is meant.")
    target = target.absolute()
    if os.path.lexists(target):
        if not _is_empty_folder(target) and not is_export(target):
            raise ConfigurationError(
                f"{target} exists and is no export of ExpiryTrack, or holds other things too: choose another place."
            )
        if not overwrite:
            raise ConfigurationError(f"{target} exists: give --overwrite to replace it, or choose another place.")
    return target


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield an empty folder; what it holds when the block ends well becomes the target.

    A target whose name ends in `.zip` becomes one zip file. When the block fails, what stood there is unchanged.

    Raises:
        StorageError: the files cannot be put there.
    """
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _clear_leftovers(target)
        folder = target.with_name(f".{target.name}.{os.getpid()}.part")
        folder.mkdir()
    try:
        yield folder
        with writing(target):
            if target.suffix == ".zip":
                packed = target.with_name(f".{target.name}.{os.getpid()}.part.zip")
                try:
                    _pack(folder, packed)
                    packed.replace(target)
                finally:
                    packed.unlink(missing_ok=True)
            else:
                _exchange(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _exchange(folder: Path, target: Path) -> None:
    """Put the folder in the target's place; a folder cannot replace another in one step, so the old one steps aside."""
    if not target.exists():
        folder.rename(target)
        return
    aside = target.with_name(f".{target.name}.{os.getpid()}.old")
    target.rename(aside)
    try:
        folder.rename(target)
    except OSError:
        aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _pack(folder: Path, packed: Path) -> None:
    """Move all files into a zip, one at a time, so that no more room is needed than for the largest."""
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=3) as archive:
        for path in sorted(each for each in folder.rglob("*") if each.is_file()):
            kind = zipfile.ZIP_STORED if path.suffix in _PACKED_ALREADY else zipfile.ZIP_DEFLATED
            archive.write(path, path.relative_to(folder).as_posix(), kind)
            path.unlink()


def _is_empty_folder(target: Path) -> bool:
    return target.is_dir() and not target.is_symlink() and not any(target.iterdir())


def _clear_leftovers(target: Path) -> None:
    """Remove what exports to this target left whose process is gone; put an old export back that had stepped aside."""
    left = re.compile(rf"\.{re.escape(target.name)}\.(\d+)\.(part|old|part\.zip)")
    for path in target.parent.iterdir():
        found = left.fullmatch(path.name)
        if found is None or psutil.pid_exists(int(found[1])):
            continue
        if found[2] == "old" and not target.exists():
            path.rename(target)
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
