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
from typing import TYPE_CHECKING, Any

from sqlalchemy import Double, bindparam, case, delete, func, insert, select, update

from expirytrack_dagster.observe.metrics import MetricsCollector, metrics
from expirytrack_dagster.processes import this_host
from expirytrack_dagster.state.tables import metered
from expirytrack_dagster.state.tables import metrics as _METRICS  # noqa: N812 -- a table, beside the function
from expirytrack_dagster.upstox.budget import Booked, ended_since

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from sqlalchemy import Connection, Delete, Insert

    from expirytrack_dagster.observe.metrics import Reading
    from expirytrack_dagster.state import StateDatabase

ALIVE_SECONDS = 180.0
"""How long a gauge of a host or a process counts: three saves. A process that was killed saves no zero."""

TOO_FAST = 429
_ROW = _METRICS.c


@dataclass(frozen=True, slots=True)
class Sample:
    """One row: `value` over the home, `added` by this row (None for a gauge).

    A gauge of a host has a `host`, one of a process a `pid` too.
    """

    name: str
    labels: dict[str, str]
    value: float
    added: float | None
    saved_at: float
    run_id: str | None
    pid: int | None
    host: str | None


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
        StateBusy, StorageError: nothing was kept; the next save keeps it.
    """
    collector = collector or metrics()
    with collector.keeping:
        own, at = collector.readings(), state.now(now)

        def work(connection: Connection) -> int:
            rows = _insert(connection, own, run_id, at)
            if keep_days < math.inf:
                connection.execute(_FORGET, {"oldest": at - keep_days * 86_400})
            for run, readings in _of_ledger(connection, at):  # last, because requests wait from here to the end
                rows += _insert(connection, readings, run, at)
            return rows

        rows = state.write(work)
        collector.has_kept(own)
    return rows


def latest(state: StateDatabase, names: Collection[str] = (), *, now: float = math.inf) -> dict[str, list[Sample]]:
    """Return the last sample of every series of these names, or of all names.

    Args:
        state: the state database.
        names: samples' names, such as `expirytrack_candles_stored_total`.
        now: seconds since the epoch; gauges of hosts and processes that were silent for `ALIVE_SECONDS` before it are
            left out.
    """
    newest = select(func.max(_ROW.id)).group_by(_ROW.name, _ROW.labels, _ROW.host, _ROW.pid)
    if names:
        newest = newest.where(_ROW.name.in_([*names]))
    wanted = _SELECT.where(_ROW.id.in_(newest)).order_by(_ROW.name, _ROW.labels, _ROW.id)
    if now < math.inf:
        wanted = wanted.where(_ROW.host.is_(None) | (_ROW.saved_at >= state.now(now) - ALIVE_SECONDS))
    rows = state.query(wanted)
    found: dict[str, list[Sample]] = {name: [] for name in names}
    for row in rows:
        found.setdefault(row[0], []).append(_sample(row))
    return found


def series(state: StateDatabase, name: str, since: float) -> list[Sample]:
    """Return the samples of a name that were saved at this time (seconds since the epoch) or later, oldest first."""
    rows = state.query(_SELECT.where(_ROW.name == name, _ROW.saved_at >= since).order_by(_ROW.id))
    return [_sample(row) for row in rows]


def growth(state: StateDatabase, name: str, since: float) -> float:
    """Return by how much the series of a name have grown together since then (seconds since the epoch)."""
    grown = select(func.coalesce(func.sum(_ROW.added), 0.0)).where(_ROW.name == name, _ROW.saved_at >= since)
    return float(state.query(grown)[0][0])


def quantile(state: StateDatabase, histogram: str, share: float, since: float) -> float | None:
    """Return the bound under which this share (0 to 1) of what was observed since then lies; None without any.

    It is the upper bound of a histogram's bucket, infinite in the last one: never too small, at most a bucket too big.
    """
    grown: dict[float, float] = defaultdict(float)
    for sample in series(state, f"{histogram}_bucket", since):
        grown[float(sample.labels["le"])] += sample.added or 0.0
    total = max(grown.values(), default=0.0)
    return min(bound for bound, count in grown.items() if count >= share * total) if total else None


def _insert(connection: Connection, readings: Iterable[Reading], run_id: str | None, now: float) -> int:
    rows = [
        {
            "saved_at": now,
            "run_id": run_id,
            "pid": os.getpid() if reading.of == "process" else None,
            "host": None if reading.of == "home" else this_host(),
            "name": reading.name,
            "labels": json.dumps(dict(reading.labels), separators=(",", ":")),
            "value": reading.value if reading.added is None else reading.added,
            "added": reading.added,
        }
        for reading in readings
    ]
    for row in rows:
        connection.execute(_INSERT, row)
    return len(rows)


def _of_ledger(connection: Connection, now: float) -> Iterable[tuple[str | None, list[Reading]]]:
    """Yield, run by run, what the requests that have ended since the last save add."""
    upto, under_way = connection.execute(select(metered)).one()
    booked, seen, still = ended_since(connection, upto, json.loads(under_way), now)
    connection.execute(update(metered).values(upto=seen, open=json.dumps(still)))
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


def _sample(row: tuple[Any, ...]) -> Sample:
    name, labels, *rest = row
    return Sample(name, json.loads(labels), *rest)


def _statements() -> tuple[Insert, Delete]:
    """Return what keeps a sample, added to the last one of its series, and what forgets old ones but a series' last."""
    series = (_ROW.name == bindparam("name"), _ROW.labels == bindparam("labels"))
    last = select(_ROW.value).where(*series).order_by(_ROW.id.desc()).limit(1).scalar_subquery()
    added, value = bindparam("added", type_=Double), bindparam("value", type_=Double)
    worth = case((added.is_(None), value), else_=value + func.coalesce(last, 0.0))
    given = ("saved_at", "run_id", "pid", "host", "name", "labels")
    columns = [bindparam(name, type_=_ROW[name].type) for name in given]
    keep = insert(_METRICS).from_select([*given, "value", "added"], select(*columns, worth, added))
    newer = _METRICS.alias()
    follows = (newer.c.name == _ROW.name, newer.c.labels == _ROW.labels, newer.c.id > _ROW.id)
    is_followed = select(newer.c.id).where(*follows).exists()
    return keep, delete(_METRICS).where(_ROW.saved_at < bindparam("oldest"), _ROW.host.is_not(None) | is_followed)


_INSERT, _FORGET = _statements()
_SELECT = select(_ROW.name, _ROW.labels, _ROW.value, _ROW.added, _ROW.saved_at, _ROW.run_id, _ROW.pid, _ROW.host)
