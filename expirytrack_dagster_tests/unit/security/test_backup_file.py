"""The file of a backup: opened by its keys alone, refused whole when anything in it is not as it was written."""

from __future__ import annotations

import hashlib
import os
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expirytrack_dagster.errors import BackupRefused, ConfigurationError
from expirytrack_dagster.security import backup_file
from expirytrack_dagster.security.backup_file import Manifest, Openers, Part

KEY = bytes(range(32))
PASSPHRASE = "correct horse"
CONTENTS = {"state.sqlite": b"state", "reports/M&M/2025-08-21.json": b"{}", "dagster/.db": b"", "big": os.urandom(5000)}
NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)


def manifest(*parts: Part) -> Manifest:
    """Return a manifest of these parts."""
    return Manifest(
        made_at="2026-11-25T12:00:00+00:00",
        program="1",
        duckdb="1",
        schemas={},
        tables={},
        findings=[],
        audit_head="",
        encrypted=False,
        vault=b"secrets",
        parts=list(parts),
    )


def written(folder: Path, *, key: bytes = KEY, passphrase: str | None = None, at: datetime = NOON) -> Path:
    """Write a backup of four files, and return its path."""
    source = folder / "source"
    for name, content in CONTENTS.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(content)
    parts = [backup_file.describe(Path(name), source) for name in CONTENTS]
    path = folder / backup_file.name_of(at)
    backup_file.write(path, manifest(*parts), source, key, passphrase)
    return path


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a backup that opens with the key and with the passphrase."""
    return written(tmp_path_factory.mktemp("sound"), passphrase=PASSPHRASE)


def unpacked(path: Path, folder: Path, *openers: bytes | str) -> dict[str, bytes]:
    """Open a backup with these keys and passphrases, and return what came out of it."""
    keys = tuple(opener for opener in openers if isinstance(opener, bytes))
    phrases = tuple(opener for opener in openers if isinstance(opener, str))
    file_key = backup_file.unlock(path, Openers(keys, phrases))
    if file_key is None:
        raise BackupRefused("nothing opens it")
    folder.mkdir(exist_ok=True)
    assert backup_file.unpack(path, file_key, folder).vault == b"secrets"
    return {name.relative_to(folder).as_posix(): name.read_bytes() for name in folder.rglob("*") if name.is_file()}


@pytest.mark.parametrize("opener", [KEY, PASSPHRASE], ids=["key", "passphrase"])
def test_what_comes_out_is_what_went_in(sound: Path, tmp_path: Path, opener: bytes | str) -> None:
    """Either opener gives every file back, for the owner alone; nothing of the contents is readable in the file."""
    assert unpacked(sound, tmp_path / "new", opener) == CONTENTS
    assert not any(text in sound.read_bytes() for text in (b"state.sqlite", b"secrets", CONTENTS["big"][:20]))
    if os.name == "posix":
        found = [sound, *(path for path in (tmp_path / "new").rglob("*"))]
        assert {path.stat().st_mode & 0o777 for path in found} == {0o600, 0o700}


def test_progress_is_told_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways, within a large file too, and it ends with all."""
    monkeypatch.setattr(backup_file, "PIECE", 1000)
    source, target, path = tmp_path / "source", tmp_path / "target", tmp_path / "again.backup"
    written(tmp_path)
    parts = [backup_file.describe(Path(name), source) for name in CONTENTS]
    told: list[tuple[int, int]] = []
    backup_file.write(path, manifest(*parts), source, KEY, None, lambda *both: told.append(both))
    target.mkdir()
    file_key = backup_file.unlock(path, Openers((KEY,)))
    assert file_key is not None
    backup_file.unpack(path, file_key, target, lambda *both: told.append(both))
    whole = sum(map(len, CONTENTS.values()))
    assert told == [(done, whole) for done in (5, 7, 1007, 2007, 3007, 4007, 5007)] * 2


@pytest.mark.parametrize("opener", [bytes(32), "correct horses"], ids=["key", "passphrase"])
def test_nothing_else_opens_it(sound: Path, opener: bytes | str) -> None:
    """Another key, another passphrase: refused before anything is read."""
    keys, phrases = ((opener,), ()) if isinstance(opener, bytes) else ((), (opener,))
    assert backup_file.unlock(sound, Openers(keys, phrases)) is None
    assert backup_file.unlock(sound, Openers()) is None


def test_a_backup_without_a_passphrase_opens_by_key_alone(tmp_path: Path) -> None:
    """No passphrase was set when it was made: none opens it."""
    path = written(tmp_path)
    assert backup_file.unlock(path, Openers((), (PASSPHRASE,))) is None
    assert unpacked(path, tmp_path / "new", KEY) == CONTENTS


