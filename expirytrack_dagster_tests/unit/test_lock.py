"""The lock: every package that is installed is named with one version and its hashes, so nothing else can come in."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[2]
ENTRY = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^ ;\\]+)", re.MULTILINE)


def canonical(name: str) -> str:
    """Return a package's name as PyPI compares names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_entry_of_the_lock_has_one_version_and_hashes() -> None:
    """An exchanged file of an index or a mirror is refused by pip, because its hash is not in the lock."""
    lock = (PROJECT / "requirements.txt").read_text(encoding="utf-8")
    entries = [entry for entry in re.split(r"\n(?=[A-Za-z0-9])", lock) if not entry.startswith("#")]
    assert len(entries) > 50
    for entry in entries:
        assert ENTRY.match(entry), entry[:80]
        hashes = re.findall(r"--hash=(\S+)", entry)
        assert hashes, entry[:80]
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in hashes), entry[:80]
    assert "--index-url" not in lock
    assert "://" not in lock


def test_what_the_project_names_is_locked() -> None:
    """A dependency that was added without locking anew would be missing on the next machine."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
    named = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    wanted = {canonical(re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0]) for requirement in named}
    locked = {canonical(name) for name, _ in ENTRY.findall((PROJECT / "requirements.txt").read_text(encoding="utf-8"))}
    assert wanted <= locked


def test_pip_installs_by_hash_alone() -> None:
    """The one recipe that builds the environment resolves nothing and checks every hash."""
    recipe = (PROJECT / "Makefile").read_text(encoding="utf-8")
    assert "--no-deps --require-hashes --requirement requirements.txt" in recipe
