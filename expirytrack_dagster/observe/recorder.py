"""When metrics are kept: every minute while a run or the daemon lives, and at its end, with a line in the log.

What is shared by the home (budgets, breaker, token) is looked up here just before. Whatever fails here is logged and
costs a run nothing but the figures of that minute, which the next save brings.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from expirytrack_dagster.errors import ExpiryTrackError
from expirytrack_dagster.observe import store
from expirytrack_dagster.observe.metrics import MetricsCollector, metrics
from expirytrack_dagster.observe.resources import ResourceMeter
from expirytrack_dagster.upstox.ledger import open_ledger
from expirytrack_dagster.upstox.tokens import token_state

if TYPE_CHECKING:
    from collections.abc import Iterator

    from expirytrack_dagster.settings import Settings

MINUTE = 60.0
_LOG = logging.getLogger(__name__)
_CIRCUIT = {"closed": 0, "half-open": 1, "open": 2}


@contextmanager
def recording(settings: Settings, run_id: str | None = None, *, every: float = MINUTE) -> Iterator[None]:
    """Keep the metrics of this process for the length of the block: at once, every so many seconds, and at its end.

    Args:
        settings: the home, for how long rows are kept, and whether metrics are kept at all.
        run_id: the run that the block is; None outside of runs.
        every: seconds between two saves; a process that is killed loses what it counted since the last one, except
            for requests, whose ledger is read by whoever saves next.
    """
    if not settings.metrics:
        yield
        return
    recorder = Recorder(settings, run_id)
    done = threading.Event()

    def work() -> None:
        recorder.save()
        while not done.wait(every):
            recorder.save()

    thread = threading.Thread(target=work, name="metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        recorder.save()
        recorder.close()


class Recorder:
    """Looks at what is shared by the home and by the process, and keeps it together with what was counted."""

    def __init__(self, settings: Settings, run_id: str | None = None) -> None:
        """Begin to measure the process."""
        self._settings = settings
        self._run_id = run_id
        self._ledger = open_ledger(settings)
        self._meter = ResourceMeter()

    def save(self) -> int:
        """Keep all that has news and return the number of rows: 0 where the database could not be written."""
        collector = metrics()
        try:
            self._meter.look(collector)
            self._look(collector)
            days = self._settings.metrics_days
            rows = store.save(self._ledger.state, self._run_id, time.time(), keep_days=days, collector=collector)
        except ExpiryTrackError as error:
            _LOG.warning("Metrics were not kept, the next save brings them: %s", error)
            return 0
        if _LOG.isEnabledFor(logging.INFO):
            _LOG.info("metrics", extra={"metrics": figures(collector)})
        return rows

    def close(self) -> None:
        """Close the database."""
        self._ledger.state.close()

    def _look(self, collector: MetricsCollector) -> None:
        for scope in self._ledger.all_scopes():
            budget = self._ledger.budget(scope)
            for window in budget.windows:
                left = max(0, window.limit.requests - window.used)
                collector.budget_left.labels(scope, f"{window.limit.seconds:g}").set(left)
            collector.cooldown_seconds.labels(scope).set(round(budget.cooldown_seconds, 3))
            collector.breaker.labels(scope).set(_CIRCUIT[budget.circuit_state])
        left_of_token = token_state(self._settings).seconds_left
        collector.token_minutes_left.set(float("nan") if left_of_token is None else left_of_token // 60)


def figures(collector: MetricsCollector) -> dict[str, float]:
    """Return this process's figures for its log: sums and gauges by name and labels, without the buckets."""
    found = {}
    for family in collector.registry.collect():
        for sample in family.samples:
            if sample.value and sample.value == sample.value and not sample.name.endswith(("_bucket", "_created")):
                labels = ",".join(sample.labels.values())
                found[f"{sample.name}{{{labels}}}" if labels else sample.name] = round(sample.value, 3)
    return found