@settings(deadline=None)
@given(data=st.data())
def test_any_change_is_refused(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Anything flipped, cut out, put in or added, anywhere in the file."""
    folder = tmp_path_factory.mktemp("changed")
    path = written(folder)
    content = path.read_bytes()
    start = data.draw(st.integers(0, len(content)))
    stop = data.draw(st.integers(start, min(len(content), start + data.draw(st.sampled_from([1, 50, 10_000])))))
    changed = content[:start] + data.draw(st.binary(max_size=20)) + content[stop:]
    path.write_bytes(changed)
    if changed != content:
        with pytest.raises(BackupRefused):
            unpacked(path, folder / "new", KEY)


OUTSIDE = ("../x", "a/../../x", "/etc/x", "a//x", "", ".", "..", "a/.", "...", "x.", "~/x")
ELSEWHERE = ("a\\x", "..\\x", "C:x", "C:/x", "nul:", "a\0", "x\n", "a/ /x", "ü")


@pytest.mark.parametrize("name", [*OUTSIDE, *ELSEWHERE])
def test_a_path_that_leads_elsewhere_is_refused(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """When it is written and, from a forger who has the key, when it is read; nothing comes to lie anywhere."""
    bad, good = (manifest(Part(one, 0, hashlib.sha256().hexdigest())) for one in (name, "good"))
    with pytest.raises(BackupRefused, match="no plain path"):
        backup_file.write(tmp_path / "b", bad, tmp_path, KEY, None)
    assert not list(tmp_path.iterdir())
    (tmp_path / "good").touch()
    encoded = msgspec.json.encode(bad)
    monkeypatch.setattr(msgspec.json, "encode", lambda _: encoded)
    backup_file.write(tmp_path / "forged", good, tmp_path, KEY, None)
    with pytest.raises(BackupRefused, match="no plain path"):
        unpacked(tmp_path / "forged", tmp_path / "new", KEY)
    assert not list((tmp_path / "new").iterdir())


def test_a_path_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    """Also where only capitals differ, which some systems do not tell apart."""
    parts = [Part("a", 0, ""), Part("A", 0, "")]
    with pytest.raises(BackupRefused, match="twice"):
        backup_file.write(tmp_path / "b", manifest(*parts), tmp_path, KEY, None)


def test_a_part_that_changed_since_it_was_described_is_refused(tmp_path: Path) -> None:
    """And nothing is left of the backup."""
    (tmp_path / "a").write_bytes(b"new")
    part = Part("a", 3, "0" * 64)
    with pytest.raises(BackupRefused, match="not what the manifest says"):
        backup_file.write(tmp_path / "b", manifest(part), tmp_path, KEY, None)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_an_older_format_and_fewer_rounds_are_refused(sound: Path, tmp_path: Path) -> None:
    """A version byte set back, a lid that asks for a weak passphrase key, another program's file."""
    content = sound.read_bytes()
    forged = tmp_path / "forged.backup"
    for changed, says in (
        (content[:8] + b"\0" + content[9:], "version 0, which is not known"),
        (content.replace(b"\xce" + backup_file.ROUNDS.to_bytes(4, "big"), b"\xce\0\0\0\1", 1), "is damaged"),
        (b"PK\3\4" + content, "no backup of ExpiryTrack"),
        (b"", "no backup of ExpiryTrack"),
    ):
        assert changed != content
        forged.write_bytes(changed)
        with pytest.raises(BackupRefused, match=says):
            unpacked(forged, tmp_path / "new", KEY, PASSPHRASE)


def test_only_whole_backups_of_the_key_are_counted(tmp_path: Path) -> None:
    """Foreign files, cut ones, links and those under way are not ours to remove, whatever they are called."""
    mine = [written(tmp_path, at=NOON.replace(hour=hour)) for hour in (1, 2, 3)]
    foreign = written(tmp_path, key=bytes(32), at=NOON.replace(hour=4))
    cut = written(tmp_path, at=NOON.replace(hour=5))
    cut.write_bytes(cut.read_bytes()[:-1])
    (tmp_path / "expirytrack-20261125T060000Z.backup").write_text("a letter")
    (tmp_path / "expirytrack-20261125T070000Z.backup").mkdir()
    mine[0].rename(tmp_path / "expirytrack-mine.backup")
    stopped = tmp_path / "expirytrack-20261125T080000Z.backup.unfinished"
    stopped.write_bytes(mine[1].read_bytes()[:900])
    (tmp_path / "expirytrack-20261125T090000Z.backup.unfinished").write_bytes(foreign.read_bytes())
    if os.name == "posix":
        (tmp_path / "expirytrack-20261125T100000Z.backup").symlink_to(mine[1])
    assert backup_file.whole_backups(tmp_path, KEY) == mine[1:]
    assert backup_file.leftovers(tmp_path, KEY) == [stopped]


@settings(deadline=None)
@given(key=st.binary(min_size=32, max_size=32), data=st.data())
def test_a_recovery_key_survives_paper(key: bytes, data: st.DataObject) -> None:
    """It reads back in small letters and without hyphens; one wrong letter is noticed."""
    text = backup_file.spelled(key)
    assert len(text.split("-")) == 14
    assert backup_file.read_spelled(f" {text.lower().replace('-', ' ')}\n") == key
    place = data.draw(st.integers(0, len(text) - 1).filter(lambda at: text[at] != "-"))
    letter = data.draw(st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567").filter(lambda one: one != text[place]))
    with pytest.raises(ConfigurationError, match="no recovery key"):
        backup_file.read_spelled(text[:place] + letter + text[place + 1 :])


@pytest.mark.parametrize("text", ["", "no", "=" * 56, "ABCD-" * 14, "é" * 56])
def test_anything_else_is_no_recovery_key(text: str) -> None:
    """One sentence, whatever was typed."""
    with pytest.raises(ConfigurationError, match="no recovery key"):
        backup_file.read_spelled(text)
