"""The clocks of the machine: what the ledger relies on when it compares them."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from expirytrack_dagster.upstox.clock import SystemClock, system_uptime


def test_wall_clock_and_uptime_keep_pace() -> None:
    """Both count seconds, so that what they differ by is a jump."""
    clock, wall, up = SystemClock(), time.time(), system_uptime()
    time.sleep(0.05)
    later = system_uptime()
    assert later.boot == up.boot
    assert later.seconds - up.seconds == pytest.approx(clock.now() - wall, abs=0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux names its boots for all processes")
def test_processes_of_a_boot_can_compare_their_uptimes() -> None:
    """Another process names the same boot and goes on counting where this one is."""
    code = "from expirytrack_dagster.upstox.clock import system_uptime as u; print(*u())"
    mine = system_uptime()
    boot, seconds = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert boot == mine.boot
    assert mine.seconds <= float(seconds) < mine.seconds + 60
