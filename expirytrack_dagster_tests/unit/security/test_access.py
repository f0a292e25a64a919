"""What other users can read of a home: nothing that this program has made, and nothing else is touched."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from expirytrack_dagster.address import FILE_KINDS, FileKind, standard
from expirytrack_dagster.errors import UnsafeFile
from expirytrack_dagster.security.access import close_home, close_what_is_made
from expirytrack_dagster.settings import load_settings

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Windows keeps other users out by inherited rights")


def mode(path: Path) -> int:
    """Return the permission bits."""
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def opened(home: Path) -> Path:
    """Return a home that everybody may read and some may write, as an archive that was copied without care."""
    (home / "staging" / "NIFTY").mkdir(parents=True)
    for name in ("expirytrack.duckdb", "state.sqlite", "audit.jsonl", "staging/NIFTY/batch-00001.parquet"):
        (home / name).touch()
        (home / name).chmod(0o666)
    for folder in (home, home / "staging", home / "staging" / "NIFTY"):
        folder.chmod(0o775)
    return home


def test_an_open_home_is_closed_with_a_sentence(opened: Path) -> None:
    """Every file and folder; the next time there is nothing to say."""
    (sentence,) = close_home(load_settings())
    assert sentence.startswith(f"{opened} was open to other users (7 files and folders); it is closed now.")
    for path in (opened, *opened.rglob("*")):
        assert mode(path) == (0o700 if path.is_dir() else 0o600), path
    assert close_home(load_settings()) == []


@pytest.mark.parametrize("kind", FILE_KINDS)
def test_every_kind_of_archive_is_closed(home: Path, kind: FileKind) -> None:
    """The file with its log, and the folder of a lake's files: an archive that was copied without care."""
    home.mkdir()
    file, files = standard(kind, home).path, home / "lake"
    if kind == "ducklake:sqlite":
        files.mkdir()
        (files / "candles.parquet").touch()
    for path in (file, file.with_name(f"{file.name}-wal")):
        path.touch()
    for path in (home, *home.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    assert "it is closed now" in close_home(load_settings())[0]
    assert {mode(path) & 0o077 for path in (home, *home.rglob("*"))} == {0}


def test_one_open_file_in_a_closed_home_is_closed(opened: Path) -> None:
    """A file that another program made."""
    close_home(load_settings())
    (opened / "state.sqlite").chmod(0o604)
    assert "(1 files and folders)" in close_home(load_settings())[0]
    assert mode(opened / "state.sqlite") == 0o600


def test_what_is_not_ours_is_left_alone(opened: Path) -> None:
    """A home that was set to a folder of other things: those, the folder itself, and what links lead to, stay open."""
    other, outside = opened / "letters", opened.parent / "outside"
    other.mkdir()
    other.chmod(0o755)
    outside.touch()
    outside.chmod(0o644)
    (opened / "audit.link").symlink_to(outside)
    (opened / "staging" / "link").symlink_to(outside)
    close_home(load_settings())
    assert (mode(opened), mode(other), mode(outside)) == (0o775, 0o755, 0o644)
    assert mode(opened / "state.sqlite") == 0o600


def test_a_folder_without_anything_of_ours_is_left_alone(home: Path) -> None:
    """Also an empty one, and one that is not there."""
    assert close_home(load_settings()) == []
    assert not home.exists()
    home.mkdir()
    (home / "letter").touch()
    home.chmod(0o755)
    (home / "letter").chmod(0o644)
    assert close_home(load_settings()) == []
    assert (mode(home), mode(home / "letter")) == (0o755, 0o644)


@pytest.mark.usefixtures("opened")
def test_what_cannot_be_closed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that keeps no rights, or a file of somebody else; who knows what they do may go on."""
    with monkeypatch.context() as patch:
        patch.setattr(Path, "chmod", lambda *_: None)
        with pytest.raises(UnsafeFile, match="cannot be closed \\(its disk keeps no rights\\)"):
            close_home(load_settings())
        patch.setenv("EXPIRYTRACK_OPEN_HOME", "on")
        assert close_home(load_settings()) == []

    def forbidden(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", forbidden)
    with pytest.raises(UnsafeFile, match="cannot be closed \\(Operation not permitted\\)"):
        close_home(load_settings())


def test_what_is_made_is_closed(tmp_path: Path) -> None:
    """By the umask, which children inherit."""
    before = os.umask(0o022)
    try:
        close_what_is_made()
        (tmp_path / "file").touch()
        (tmp_path / "folder").mkdir()
    finally:
        os.umask(before)
    assert (mode(tmp_path / "file"), mode(tmp_path / "folder")) == (0o600, 0o700)
