"""The vault with a real Secret Service: gnome-keyring in a session of its own, unlocked by a password on its input.

A `Machine` is a user's keyring on disk. Every command is a new session with a new daemon: as after a restart.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

PROGRAMS = ("dbus-run-session", "gnome-keyring-daemon")
MISSING = [program for program in PROGRAMS if shutil.which(program) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")

UNLOCKED = 'gnome-keyring-daemon --unlock --components=secrets >/dev/null && exec "$@" </dev/null'
LOCKED = 'gnome-keyring-daemon --start --components=secrets >/dev/null && exec "$@" </dev/null'
VAULT = "from expirytrack_dagster.settings import load_settings; from expirytrack_dagster.security.vault import *; "
PUT = VAULT + "open_vault(load_settings()).put('token', b'from the first process')"
GET = VAULT + "print(open_vault(load_settings()).get('token').decode())"
PASSWORD = "of the login"
EXPIRYTRACK = ("-m", "expirytrack_dagster")


@dataclass(frozen=True)
class Machine:
    """A machine with a keyring, and the homes of ExpiryTrack that are used there."""

    folder: Path

    def run(self, home: Path, *words: str, session: str = UNLOCKED) -> subprocess.CompletedProcess[str]:
        """Run Python with these words in a new session."""
        runtime = self.folder / "runtime"
        runtime.mkdir(parents=True, exist_ok=True, mode=0o700)
        hidden = {"DISPLAY", "WAYLAND_DISPLAY", "DBUS_SESSION_BUS_ADDRESS", "PYTHON_KEYRING_BACKEND"}
        environment = {name: value for name, value in os.environ.items() if name not in hidden} | {
            "HOME": str(self.folder),
            "XDG_DATA_HOME": str(self.folder / "share"),
            "XDG_RUNTIME_DIR": str(runtime),
            "EXPIRYTRACK_HOME": str(home),
        }
        return subprocess.run(
            ["dbus-run-session", "--", "sh", "-c", session, "sh", sys.executable, *words],  # noqa: S607  -- the system's own
            env=environment,
            input=PASSWORD,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Return a machine with an empty keyring."""
    return Machine(tmp_path / "machine")


def told(done: subprocess.CompletedProcess[str]) -> str:
    """Return the output of a command that went well."""
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_another_process_opens_the_vault_with_the_keyring(machine: Machine, home: Path) -> None:
    """The secret is made at first use, lies in the keyring and nowhere below the home, and outlives the session."""
    told(machine.run(home, "-c", PUT))
    assert told(machine.run(home, "-c", GET)) == "from the first process"
    status = json.loads(told(machine.run(home, *EXPIRYTRACK, "keys", "status", "--json")))
    assert (status["source"], status["names"], status["due"]) == ("keyring", ["token"], False)
    assert not (home / "keys").exists()


def test_a_vault_on_another_machine_is_refused(machine: Machine, home: Path, tmp_path: Path) -> None:
    """A copy of the whole home is of no use to another keyring; one sentence says so, and the copy stays as it is."""
    told(machine.run(home, "-c", PUT))
    copy = tmp_path / "copy"
    shutil.copytree(home, copy)
    before = (copy / "vault.bin").read_bytes()
    for words in (("keys", "status"), ("keys", "rotate")):
        done = Machine(tmp_path / "another").run(copy, *EXPIRYTRACK, *words)
        assert (done.returncode, done.stdout) == (1, "")
        assert "has no key for the vault" in done.stderr
        assert "Traceback" not in done.stderr
    assert (copy / "vault.bin").read_bytes() == before


def test_a_locked_keyring_opens_nothing(machine: Machine, home: Path) -> None:
    """Without the password of the login the vault stays shut, and the sentence says what to do."""
    told(machine.run(home, "-c", PUT))
    done = machine.run(home, *EXPIRYTRACK, "keys", "status", session=LOCKED)
    assert done.returncode == 1
    assert "unlock it by logging in" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_usable_keyring_a_key_file_takes_its_place(machine: Machine, home: Path) -> None:
    """A keyring that nobody unlocks, as on a server, keeps nothing: the secret goes into a file, and back later."""
    told(machine.run(home, "-c", PUT, session=LOCKED))
    status = json.loads(told(machine.run(home, *EXPIRYTRACK, "keys", "status", "--json", session=LOCKED)))
    assert status["source"] == "file"
    told(machine.run(home, *EXPIRYTRACK, "keys", "rotate", "--to", "keyring"))
    assert list((home / "keys").iterdir()) == []
    assert told(machine.run(home, "-c", GET)) == "from the first process"


def test_a_rotation_in_a_copy_leaves_the_original_its_secret(machine: Machine, home: Path, tmp_path: Path) -> None:
    """A home that was copied opens for the same user; new keys in the copy do not lock the original."""
    told(machine.run(home, "-c", PUT))
    copy = tmp_path / "copy"
    shutil.copytree(home, copy)
    told(machine.run(copy, *EXPIRYTRACK, "keys", "rotate"))
    assert told(machine.run(copy, "-c", GET)) == "from the first process"
    assert told(machine.run(home, "-c", GET)) == "from the first process"
    old = home / "vault.bin"
    kept = old.read_bytes()
    told(machine.run(home, *EXPIRYTRACK, "keys", "rotate"))
    old.write_bytes(kept)
    assert "has no key for the vault" in machine.run(home, *EXPIRYTRACK, "keys", "status").stderr
