"""The vault: what it keeps, who can open it, and that nothing can be altered, cut off or taken elsewhere unseen."""

from __future__ import annotations

import os
import shutil
import stat
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from expirytrack_dagster.errors import UnsafeFile, VaultDamaged, VaultError, VaultLocked
from expirytrack_dagster.security import key_sources, private_files
from expirytrack_dagster.security import vault as vaults
from expirytrack_dagster.security.vault import ROUNDS, open_vault
from expirytrack_dagster.settings import Settings, load_settings

if TYPE_CHECKING:
    from pathlib import Path

PASSPHRASE = "a passphrase of the tests"
SALT = slice(38, 54)
HEADER, LID = 54, 54 + 60

posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no such rights of files")


def with_passphrase(home: Path, passphrase: str | None = PASSPHRASE) -> Settings:
    """Return the settings of a home whose vault is opened by a passphrase."""
    return load_settings(home=home, passphrase=passphrase)


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the bytes of a vault that holds a token."""
    settings = with_passphrase(tmp_path_factory.mktemp("kept"))
    open_vault(settings).put("token", b"eyJ-secret")
    return settings.vault.read_bytes()


def place(home: Path, sealed: bytes) -> Settings:
    """Put these bytes where the vault of a home is."""
    found = with_passphrase(home)
    found.vault.unlink(missing_ok=True)
    private_files.write_private(found.vault, sealed)
    return found


def test_what_is_put_is_there_for_the_next_process(home: Path) -> None:
    """Values and names come back, are replaced and forgotten; a vault object of its own stands for another process."""
    found = with_passphrase(home)
    first = open_vault(found)
    assert (first.get("token"), first.names(), first.delete("token"), home.exists()) == (None, [], False, False)
    first.put("token", b"\x00one")
    first.put("secret", b"")
    again = open_vault(found)
    assert (again.get("token"), again.get("secret"), again.names()) == (b"\x00one", b"", ["secret", "token"])
    again.put("token", b"two")
    assert first.get("token") == b"two"
    assert first.delete("token")
    assert (again.get("token"), again.delete("token")) == (None, False)


def test_keys_are_made_once_a_purpose(home: Path) -> None:
    """32 random bytes each, the same for everyone, and no names among the secrets."""
    found = with_passphrase(home)
    database = open_vault(found).data_key("database")
    assert len(database) == 32
    assert open_vault(found).data_key("database") == database
    assert open_vault(found).data_key("cache") != database
    assert open_vault(found).names() == []


def test_neither_values_nor_names_can_be_read_in_the_file(home: Path) -> None:
    """Everything but the header is noise."""
    found = with_passphrase(home)
    open_vault(found).put("the-name", b"the-value")
    sealed = found.vault.read_bytes()
    assert b"the-name" not in sealed
    assert b"the-value" not in sealed


@posix
def test_only_the_owner_may_read_the_files(home: Path) -> None:
    """Vault and key file are 0600, their folders 0700."""
    found = load_settings(home=home)
    open_vault(found).put("token", b"one")
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (found.vault, *found.vault_keys.iterdir())}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(found.vault_keys.stat().st_mode) == stat.S_IMODE(home.stat().st_mode) == 0o700


def test_threads_do_not_lose_each_others_entries(home: Path) -> None:
    """Twenty writers at once leave twenty entries."""
    found = with_passphrase(home)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: open_vault(found).put(f"entry-{n:02}", b"%d" % n), range(20)))
    assert open_vault(found).names() == [f"entry-{n:02}" for n in range(20)]


def test_a_secret_is_stretched_once(home: Path) -> None:
    """PBKDF2 costs a third of a second: a process pays it once, however many vaults it opens."""
    found = with_passphrase(home)
    open_vault(found).put("token", b"one")
    before = vaults._stretched.cache_info().misses  # noqa: SLF001  -- what is counted has no public name
    for _ in range(5):
        assert open_vault(found).get("token") == b"one"
    assert vaults._stretched.cache_info().misses == before  # noqa: SLF001  -- as above


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_altered_byte_is_refused(data: st.DataObject, kept: bytes, tmp_path: Path) -> None:
    """Whichever byte is changed, to whatever, nothing is given out and the file stays as it was found."""
    position = data.draw(st.integers(0, len(kept) - 1).filter(lambda at: not SALT.start <= at < SALT.stop))
    value = data.draw(st.integers(0, 255).filter(lambda new: new != kept[position]))
    refused(place(tmp_path / "altered", kept[:position] + bytes([value]) + kept[position + 1 :]))


@pytest.mark.parametrize("position", [SALT.start, SALT.stop - 1])
def test_an_altered_salt_is_refused(position: int, kept: bytes, home: Path) -> None:
    """Apart from the other bytes, because each salt costs a round of PBKDF2."""
    refused(place(home, kept[:position] + bytes([kept[position] ^ 1]) + kept[position + 1 :]))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_truncation_is_refused(data: st.DataObject, kept: bytes, tmp_path: Path) -> None:
    """Nothing at all counts as cut off too; a vault is never quietly begun anew."""
    refused(place(tmp_path / "cut", kept[: data.draw(st.integers(0, len(kept) - 1))]))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(more=st.binary(min_size=1, max_size=40))
@example(more=b"\0")
def test_anything_appended_is_refused(more: bytes, kept: bytes, tmp_path: Path) -> None:
    """The file ends where the vault ends."""
    refused(place(tmp_path / "longer", kept + more))


def refused(found: Settings) -> None:
    """Assert that reading, writing, deleting and rotating are refused with one sentence, and change nothing."""
    before = found.vault.read_bytes()
    vault = open_vault(found)
    for attempt in (
        lambda: vault.get("token"),
        lambda: vault.put("token", b"mine"),
        lambda: vault.delete("token"),
        lambda: vault.data_key("database"),
        vault.rotate,
    ):
        with pytest.raises(VaultError) as refusal:
            attempt()
        assert "\n" not in str(refusal.value)
        assert "eyJ-secret" not in str(refusal.value)
    assert found.vault.read_bytes() == before


def test_a_part_of_another_vault_is_refused(kept: bytes, home: Path) -> None:
    """Neither body, nor wrapped key, nor header can be exchanged, though both vaults open with the same passphrase."""
    other = with_passphrase(home / "other")
    open_vault(other).put("token", b"planted")
    theirs = other.vault.read_bytes()
    for mixed in (kept[:LID] + theirs[LID:], kept[:HEADER] + theirs[HEADER:], theirs[:HEADER] + kept[HEADER:]):
        refused(place(home / "mixed", mixed))


def test_a_downgraded_or_newer_version_is_refused(kept: bytes, home: Path) -> None:
    """The version byte is read first: 0 never was, 2 asks for a newer program."""
    for version, words in ((0, "never was a version 0"), (2, "update ExpiryTrack")):
        found = place(home, kept[:8] + bytes([version]) + kept[9:])
        with pytest.raises(VaultDamaged, match=words):
            open_vault(found).get("token")
        refused(found)


@pytest.mark.parametrize("rounds", [0, 1, ROUNDS - 1, 2**32 - 1])
def test_too_few_rounds_or_absurdly_many_are_refused_at_once(rounds: int, kept: bytes, home: Path) -> None:
    """Whoever lowers the price of guessing is refused, and nobody can keep the processor busy for hours."""
    assert struct.unpack(">I", kept[10:14]) == (ROUNDS,)
    started = time.monotonic()
    found = place(home, kept[:10] + struct.pack(">I", rounds) + kept[14:])
    with pytest.raises(VaultDamaged, match=f"{rounds:,} rounds"):
        open_vault(found).get("token")
    assert time.monotonic() - started < 1


def test_a_wrong_or_missing_passphrase_opens_nothing(kept: bytes, home: Path) -> None:
    """One sentence says what to do; neither passphrase appears in it."""
    place(home, kept)
    with pytest.raises(VaultLocked, match="give the right one") as refusal:
        open_vault(with_passphrase(home, "not the passphrase")).get("token")
    assert "passphrase of the tests" not in str(refusal.value)
    assert "not the passphrase" not in str(refusal.value)
    with pytest.raises(VaultLocked, match="set EXPIRYTRACK_PASSPHRASE"):
        open_vault(with_passphrase(home, None)).get("token")


def test_a_vault_without_its_key_file_opens_nothing(home: Path, tmp_path: Path) -> None:
    """The vault alone, copied to another machine, is of no use; with another vault's key neither."""
    here, there = load_settings(home=home), load_settings(home=tmp_path / "there")
    open_vault(here).put("token", b"one")
    private_files.write_private(there.vault, here.vault.read_bytes())
    with pytest.raises(VaultLocked, match="missing"):
        open_vault(there).get("token")
    name = next(here.vault_keys.iterdir()).name
    private_files.write_private(there.vault_keys / name, bytes(32))
    with pytest.raises(VaultLocked, match="does not open"):
        open_vault(there).get("token")


