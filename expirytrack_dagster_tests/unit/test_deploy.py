"""The systemd unit: it starts a command that exists, shows no secret, and gives itself little power."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from expirytrack_dagster.cli import app

DEPLOY = Path(__file__).parents[2] / "deploy"
UNIT = DEPLOY / "expirytrack.service"
EXPOSURE = 20
"""Tenths of systemd's own scale from 0 (safe) to 10 (exposed)."""


def settings() -> list[tuple[str, str]]:
    """Return every setting of the unit with its value, in order."""
    lines = [line for line in UNIT.read_text(encoding="utf-8").splitlines() if re.match(r"\w+=", line)]
    return [(name, value) for name, _, value in (line.partition("=") for line in lines)]


def test_it_starts_a_command_of_ours() -> None:
    """`expirytrack ui` exists and takes the options that the unit gives it."""
    _, *words = dict(settings())["ExecStart"].split()
    assert words == ["ui", "--port", "3000"]
    shown = CliRunner().invoke(app, ["ui", "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert shown.exit_code == 0
    assert "--port" in shown.output


def test_no_secret_stands_in_the_unit() -> None:
    """Secrets come from a file of root's; the environment of the unit names the home alone."""
    given = settings()
    assert [value for name, value in given if name == "Environment"] == ["EXPIRYTRACK_HOME=/var/lib/expirytrack"]
    assert dict(given)["EnvironmentFile"] == "-/etc/expirytrack/environment"
    assert "install -m 0600 /dev/null /etc/expirytrack/environment" in (DEPLOY / "README.md").read_text(
        encoding="utf-8"
    )


def test_it_ends_in_good_order() -> None:
    """Only the parent is asked to end, with time for its children, and it comes back after a crash alone."""
    given = dict(settings())
    assert (given["KillMode"], given["Restart"]) == ("mixed", "on-failure")
    assert int(given["TimeoutStopSec"]) > 2 * 10  # what `servers.Children` allows its children


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not on this machine")
def test_systemd_takes_it_and_calls_it_safe(tmp_path: Path) -> None:
    """No setting is unknown to systemd, and its own judgement of the hardening is good."""
    unit = tmp_path / UNIT.name
    here = UNIT.read_text(encoding="utf-8").replace("/opt/expirytrack/.venv/bin/expirytrack", sys.executable)
    unit.write_text(here, encoding="utf-8")
    verified = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)  # noqa: S607 -- found above
    assert (verified.returncode, [line for line in verified.stderr.splitlines() if UNIT.name in line]) == (0, [])
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE}", "--no-pager", str(unit)]
    judged = subprocess.run(command, capture_output=True, text=True, check=False)
    assert judged.returncode == 0, judged.stdout[-500:]
