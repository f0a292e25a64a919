"""What is counted and measured, each under one name with its unit and meaning; one collector a process.

Whoever does something counts it here: `metrics().candles_stored.inc(rows)`. Requests alone are counted from their
ledger (`store.py`), which knows those of every process, also of one that was killed. Keeping the figures belongs to
`store.py`, when to keep them to `recorder.py`. Importing this module does no work.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from prometheus_client import Counter, Gauge, Histogram, Summary

PREFIX = "expirytrack_"

RESPONSE_SECONDS = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
INSERT_SECONDS = (0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
CELL_SECONDS = (1.0, 5.0, 15.0, 60.0, 180.0, 600.0, 1800.0, 3600.0, 7200.0)

Kind = Literal["counter", "gauge", "histogram", "summary"]
Of = Literal["home", "host", "process"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One entry of the catalogue.

    Attributes:
        name: As in the table `metrics` and at `/metrics`; a histogram's samples end in `_bucket`, `_sum` and `_count`,
            a summary's in `_sum` and `_count`.
        kind: Counters, histograms and summaries only grow, over all processes of a home; a gauge is its last value.
        unit: In words.
        labels: What tells its series apart.
        meaning: One sentence.
        of: Whose it is. A gauge that each host or each process has for itself counts while it is heard of; those of
            the living add up.
    """

    name: str
    kind: Kind
    unit: str
    labels: tuple[str, ...]
    meaning: str
    of: Of = "home"


@dataclass(frozen=True, slots=True)
class Reading:
    """A sample of this process: its value, and by how much it grew since it was kept (None for a gauge)."""

    name: str
    labels: tuple[tuple[str, str], ...]
    value: float
    added: float | None
    of: Of = "home"


