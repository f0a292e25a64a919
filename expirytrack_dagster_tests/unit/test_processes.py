"""A process is told from all others: also when its number is given again, or its parent has not noticed its end."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from expirytrack_dagster import processes
from expirytrack_dagster.processes import host_of, is_alive, is_here, this_boot, this_host, this_process

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = """
from expirytrack_dagster.processes import this_process
print(this_process(), flush=True)
input()
"""
NUMBER = psutil.Process().pid


@pytest.fixture
def child() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start another process and give it with the name that it has for itself."""
    with subprocess.Popen(
        [sys.executable, "-c", NAMES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as started:
        assert started.stdout is not None
        yield started, started.stdout.readline().strip()
        started.kill()


def test_this_process_is_alive() -> None:
    """By its name, and not by another one with the same number."""
    assert is_alive(this_process())
    for other in ("1790000000", "1@" + "0" * 8):
        assert not is_alive(f"{NUMBER} since {other} on {this_host()}")


@pytest.mark.skipif(not psutil.LINUX, reason="elsewhere the system tells the time of day at which a process began")
def test_a_clock_that_is_set_ends_nobody(
    child: tuple[subprocess.Popen[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that slept on, or that NTP has set, takes its boot for a later one; its processes are the same."""
    booted = psutil.boot_time()
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: booted + 3600)
    assert is_alive(child[1])
    assert is_alive(this_process())


def test_where_boots_have_no_name_the_time_of_day_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    """On macOS and Windows, and in sandboxes that hide it."""
    monkeypatch.setattr(processes, "this_boot", lambda: None)
    began = this_process().split()[2]
    assert int(began) == round(psutil.Process().create_time())
    assert is_alive(this_process())
    assert not is_alive(f"{NUMBER} since {int(began) - 60} on {this_host()}")


@pytest.mark.skipif(not psutil.LINUX, reason="only Linux names its boots")
def test_a_machine_that_was_started_again_has_none_of_its_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even those that have their number and their ticks again."""
    name, boot = this_process(), str(this_boot())
    monkeypatch.setattr(processes, "this_boot", lambda: boot[::-1])
    assert not is_alive(name)


def test_what_an_earlier_version_wrote_is_of_this_host() -> None:
    """It named none, because there was but one, and the time of day."""
    began = round(psutil.Process().create_time())
    assert is_here(f"{NUMBER} since {began}")
    assert is_alive(f"{NUMBER} since {began}")
    assert is_alive(f"{NUMBER} since {began} on {this_host()}")
    assert not is_alive(f"{NUMBER} since {began - 60}")


def test_a_process_of_another_host_is_not_judged() -> None:
    """Numbers are the same everywhere: nothing can be said of it, even where this host has the same one."""
    foreign = f"{NUMBER} since 1790000000 on trader-2~abc123"
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


def test_a_killed_process_has_ended_before_its_parent_notices(child: tuple[subprocess.Popen[str], str]) -> None:
    """Until somebody asks how it ended, a dead process is in the system's table."""
    process, name = child
    assert is_alive(name)
    process.kill()
    deadline = time.monotonic() + 10
    while is_alive(name) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_alive(name)
    assert process.returncode is None, "nobody has asked yet"
    process.wait()
    assert not is_alive(name)
