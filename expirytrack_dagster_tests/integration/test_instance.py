"""The Dagster instance of a new home, opened by several programs at the same moment."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack

import pytest
from filelock import FileLock

from expirytrack_dagster.errors import StorageError
from expirytrack_dagster.instance import open_instance, prepare
from expirytrack_dagster.settings import load_settings

OPEN = """
import sys
from expirytrack_dagster.instance import open_instance
from expirytrack_dagster.settings import load_settings
settings = load_settings()
print("ready", flush=True)
sys.stdin.readline()
with open_instance(settings) as instance:
    print(instance.get_runs_count())
"""


def test_programs_that_come_first_together_all_open_it() -> None:
    """None finds tables half made by another: Dagster itself looks and makes in two steps."""
    with ExitStack() as stack:
        programs = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", OPEN],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            for _ in range(4)
        ]
        for program in programs:
            assert program.stdout is not None
            assert program.stdout.readline() == "ready\n"
        for program in programs:
            assert program.stdin is not None
            program.stdin.write("go\n")
            program.stdin.flush()
        endings = [program.communicate(timeout=60) for program in programs]
    assert [output for output, _ in endings] == ["0\n"] * 4, endings


def test_a_program_that_never_gets_on_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait has an end, and a sentence."""
    monkeypatch.setenv("DAGSTER_HOME", "")
    settings = load_settings(lock_timeout=0.1)
    with (
        FileLock(prepare(settings) / "opening.lock"),
        pytest.raises(StorageError, match="Another program has been opening"),
        open_instance(settings),
    ):
        pass
