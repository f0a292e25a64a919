"""`keys status` and `keys rotate` as a person uses them."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from expirytrack_dagster.cli import app
from expirytrack_dagster.errors import ConfigurationError, VaultLocked
from expirytrack_dagster.security.vault import open_vault
from expirytrack_dagster.settings import load_settings

if TYPE_CHECKING:
    from pathlib import Path

    from typer.testing import Result


def run(*words: str, answer: str = "") -> Result:
    """Run `expirytrack keys WORDS`."""
    return CliRunner().invoke(app, ["keys", *words], input=answer)


def test_without_a_vault_there_is_nothing_to_tell(home: Path) -> None:
    """Both commands say so, and make nothing."""
    assert "no vault" in run("status").output
    assert json.loads(run("status", "--json").output) == {"vault": str(home / "vault.bin"), "exists": False}
    assert "nothing to rotate" in run("rotate").output
    assert not home.exists()


def test_status_shows_names_and_age_but_no_value(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that is too old is a warning; the rotation ends it."""
    open_vault(load_settings()).put("token", b"eyJ-secret")
    shown = run("status")
    assert (shown.exit_code, "token" in shown.output, "from the file" in shown.output) == (0, True, True)
    assert "eyJ-secret" not in shown.output
    assert json.loads(run("status", "--json").output)["due"] is False

    monkeypatch.setattr("time.time", lambda: 1_700_000_000.0)
    assert run("rotate").exit_code == 0
    monkeypatch.undo()
    monkeypatch.setenv("EXPIRYTRACK_HOME", str(home))
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
    assert struct.unpack(">Q", (home / "vault.bin").read_bytes()[14:22]) == (1_700_000_000,)
    assert "keys rotate" in run("status").output
    assert "keys rotate" in CliRunner().invoke(app, ["status"]).output
    assert json.loads(run("status", "--json").output)["due"] is True
    assert run("rotate").output == "Rotated: new keys, the secret from the file.\n"
    assert json.loads(run("status", "--json").output)["due"] is False
    assert "keys rotate" not in CliRunner().invoke(app, ["status"]).output


def test_a_vault_moves_to_a_passphrase_that_is_asked_for_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that differs or is too short changes nothing; afterwards only the new one opens the vault."""
    open_vault(load_settings()).put("token", b"one")
    for typed, words in (("first one\nanother\n", "not the same"), ("short\nshort\n", "at least 8"), ("", "Nothing")):
        refused = run("rotate", "--to", "passphrase", answer=typed)
        assert isinstance(refused.exception, ConfigurationError)
        assert words in str(refused.exception)
        assert "Warning" not in refused.output  # of a prompt that cannot hide, where there is none
    assert open_vault(load_settings()).get("token") == b"one"
    done = run("rotate", "--to", "passphrase", answer="a new passphrase\na new passphrase\n")
    assert (done.exit_code, "Set EXPIRYTRACK_PASSPHRASE" in done.output) == (0, True)
    assert "a new passphrase" not in done.output
    with pytest.raises(VaultLocked):
        open_vault(load_settings()).get("token")
    monkeypatch.setenv("EXPIRYTRACK_PASSPHRASE", "a new passphrase")
    assert open_vault(load_settings()).get("token") == b"one"
    assert run("rotate").exit_code == 0
    assert open_vault(load_settings()).get("token") == b"one"


def test_a_server_takes_the_passphrase_that_is_set(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is asked where nobody sits; and from then on it is needed."""
    open_vault(load_settings()).put("token", b"one")
    monkeypatch.setenv("EXPIRYTRACK_PASSPHRASE", "of the service")
    done = run("rotate", "--to", "passphrase")
    assert (done.exit_code, "New passphrase" in done.output) == (0, False)
    assert list((home / "keys").iterdir()) == []
    assert json.loads(run("status", "--json").output)["source"] == "passphrase"
    monkeypatch.delenv("EXPIRYTRACK_PASSPHRASE")
    assert isinstance(run("status").exception, VaultLocked)


def test_a_source_that_does_not_exist_is_a_mistake_of_usage() -> None:
    """The answer names the sources."""
    done = run("rotate", "--to", "paper")
    assert done.exit_code == 2
    assert "passphrase" in done.output


def test_a_move_to_a_keyring_that_is_not_there_changes_nothing(home: Path) -> None:
    """One sentence, and the vault opens as before."""
    open_vault(load_settings()).put("token", b"one")
    before = (home / "vault.bin").read_bytes()
    done = run("rotate", "--to", "keyring")
    assert isinstance(done.exception, VaultLocked)
    assert (home / "vault.bin").read_bytes() == before