@posix
@pytest.mark.parametrize("which", ["vault", "key"])
def test_a_link_or_a_readable_file_is_refused(which: str, home: Path, tmp_path: Path) -> None:
    """A link in the place of a file, a file that others may read, and a folder: refused, and nothing is changed."""
    found = load_settings(home=home)
    open_vault(found).put("token", b"one")
    file = found.vault if which == "vault" else next(found.vault_keys.iterdir())
    content = file.read_bytes()

    for mode in (0o640, 0o604, 0o620):
        file.chmod(mode)
        with pytest.raises(UnsafeFile, match="chmod 600"):
            open_vault(found).get("token")
        with pytest.raises(UnsafeFile, match="chmod 600"):
            open_vault(found).put("token", b"two")
    file.chmod(0o600)

    elsewhere = tmp_path / "elsewhere"
    shutil.move(file, elsewhere)
    file.symlink_to(elsewhere)
    with pytest.raises(UnsafeFile, match="is a link"):
        open_vault(found).get("token")
    with pytest.raises(UnsafeFile, match="is a link"):
        open_vault(found).put("token", b"two")
    assert elsewhere.read_bytes() == content

    file.unlink()
    for kind in ("folder", "pipe"):
        file.mkdir() if kind == "folder" else os.mkfifo(file)
        with pytest.raises(UnsafeFile, match="no plain file"):
            open_vault(found).get("token")
        file.rmdir() if file.is_dir() else file.unlink()


