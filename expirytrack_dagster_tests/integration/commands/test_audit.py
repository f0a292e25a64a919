"""`expirytrack audit ...` on a log that commands have written, sound and changed."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from expirytrack_dagster.cli import main
from expirytrack_dagster.security.audit import record
from expirytrack_dagster.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Command = Callable[..., tuple[int, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Return a function that runs `expirytrack WORDS` in this process: exit code, output."""

    def command(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["expirytrack", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        return (code if isinstance(code, int) else 0), capsys.readouterr().out

    return command


def test_untracking_is_noted_and_proved(run: Command) -> None:
    """A command leaves its line; the head that is printed can be given back."""
    assert run("audit", "verify") == (0, "Nothing has been noted yet.\n")
    run("track", "NIFTY", "--key", "NSE_INDEX|Nifty 50")
    assert run("untrack", "NIFTY")[0] == 0
    (entry,) = json.loads(run("audit", "list", "--event", "untrack", "--json")[1])
    assert (entry["event"], entry["details"]) == ("untrack", {"symbol": "NIFTY"})
    code, out = run("audit", "verify")
    head = out.splitlines()[-1]
    assert (code, head) == (0, f"1:{entry['hash']}")
    assert run("audit", "verify", "--head", head)[0] == 0
    assert run("audit", "verify", "--head", head.replace("1:", "2:"))[0] == 3
    assert run("audit", "verify", "--head", "1")[0] == 2


def test_a_changed_line_is_named(run: Command, home: Path) -> None:
    """Exit code 3, the line's number, and the list shows it for what it is."""
    for number in range(3):
        record(load_settings(), "export", file=f"{number}.parquet")
    log = home / "audit.jsonl"
    log.write_bytes(log.read_bytes().replace(b"1.parquet", b"9.parquet"))
    code, out = run("audit", "verify", "--json")
    report = json.loads(out)
    assert (code, report["intact"]) == (3, False)
    assert report["damage"] == [{"line": 2, "found": "line 2 is altered"}]
    assert run("audit", "verify")[1].startswith("Line 2 is altered.\nNot intact: ")
    assert "an altered line" in run("audit", "list")[1]
