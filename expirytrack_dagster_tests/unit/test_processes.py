"""A process is told from all others: also when its number is given again, or its parent has not noticed its end."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil

from expirytrack_dagster.processes import host_of, is_alive, is_here, this_host, this_process

if TYPE_CHECKING:
    import pytest


def test_this_process_is_alive() -> None:
    """By its name, and not by another one with the same number."""
    number, _, began, *_ = this_process().split()
    assert is_alive(this_process())
    assert not is_alive(f"{number} since {int(began) - 60} on {this_host()}")


def test_what_an_earlier_version_wrote_is_of_this_host() -> None:
    """It named none, because there was but one."""
    number, _, began, *_ = this_process().split()
    assert is_here(f"{number} since {began}")
    assert is_alive(f"{number} since {began}")
    assert not is_alive(f"{number} since {int(began) - 60}")


def test_a_process_of_another_host_is_not_judged() -> None:
    """Numbers are the same everywhere: nothing can be said of it, even where this host has the same one."""
    number, _, began, *_ = this_process().split()
    foreign = f"{number} since {int(began) - 60} on trader-2~abc123"
    assert not is_here(foreign)
    assert is_alive(foreign)
    assert host_of(foreign) == "trader-2"


def test_hosts_of_one_name_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines made from one image may all be called the same."""
    seen = set()
    for card in (0x00AA_0000_0001, 0x00AA_0000_0002):
        monkeypatch.setattr("uuid.getnode", lambda card=card: card)
        seen.add(this_host.__wrapped__())
    assert len(seen) == 2
    assert {name.rpartition("~")[0] for name in seen} == {platform.node()}


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
