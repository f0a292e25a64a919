"""The manifest of an export: what was chosen, and of each file its rows, its size and its SHA-256.

It is written last and lies beside the files, so that whoever receives them can prove that they are whole.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

import msgspec

from expirytrack_dagster.errors import ConfigurationError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1
"""Of the files and columns of all formats: it grows when one of them is renamed, dropped or changes its meaning."""


class File(msgspec.Struct, frozen=True):
    """A file of an export."""

    path: str
    rows: int
    bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True):
    """What an export is; `about` says of which program, when, and what was chosen."""

    schema_version: int
    about: dict[str, Any]
    cells: list[dict[str, Any]]
    files: list[File]


@dataclass(frozen=True, slots=True)
class Checked:
    """What became of a check: how much was read, and what is wrong, in sentences."""

    files: int
    rows: int
    problems: list[str] = field(default_factory=list)


def seal(folder: Path, rows: Mapping[str, int], about: dict[str, Any], cells: list[dict[str, Any]]) -> Manifest:
    """Write the manifest of a folder and return it.

    Args:
        folder: the export.
        rows: of every file, by its path in the folder.
        about: what was chosen, as JSON takes it.
        cells: one entry a cell, as JSON takes it.
    """
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    files = [_file(path, path.relative_to(folder).as_posix(), rows) for path in found]
    manifest = Manifest(SCHEMA_VERSION, about, cells, files)
    text = json.dumps(msgspec.to_builtins(manifest), indent=1)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8", newline="\n")
    return manifest


def check(target: Path, progress: Callable[[int, int], None] = lambda _done, _all: None) -> Checked:
    """Prove an export, a folder of exports or a zip file from its manifests.

    Args:
        target: where it lies.
        progress: told how many files are read, and how many there are, of each manifest.

    Raises:
        ConfigurationError: there is no manifest.
        StorageError: it cannot be read.
    """
    checks: list[tuple[str, _Folder | _Zip]] = []
    with ExitStack() as stack:
        if target.is_dir():
            manifests = sorted(target.rglob(MANIFEST))
            checks += [(path.parent.relative_to(target).as_posix(), _Folder(path.parent)) for path in manifests]
        elif zipfile.is_zipfile(target):
            checks.append((".", _Zip(stack.enter_context(zipfile.ZipFile(target)))))
        if not checks or not all(MANIFEST in source.names() for _, source in checks):
            raise ConfigurationError(f"{target} has no {MANIFEST}: it is no export of ExpiryTrack.")
        results = [_check(source, "" if where == "." else f"{where}/", progress) for where, source in checks]
    return Checked(
        sum(result.files for result in results),
        sum(result.rows for result in results),
        [problem for result in results for problem in result.problems],
    )


def is_export(target: Path) -> bool:
    """Say whether a folder or a zip file is an export and nothing else lies in it; the files are not read."""
    if target.is_symlink() or not (target.is_dir() or zipfile.is_zipfile(target)):
        return False
    with ExitStack() as stack:
        source = _Folder(target) if target.is_dir() else _Zip(stack.enter_context(zipfile.ZipFile(target)))
        present = source.names()
        if MANIFEST not in present:
            return False
        try:
            with source.open(MANIFEST) as opened:
                manifest = msgspec.json.decode(opened.read(), type=Manifest)
        except (msgspec.MsgspecError, zipfile.BadZipFile, OSError):
            return False
    return present <= {MANIFEST, *(file.path for file in manifest.files)}


def _check(source: _Folder | _Zip, where: str, progress: Callable[[int, int], None]) -> Checked:
    try:
        with source.open(MANIFEST) as opened:
            manifest = msgspec.json.decode(opened.read(), type=Manifest)
    except msgspec.MsgspecError as error:
        return Checked(0, 0, [f"{where}{MANIFEST} cannot be read ({error})"])
    except OSError as error:
        raise StorageError(f"{where}{MANIFEST} cannot be read: {error}.") from error
    if manifest.schema_version > SCHEMA_VERSION:
        return Checked(0, 0, [f"{where}{MANIFEST} is of a newer version of ExpiryTrack"])
    present = source.names()
    problems = []
    for done, file in enumerate(manifest.files):
        progress(done, len(manifest.files))
        if not _is_inside(file.path):
            problems.append(f"{where}{MANIFEST} names {file.path!r}, which lies outside")
        elif file.path not in present:
            problems.append(f"{where}{file.path} is missing")
        elif (found := _digest(partial(source.open, file.path))) != (file.bytes, file.sha256):
            changed = "has changed" if found[0] == file.bytes else f"has {found[0]:,} bytes instead of {file.bytes:,}"
            problems.append(f"{where}{file.path} {changed}")
    extra = present - {file.path for file in manifest.files} - {MANIFEST}
    problems += [f"{where}{name} is not in the manifest" for name in sorted(extra)]
    return Checked(len(manifest.files), sum(file.rows for file in manifest.files), problems)


@dataclass(frozen=True, slots=True)
class _Folder:
    path: Path

    def names(self) -> set[str]:
        return {each.relative_to(self.path).as_posix() for each in self.path.rglob("*") if each.is_file()}

    def open(self, name: str) -> IO[bytes]:
        return (self.path / name).open("rb")


@dataclass(frozen=True, slots=True)
class _Zip:
    archive: zipfile.ZipFile

    def names(self) -> set[str]:
        return set(self.archive.namelist())

    def open(self, name: str) -> IO[bytes]:
        return self.archive.open(name)


def _file(path: Path, name: str, rows: Mapping[str, int]) -> File:
    size, digest = _digest(lambda: path.open("rb"))
    return File(name, rows[name], size, digest)


def _digest(opened: Callable[[], IO[bytes]]) -> tuple[int, str]:
    """Return size and SHA-256, read in pieces; a piece that a zip cannot unpack is like a changed file."""
    digest, size = hashlib.sha256(), 0
    try:
        with opened() as file:
            for piece in _pieces(file):
                digest.update(piece)
                size += len(piece)
    except zipfile.BadZipFile:
        return size, "damaged"
    return size, digest.hexdigest()


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    while piece := file.read(1 << 20):
        yield piece


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name and ":" not in name
