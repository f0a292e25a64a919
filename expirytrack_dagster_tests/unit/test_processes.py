"""A process is told from all others: also when its number is given again, or its parent has not noticed its end."""

from __future__ import annotations

import subprocess
import sys
import time

import psutil

from expirytrack_dagster.processes import is_alive, this_process


def test_this_process_is_alive() -> None:
    """By its name, and not by another one with the same number."""
    number, _, began = this_process().partition(" since ")
    assert is_alive(this_process())
    assert not is_alive(f"{number} since {int(began) - 60}")


def test_a_killed_process_has_ended_before_its_parent_notices() -> None:
    """Until somebody asks how it ended, a dead process is in the system's table."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        name = f"{child.pid} since {psutil.Process(child.pid).create_time():.0f}"
        assert is_alive(name)
        child.kill()
        deadline = time.monotonic() + 10
        while is_alive(name) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not is_alive(name)
        assert child.returncode is None, "nobody has asked yet"
    assert not is_alive(name)
