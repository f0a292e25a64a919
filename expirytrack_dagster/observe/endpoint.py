"""`/metrics` for Prometheus: what all processes of a home did, read from the table when it is asked.

No process answers for itself alone, so it does not matter which one is asked, and nothing is lost with a process that
has ended. The figures are a minute old at most. Why it is so: `docs/decisions/0090-metrics-from-ledger-and-table.md`.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.observe import store
from expirytrack_dagster.observe.metrics import catalogue
from expirytrack_dagster.state import StateDatabase, open_state

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from expirytrack_dagster.settings import Settings


class HomeCollector(Collector):
    """Gives the last samples of a home's table to prometheus_client."""

    def __init__(self, state: StateDatabase) -> None:
        """Read from this database, whenever it is asked."""
        self._state = state

    def collect(self) -> Iterable[Family]:
        """Yield a family for every metric that has samples."""
        samples = store.latest(self._state, now=time.time())
        endings = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("_sum", "_count")}
        for metric in catalogue():
            family = Family(metric.name.removesuffix("_total"), metric.meaning, metric.kind)
            for ending in endings.get(metric.kind, ("",)):
                for sample in samples.get(metric.name + ending, ()):
                    whose = {"host": sample.host, "pid": sample.pid}
                    known = {name: str(value) for name, value in whose.items() if value is not None}
                    family.add_sample(sample.name, sample.labels | known, sample.value)
            if family.samples:
                yield family

    def describe(self) -> Iterable[Family]:
        """Promise nothing, so that registering does not read the table."""
        return []


def registry_of(state: StateDatabase) -> CollectorRegistry:
    """Return a registry that holds the metrics of a home, for `prometheus_client.exposition`."""
    registry = CollectorRegistry()
    registry.register(HomeCollector(state))
    return registry


@contextmanager
def serving(settings: Settings) -> Iterator[str | None]:
    """Serve `/metrics` in threads for the length of the block and yield its address; None where no port is set.

    Raises:
        ConfigurationError: the address cannot be had.
    """
    host, port = settings.metrics_host, settings.metrics_port
    if port is None:
        yield None
        return
    with open_state(settings) as state:
        try:
            server, thread = start_http_server(port, addr=host, registry=registry_of(state))
        except OSError as error:
            raise ConfigurationError(
                f"/metrics cannot be served at {host}:{port} ({error.strerror or error}): choose another "
                "EXPIRYTRACK_METRICS_PORT."
            ) from error
        try:
            yield f"http://[{host}]:{port}/metrics" if ":" in host else f"http://{host}:{port}/metrics"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
