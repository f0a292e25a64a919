"""What takes long is seen to go on: on a terminal by a bar, elsewhere by a line, and nothing where it is quick."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
import threading

import pytest
from rich.console import Console

from expirytrack_dagster import console
from expirytrack_dagster.collect.contract import Answer


@pytest.fixture(params=[True, False], ids=["terminal", "piped"])
def terminal(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Say whether standard error is a terminal, and put what is written there into memory."""
    on_screen = bool(request.param)
    monkeypatch.setattr(console, "err", Console(file=io.StringIO(), force_terminal=on_screen, width=80))
    return on_screen


def written() -> str:
    """Return what was written to standard error."""
    file = console.err.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_a_bar_for_what_takes_long(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001 -- a fixture
    """On a terminal it counts; elsewhere one line names the work."""
    monkeypatch.setattr(console, "SLOW", 0.0)
    with console.slow_bar("Deriving", "cells") as progress:
        for timer in threading.enumerate():
            if isinstance(timer, threading.Timer):
                timer.join()
        progress(3, 7)
    assert ("3/7" in written()) is terminal
    assert (written() == "Deriving ...\n") is not terminal


def test_a_spinner_for_what_cannot_be_counted(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001
    """On a terminal alone."""
    monkeypatch.setattr(console, "SLOW", 0.0)
    with console.slow("Drawing"):
        for timer in threading.enumerate():
            if isinstance(timer, threading.Timer):
                timer.join()
    assert ("Drawing ..." in written()) is terminal


@pytest.mark.usefixtures("terminal")
def test_nothing_for_what_is_quick() -> None:
    """Nobody has to read about what is over already."""
    with console.slow("Drawing"):
        pass
    with console.slow_bar("Deriving", "cells") as progress:
        progress(1, 2)
    with console.ProgressBars():
        pass
    assert written() == ""


def test_a_collection(terminal: bool) -> None:  # noqa: FBT001 -- a fixture
    """A bar a cell on a terminal; in a log, a line at its beginning and one at its end."""
    with console.ProgressBars() as bars:
        cell = bars.following(logging.getLogger())
        cell.begin("NIFTY 2025-08-28", 2)
        cell.advance(Answer("A"))
        cell.end()
    if terminal:
        assert "NIFTY 2025-08-28" in written()
        assert "1/2" in written()
    else:
        assert written() == "NIFTY 2025-08-28: 2 contracts to ask\nNIFTY 2025-08-28: 1 of 2 contracts, 0 candles\n"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals of this kind")
def test_a_terminal_is_drawn_on_while_dagster_leads_standard_error_elsewhere() -> None:
    """Dagster does so for each step, and shows a second later what was written: no bar could move by that."""
    import pty  # noqa: PLC0415 -- as above

    screen, inside = pty.openpty()
    program = (
        "import os; from expirytrack_dagster import console; os.dup2(os.open(os.devnull, os.O_WRONLY), 2); "
        "console.say('still seen', to=console.err)"
    )
    try:
        subprocess.run([sys.executable, "-c", program], stderr=inside, check=True)
        assert b"still seen" in os.read(screen, 1000)
    finally:
        os.close(inside)
        os.close(screen)
