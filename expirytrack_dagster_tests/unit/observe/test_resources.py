"""What a process takes from its machine, as psutil tells it: what grows is counted, what stands is set."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING

import psutil

from expirytrack_dagster.observe.metrics import MetricsCollector
from expirytrack_dagster.observe.resources import ResourceMeter

if TYPE_CHECKING:
    import pytest


@dataclass
class Machine:
    """A process as psutil would tell of it; the disk is never read in a test whose files are in memory."""

    seconds: float = 1.0
    read: int = 0
    written: int = 0
    rss: int = 50_000_000

    def cpu_percent(self) -> float:
        """Return a load."""
        return 40.0

    def cpu_times(self) -> SimpleNamespace:
        """Return the processor's seconds."""
        return SimpleNamespace(user=self.seconds, system=0.0)

    def io_counters(self) -> SimpleNamespace:
        """Return the disk's bytes."""
        return SimpleNamespace(read_bytes=self.read, write_bytes=self.written)

    def memory_info(self) -> SimpleNamespace:
        """Return the memory."""
        return SimpleNamespace(rss=self.rss)


def value(collector: MetricsCollector, name: str) -> float | None:
    """Return a sample without labels."""
    return collector.registry.get_sample_value(f"expirytrack_{name}")


def test_what_grows_is_counted_from_the_first_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the difference to the look before; what was used before the meter began is not this run's."""
    machine = Machine(read=1_000, written=2_000)
    monkeypatch.setattr(psutil, "Process", lambda: machine)
    meter, collector = ResourceMeter(), MetricsCollector()
    meter.look(collector)
    assert value(collector, "disk_read_bytes_total") == 0
    machine.read, machine.written, machine.seconds = 5_096, 2_500, 3.5
    meter.look(collector)
    meter.look(collector)
    assert value(collector, "disk_read_bytes_total") == 4_096
    assert value(collector, "disk_written_bytes_total") == 500
    assert value(collector, "cpu_seconds_total") == 2.5
    assert (value(collector, "memory_bytes"), value(collector, "cpu_percent")) == (50_000_000, 40.0)
