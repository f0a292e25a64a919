"""`init` and `config show`: a new home that nothing of the user's is lost in, and where each value comes from."""

from __future__ import annotations

import json
import os
import stat
import sys
from typing import TYPE_CHECKING

import pytest

from expirytrack_dagster.cli import main
from expirytrack_dagster.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Command = Callable[..., tuple[int, str, str]]

FILES = ("expirytrack.toml", "workspace.yaml", "dagster/dagster.yaml")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Return a function that runs `expirytrack WORDS` in an empty folder: exit code, output, errors."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("DAGSTER_HOME", "")  # forgotten afterwards

    def command(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["expirytrack", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return command


def contents(home: Path) -> dict[str, bytes]:
    """Return the files that a user may change."""
    return {name: (home / name).read_bytes() for name in FILES}


def test_a_new_home(run: Command, home: Path) -> None:
    """Its three files are there, for their owner alone, and change no setting."""
    before = load_settings()
    code, out, _ = run("init")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[:3]] == ["Made"] * 3
    assert all((home / name).is_file() for name in FILES)
    assert load_settings() == before
    if os.name == "posix":
        assert {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in [home, *home.rglob("*")]} == {0}


def test_what_is_there_is_kept(run: Command, home: Path) -> None:
    """Again, nothing changes; what was changed stays, and only what is missing is made."""
    run("init")
    made = contents(home)
    code, out, _ = run("init", "--json")
    assert (code, json.loads(out)) == (
        0,
        {"home": str(home), "made": [], "kept": [str(home / name) for name in FILES]},
    )
    assert contents(home) == made
    for name in FILES:
        (home / name).write_bytes(b"# mine\n")
    (home / "workspace.yaml").unlink()
    assert json.loads(run("init", "--json")[1])["made"] == [str(home / "workspace.yaml")]
    assert contents(home) == dict.fromkeys(FILES, b"# mine\n") | {"workspace.yaml": made["workspace.yaml"]}


def test_a_home_anywhere(run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder may be named; it says how to use it, and whoever works in it needs to set nothing."""
    _, out, _ = run("init", "../archive")
    assert f"Work in {tmp_path / 'archive'}, or set EXPIRYTRACK_HOME to it" in out
    monkeypatch.delenv("EXPIRYTRACK_HOME")
    monkeypatch.chdir(tmp_path / "archive")
    assert load_settings().home == tmp_path / "archive"


def test_a_place_that_cannot_be_a_home(run: Command, tmp_path: Path) -> None:
    """A file in its place is one sentence, and stays."""
    (tmp_path / "letter").write_text("dear", encoding="utf-8")
    code, _, err = run("init", str(tmp_path / "letter"))
    assert (code, len(err.splitlines())) == (1, 1)
    assert (tmp_path / "letter").read_text(encoding="utf-8") == "dear"


def test_settings_are_shown_with_their_origin(run: Command, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line each: name, value, where it comes from; the files that were looked for; no secret."""
    home.mkdir()
    (home / "expirytrack.toml").write_text("workers = 3\n", encoding="utf-8")
    monkeypatch.setenv("EXPIRYTRACK_ACCESS_TOKEN", "eyJ-secret")
    monkeypatch.setenv("EXPIRYTRACK_CACHE", "off")
    code, out, _ = run("config", "show")
    lines = {line.split()[0]: line.split(maxsplit=1)[1:] for line in out.splitlines() if line}
    assert code == 0
    assert list(lines)[: len(Settings.model_fields)] == list(Settings.model_fields)
    assert " ".join(lines["workers"][0].split()) == f"3 {home / 'expirytrack.toml'}"
    assert " ".join(lines["cache"][0].split()) == "off environment"
    assert " ".join(lines["discovery_workers"][0].split()) == "1 default"
    assert "(not there)" in out
    assert "eyJ-secret" not in out


def test_settings_as_json(run: Command, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values keep their kinds; each has its description and what is allowed."""
    monkeypatch.setenv("EXPIRYTRACK_CLIENT_SECRET", "eyJ-secret")
    code, out, _ = run("config", "show", "--json")
    report = json.loads(out)
    shown = {one["name"]: one for one in report["settings"]}
    assert (code, list(shown)) == (0, list(Settings.model_fields))
    assert shown["workers"] == {
        "name": "workers",
        "value": 10,
        "origin": "profile production",
        "description": Settings.model_fields["workers"].description,
        "allowed": "a whole number from 1 to 100",
    }
    assert (shown["cache"]["value"], shown["client_id"]["value"]) == (True, None)
    assert report["files"][-1] == {"path": str(home / "expirytrack.toml"), "found": False}
    assert "eyJ-secret" not in out


@pytest.mark.parametrize("words", [("config", "show"), ("init",), ("status",)], ids=" ".join)
def test_a_misspelt_variable_stops_every_command(
    run: Command, home: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """Before anything is written."""
    monkeypatch.setenv("EXPIRYTRACK_WROKERS", "3")
    assert run(*words) == (1, "", "EXPIRYTRACK_WROKERS is no setting: did you mean EXPIRYTRACK_WORKERS?\n")
    assert not home.exists()
