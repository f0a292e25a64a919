"""What the process takes from its machine: memory, processor, disk and network, read through psutil on every system.

prometheus_client's own collector knows Linux alone.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from expirytrack_dagster.observe.metrics import MetricsCollector


class ResourceMeter:
    """Reads the process at every look; what grows is counted from the first look on."""

    def __init__(self) -> None:
        """Begin to count."""
        self._process = psutil.Process()
        self._process.cpu_percent()
        self._seen = self._grown()
        self._network = psutil.net_io_counters()
        self._looked = time.monotonic()

    def look(self, collector: MetricsCollector) -> None:
        """Set the gauges, and add to the counters what was used since the last look."""
        collector.memory_bytes.set(self._process.memory_info().rss)
        collector.cpu_percent.set(self._process.cpu_percent())
        counters = (collector.cpu_seconds, collector.disk_read_bytes, collector.disk_written_bytes)
        grown = self._grown()
        for counter, before, after in zip(counters, self._seen, grown, strict=True):
            counter.inc(max(0.0, after - before))
        self._seen = grown
        now, network = time.monotonic(), psutil.net_io_counters()
        if network is not None and self._network is not None and now > self._looked:
            seconds = now - self._looked
            collector.network_received.set(max(0, network.bytes_recv - self._network.bytes_recv) / seconds)
            collector.network_sent.set(max(0, network.bytes_sent - self._network.bytes_sent) / seconds)
        self._looked, self._network = now, network

    def _grown(self) -> tuple[float, float, float]:
        times = self._process.cpu_times()
        if not hasattr(self._process, "io_counters"):  # macOS
            return times.user + times.system, 0.0, 0.0
        disk = self._process.io_counters()
        return times.user + times.system, float(disk.read_bytes), float(disk.write_bytes)