@posix
def test_a_dangling_link_is_no_missing_vault(home: Path, tmp_path: Path) -> None:
    """A link to nowhere must not lead a new vault to a place of somebody else's choice."""
    found = with_passphrase(home)
    home.mkdir()
    found.vault.symlink_to(tmp_path / "theirs")
    with pytest.raises(UnsafeFile, match="is a link"):
        open_vault(found).put("token", b"one")
    with pytest.raises(UnsafeFile, match="is a link"):
        open_vault(found).get("token")
    assert not (tmp_path / "theirs").exists()


def test_a_rotation_changes_every_byte_that_protects(home: Path) -> None:
    """Data key, salt, id and key file are new, entries and keys of files the same; the old file is worthless."""
    found = load_settings(home=home)
    vault = open_vault(found)
    vault.put("token", b"one")
    database = vault.data_key("database")
    old = found.vault.read_bytes()
    (old_key,) = found.vault_keys.iterdir()
    vault.rotate()
    (new_key,) = found.vault_keys.iterdir()
    new = found.vault.read_bytes()
    assert new_key != old_key
    assert new[14 + 8 : HEADER] != old[14 + 8 : HEADER]
    again = open_vault(found)
    assert (again.get("token"), again.data_key("database")) == (b"one", database)
    place(home, old)
    with pytest.raises(VaultLocked):
        open_vault(found).get("token")


def test_another_handle_follows_a_rotation(home: Path) -> None:
    """A process that has the vault open goes on after another one has rotated it."""
    found = load_settings(home=home)
    mine, theirs = open_vault(found), open_vault(found)
    mine.put("token", b"one")
    assert theirs.get("token") == b"one"
    mine.rotate()
    theirs.put("more", b"two")
    assert mine.names() == ["more", "token"]


def test_a_vault_moves_from_a_file_to_a_passphrase_and_back(home: Path) -> None:
    """What opened it before is removed, and opens nothing any more."""
    without, with_one = load_settings(home=home), with_passphrase(home)
    open_vault(without).put("token", b"one")
    open_vault(with_one).rotate(key_sources.source("passphrase", with_one))
    assert list(without.vault_keys.iterdir()) == []
    assert open_vault(with_one).get("token") == b"one"
    with pytest.raises(VaultLocked):
        open_vault(without).get("token")
    open_vault(with_one).rotate(key_sources.source("file", with_one))
    assert open_vault(without).get("token") == b"one"


class _Died(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("step", ["secret made", "file half written", "file replaced", "old secret kept"])
def test_a_rotation_that_dies_at_any_step_loses_nothing(step: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was done and was not, a new process opens the vault, finds everything, and can rotate again."""

    def die(*_: object, **__: object) -> None:
        raise _Died

    found, writing = load_settings(home=home), "expirytrack_dagster.security.vault.write_private"
    open_vault(found).put("token", b"one")
    with monkeypatch.context() as patch:
        if step == "secret made":
            patch.setattr(writing, die)
        elif step == "file half written":
            written = private_files.write_private
            patch.setattr(writing, lambda path, sealed: die(written(path.with_suffix(".part"), sealed)))
        elif step == "file replaced":
            written = private_files.write_private
            patch.setattr(writing, lambda path, sealed: die(written(path, sealed)))
        else:
            patch.setattr(key_sources.KeyFile, "forget", die)
        with pytest.raises(_Died):
            open_vault(found).rotate()
    assert open_vault(found).get("token") == b"one"
    open_vault(found).rotate()
    assert open_vault(found).get("token") == b"one"


def test_status_tells_the_age_and_no_secret(home: Path) -> None:
    """The age counts from the last rotation; from the settings' limit on it is due."""
    found = with_passphrase(home)
    vault = open_vault(found)
    assert vault.status() is None
    vault.put("token", b"one")
    vault.data_key("cache")
    now = datetime.now(UTC)
    status = vault.status(now)
    assert status is not None
    assert (status.source, status.rounds, status.names, status.purposes) == ("passphrase", ROUNDS, ["token"], ["cache"])
    assert status.age_days < 0.01
    assert status.finding is None
    assert vaults.rotation_finding(found, now + timedelta(days=89)) is None
    assert "keys rotate" in str(vaults.rotation_finding(found, now + timedelta(days=91)))
    vault.rotate()
    assert vaults.rotation_finding(found, now + timedelta(days=89)) is None
    assert PASSPHRASE not in repr((vault, status, found, key_sources.source("passphrase", found)))


def test_a_short_passphrase_is_no_passphrase() -> None:
    """It is refused where it is set, and not shown."""
    with pytest.raises(Exception, match="EXPIRYTRACK_PASSPHRASE: a passphrase needs at least 8") as refusal:
        load_settings(passphrase="short!!")
    assert "short!!" not in str(refusal.value)