class MetricsCollector:
    """The metrics of one process, in a registry of their own."""

    def __init__(self) -> None:
        """Make every metric; all begin at zero."""
        from prometheus_client import CollectorRegistry  # noqa: PLC0415 -- of no use to a command that counts nothing

        self.registry = CollectorRegistry()
        self._catalogue: dict[str, Metric] = {}
        self._kept: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self.keeping = threading.Lock()
        """Held by whoever keeps the readings, from taking them until they are kept."""

        of_api = ("endpoint",)
        self.api_calls = self._counter(
            "api_calls",
            "requests",
            "Requests sent to Upstox, retries included; the status is HTTP's, or none where no answer came.",
            ("endpoint", "status"),
        )
        self.api_retries = self._counter(
            "api_retries", "requests", "Requests that repeat one that failed; among the calls.", of_api
        )
        self.api_too_fast = self._counter(
            "api_too_fast", "requests", "Requests answered 429, which pauses every process; among the calls.", of_api
        )
        self.api_bytes = self._counter("api_bytes", "bytes", "Size of the answers, unpacked.", of_api)
        self.api_response_seconds = self._histogram(
            "api_response_seconds", "From taking a request's slot to its answer's arrival.", RESPONSE_SECONDS, of_api
        )
        self.candles_received = self._counter(
            "candles_received", "candles", "Rows that the answers of stored cells held."
        )
        self.candles_stored = self._counter("candles_stored", "candles", "Rows written to the archive as candles.")
        self.candles_quarantined = self._counter(
            "candles_quarantined",
            "candles",
            "Rows written to quarantine, because they broke a rule; of those received, the validation failure rate.",
        )
        self.candles_duplicate = self._counter(
            "candles_duplicate", "candles", "Rows received twice, exactly alike, of which one was dropped."
        )
        self.contracts_processed = self._counter(
            "contracts_processed", "contracts", "Contracts stored, by the state that their answers proved.", ("status",)
        )
        self.insert_seconds = self._histogram(
            "insert_seconds", "One transaction of the archive, waiting for others included.", INSERT_SECONDS, ("table",)
        )
        self.cell_seconds = self._histogram(
            "cell_seconds", "A cell from its first question until it is stored: end-to-end processing.", CELL_SECONDS
        )
        self.rows_per_second = self._summary(
            "rows_per_second", "candles a second", "How fast a cell's rows were written: data points inserted a second."
        )
        self.contracts_per_hour = self._summary(
            "contracts_per_hour", "contracts an hour", "How fast a cell's contracts were processed, end to end."
        )
        self.completeness_percent = self._gauge(
            "completeness_percent",
            "per cent",
            "Contracts of an underlying that are complete or proven empty, of those known; as of the last coverage.",
            ("underlying",),
        )
        self.cell_completeness_percent = self._gauge(
            "cell_completeness_percent",
            "per cent",
            "Contracts of the cell judged last that are complete or proven empty, of those listed.",
        )
        self.active_workers = self._gauge("active_workers", "requests", "Requests under way.", ("stage",), of="process")
        self.queue_length = self._gauge(
            "queue_length", "requests", "Requests that wait for a slot.", ("stage",), of="process"
        )
        self.budget_left = self._gauge(
            "budget_left", "requests", "What a rate limit still allows in its window.", ("scope", "window_seconds")
        )
        self.cooldown_seconds = self._gauge(
            "cooldown_seconds", "seconds", "For how long nobody asks, because Upstox refused.", ("scope",)
        )
        self.breaker = self._gauge(
            "breaker", "state", "The circuit breaker: 0 closed, 1 half-open, 2 open.", ("scope",)
        )
        self.token_minutes_left = self._gauge(
            "token_minutes_left", "minutes", "Until the access token dies; 0 without one, absent where nobody knows."
        )
        self.memory_bytes = self._gauge("memory_bytes", "bytes", "Resident memory.", of="process")
        self.cpu_percent = self._gauge(
            "cpu_percent", "per cent of one core", "Processor use since the last look.", of="process"
        )
        self.cpu_seconds = self._counter("cpu_seconds", "seconds", "Processor time used.")
        self.disk_read_bytes = self._counter("disk_read_bytes", "bytes", "Read from disks; not known on macOS.")
        self.disk_written_bytes = self._counter("disk_written_bytes", "bytes", "Written to disks; not known on macOS.")
        self.network_received = self._gauge(
            "network_received_bytes_per_second",
            "bytes a second",
            "Received by this machine since the last look.",
            of="host",
        )
        self.network_sent = self._gauge(
            "network_sent_bytes_per_second", "bytes a second", "Sent by this machine since the last look.", of="host"
        )

    @property
    def catalogue(self) -> tuple[Metric, ...]:
        """Every metric, in the order of its making."""
        return tuple(self._catalogue.values())

    def readings(self) -> list[Reading]:
        """Return the samples that have news: what grew since it was kept, and what a gauge shows now.

        A gauge is left out while it shows what was kept; that of a host or a process only while it shows zero.
        """
        found = []
        for family in self.registry.collect():
            metric = self._catalogue[f"{family.name}_total" if family.type == "counter" else family.name]
            grows = metric.kind != "gauge"
            for sample in family.samples:
                labels = tuple(sorted(sample.labels.items()))
                kept = self._kept.get((sample.name, labels), 0.0 if grows else math.nan)
                alive = metric.of != "home" and sample.value != 0
                if sample.name.endswith("_created") or math.isnan(sample.value) or (sample.value == kept and not alive):
                    continue
                added = sample.value - kept if grows else None
                found.append(Reading(sample.name, labels, sample.value, added, metric.of))
        return found

    def has_kept(self, readings: list[Reading]) -> None:
        """Remember what was kept."""
        self._kept.update({(reading.name, reading.labels): reading.value for reading in readings})

    def _counter(self, name: str, unit: str, meaning: str, labels: tuple[str, ...] = ()) -> Counter:
        from prometheus_client import Counter  # noqa: PLC0415 -- as above

        self._note(Metric(f"{PREFIX}{name}_total", "counter", unit, labels, meaning))
        return Counter(f"{PREFIX}{name}", meaning, labels, registry=self.registry)

    def _gauge(self, name: str, unit: str, meaning: str, labels: tuple[str, ...] = (), *, of: Of = "home") -> Gauge:
        from prometheus_client import Gauge  # noqa: PLC0415 -- as above

        self._note(Metric(f"{PREFIX}{name}", "gauge", unit, labels, meaning, of))
        gauge = Gauge(f"{PREFIX}{name}", meaning, labels, registry=self.registry)
        if not labels:
            gauge.set(math.nan)  # shows nothing until somebody sets it
        return gauge

    def _histogram(
        self, name: str, meaning: str, buckets: tuple[float, ...], labels: tuple[str, ...] = ()
    ) -> Histogram:
        from prometheus_client import Histogram  # noqa: PLC0415 -- as above

        self._note(Metric(f"{PREFIX}{name}", "histogram", "seconds", labels, meaning))
        return Histogram(f"{PREFIX}{name}", meaning, labels, registry=self.registry, buckets=buckets)

    def _summary(self, name: str, unit: str, meaning: str) -> Summary:
        from prometheus_client import Summary  # noqa: PLC0415 -- as above

        self._note(Metric(f"{PREFIX}{name}", "summary", unit, (), meaning))
        return Summary(f"{PREFIX}{name}", meaning, registry=self.registry)

    def _note(self, metric: Metric) -> None:
        self._catalogue[metric.name] = metric


@cache
def metrics() -> MetricsCollector:
    """Return the collector of this process, made at first use."""
    return MetricsCollector()


def catalogue() -> tuple[Metric, ...]:
    """Return every metric with its unit and meaning, for the documentation and whoever shows them."""
    return MetricsCollector().catalogue
