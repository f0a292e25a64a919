"""The list of commands: quick to come, and every command under a heading."""

from __future__ import annotations

import subprocess
import sys

from typer.testing import CliRunner

from expirytrack_dagster.cli import app

HEAVY = (
    "dagster",
    "pandas",
    "numpy",
    "pandera",
    "pyarrow",
    "duckdb",
    "sqlalchemy",
    "httpx",
    "uvicorn",
    "rich.progress",
)


def test_nothing_heavy_is_loaded_before_a_command_runs() -> None:
    """Whoever asks for help, or mistypes, waits for none of the engines."""
    code = f"import expirytrack_dagster.cli, sys; print([name for name in {HEAVY} if name in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.strip() == "[]"


def test_every_command_stands_under_a_heading() -> None:
    """Help has no list without a name, which Typer would call Commands."""
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "100", "TERM": "dumb"})
    assert shown.exit_code == 0
    assert "Collect" in shown.output
    assert " Commands " not in shown.output
