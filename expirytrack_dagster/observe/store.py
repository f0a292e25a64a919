"""The table `metrics` of the state database: keeping what the processes of a home counted, and reading it back.

A row says what a sample is worth over all processes of the home, so that nothing begins anew with a process, and what
the row added, so that the share of a run or of an hour is a sum. Requests are counted from their ledger in the same
transaction: their figures are those of the ledger, whoever sent them and however its process ended.
"""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from expirytrack_dagster.observe.metrics import MetricsCollector, metrics
from expirytrack_dagster.upstox.ledger import Booked, ended_since

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection, Iterable

    from expirytrack_dagster.observe.metrics import Reading
    from expirytrack_dagster.state import StateDatabase

ALIVE_SECONDS = 180.0
"""How long a gauge of a process counts: three saves. A process that was killed saves no zero."""

TOO_FAST = 429


@dataclass(frozen=True, slots=True)
class Sample:
    """One row: `value` over the home, `added` by this row (None for a gauge), `pid` for a gauge of a process."""

    name: str
    labels: dict[str, str]
    value: float
    added: float | None
    saved_at: float
    run_id: str | None
    pid: int | None


def save(
    state: StateDatabase,
    run_id: str | None,
    now: float,
    *,
    keep_days: float = math.inf,
    collector: MetricsCollector | None = None,
) -> int:
    """Keep what this process counted since its last save, and what became of requests, and return the number of rows.

    Args:
        state: the state database.
        run_id: the run to which this process's own figures belong; requests belong to the run that sent them.
        now: seconds since the epoch.
        keep_days: age of the rows that go, but for the last of each series.
        collector: that of this process if not given.

    Raises:
        StateLocked, StorageError: nothing was kept; the next save keeps it.
    """
    collector = collector or metrics()
    with collector.keeping:
        own = collector.readings()
        with state.transaction() as connection:
            rows = _insert(connection, own, run_id, now)
            for run, readings in _of_ledger(connection, now):
                rows += _insert(connection, readings, run, now)
            connection.execute(_FORGET, (now - keep_days * 86_400,))
        collector.has_kept(own)
    return rows


def latest(state: StateDatabase, names: Collection[str] = (), *, now: float = math.inf) -> dict[str, list[Sample]]:
    """Return the last sample of every series of these names, or of all names.

    Args:
        state: the state database.
        names: samples' names, such as `expirytrack_candles_stored_total`.
        now: seconds since the epoch; gauges of processes that were silent for `ALIVE_SECONDS` before it are left out.
    """
    of_names = "WHERE name IN (SELECT value FROM json_each(:names))" if names else ""
    rows = state.query(
        f"{_SELECT} WHERE id IN (SELECT max(id) FROM metrics {of_names} GROUP BY name, labels, pid)"  # noqa: S608 -- ours
        " AND (pid IS NULL OR saved_at >= :alive) ORDER BY name, labels, id",
        {"names": json.dumps([*names]), "alive": now - ALIVE_SECONDS if now < math.inf else -math.inf},
    )
    found: dict[str, list[Sample]] = {name: [] for name in names}
    for row in rows:
        found.setdefault(row[0], []).append(_sample(row))
    return found


def series(state: StateDatabase, name: str, since: float) -> list[Sample]:
    """Return the samples of a name that were saved at this time (seconds since the epoch) or later, oldest first."""
    rows = state.query(f"{_SELECT} WHERE name = ? AND saved_at >= ? ORDER BY id", (name, since))
    return [_sample(row) for row in rows]


def growth(state: StateDatabase, name: str, since: float) -> float:
    """Return by how much the series of a name have grown together since then (seconds since the epoch)."""
    rows = state.query("SELECT coalesce(sum(added), 0) FROM metrics WHERE name = ? AND saved_at >= ?", (name, since))
    return float(rows[0][0])


def quantile(state: StateDatabase, histogram: str, share: float, since: float) -> float | None:
    """Return the bound under which this share (0 to 1) of what was observed since then lies; None without any.

    It is the upper bound of a histogram's bucket, infinite in the last one: never too small, at most a bucket too big.
    """
    grown: dict[float, float] = defaultdict(float)
    for sample in series(state, f"{histogram}_bucket", since):
        grown[float(sample.labels["le"])] += sample.added or 0.0
    total = max(grown.values(), default=0.0)
    return min(bound for bound, count in grown.items() if count >= share * total) if total else None


def _insert(connection: sqlite3.Connection, readings: Iterable[Reading], run_id: str | None, now: float) -> int:
    rows = [
        {
            "at": now,
            "run": run_id,
            "pid": os.getpid() if reading.of_process else None,
            "name": reading.name,
            "labels": json.dumps(dict(reading.labels), separators=(",", ":")),
            "value": reading.value if reading.added is None else reading.added,
            "added": reading.added,
        }
        for reading in readings
    ]
    connection.executemany(_INSERT, rows)
    return len(rows)


def _of_ledger(connection: sqlite3.Connection, now: float) -> Iterable[tuple[str | None, list[Reading]]]:
    """Yield, run by run, what the requests that have ended since the last save add."""
    upto, under_way = connection.execute("SELECT upto, open FROM metered").fetchone()
    booked, seen, still = ended_since(connection, upto, json.loads(under_way), now)
    connection.execute("UPDATE metered SET upto = ?, open = ?", (seen, json.dumps(still)))
    by_run: dict[str | None, list[Booked]] = defaultdict(list)
    for request in booked:
        by_run[request.run_id].append(request)
    for run_id, requests in by_run.items():
        yield run_id, _counted(requests)


def _counted(requests: Iterable[Booked]) -> list[Reading]:
    counted = MetricsCollector()
    for request in requests:
        endpoint = request.endpoint
        counted.api_calls.labels(endpoint, str(request.status or "none")).inc()
        counted.api_bytes.labels(endpoint).inc(request.bytes)
        if request.attempt > 1:
            counted.api_retries.labels(endpoint).inc()
        if request.status == TOO_FAST:
            counted.api_too_fast.labels(endpoint).inc()
        if request.latency is not None:
            counted.api_response_seconds.labels(endpoint).observe(request.latency)
    return counted.readings()


def _sample(row: tuple[object, ...]) -> Sample:
    name, labels, *rest = row
    return Sample(str(name), json.loads(str(labels)), *rest)  # type: ignore[arg-type]


_INSERT = """
INSERT INTO metrics (saved_at, run_id, pid, name, labels, value, added)
VALUES (:at, :run, :pid, :name, :labels, :value + iif(:added IS NULL, 0, coalesce(
    (SELECT value FROM metrics WHERE name = :name AND labels = :labels ORDER BY id DESC LIMIT 1), 0)), :added)
"""
_FORGET = """
DELETE FROM metrics WHERE saved_at < ? AND (pid IS NOT NULL OR EXISTS (
    SELECT 1 FROM metrics AS newer
    WHERE newer.name = metrics.name AND newer.labels = metrics.labels AND newer.id > metrics.id))
"""
_SELECT = "SELECT name, labels, value, added, saved_at, run_id, pid FROM metrics"
