"""The table of metrics: sums over processes, what each save added, gauges of the living, no growth for ever."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from expirytrack_dagster.errors import StateLocked
from expirytrack_dagster.observe import store
from expirytrack_dagster.observe.metrics import MetricsCollector, catalogue
from expirytrack_dagster.state import StateDatabase, schema
from expirytrack_dagster.state_address import StateAddress
from expirytrack_dagster.upstox.calls import Call, Endpoint, Receipt
from expirytrack_dagster.upstox.ledger import RequestLedger, family_scope
from expirytrack_dagster_tests.engines import Engine, HostClock, TimedState
from expirytrack_dagster_tests.statements import sql

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Connection

STORED, CALLS = "expirytrack_candles_stored_total", "expirytrack_api_calls_total"
MEMORY, BUDGET = "expirytrack_memory_bytes", "expirytrack_budget_left"
NETWORK = "expirytrack_network_sent_bytes_per_second"
NOW = 1_000_000.0
DAY = 86_400.0


@pytest.fixture
def state(engine: Engine) -> Iterator[StateDatabase]:
    """Give an empty state database that goes by the time of the test."""
    with TimedState(engine, timeout=0.5) as database:
        yield database


def last(state: StateDatabase, name: str, now: float = NOW) -> list[float]:
    """Return the last values of a name's series."""
    return [sample.value for sample in store.latest(state, [name], now=now)[name]]


def test_processes_add_up(state: StateDatabase) -> None:
    """A counter goes on where all others left it, whichever process saves; each row says what it added, and whose."""
    one, other = MetricsCollector(), MetricsCollector()
    for collector, rows, run in ((one, 5, "a"), (other, 7, "b"), (one, 2, "a")):
        collector.candles_stored.inc(rows)
        store.save(state, run, NOW, collector=collector)
    samples = store.series(state, STORED, 0)
    assert [(one.run_id, one.added, one.value) for one in samples] == [("a", 5, 5), ("b", 7, 12), ("a", 2, 14)]
    assert last(state, STORED) == [14]
    assert store.growth(state, STORED, 0) == 14


def test_what_has_no_news_is_not_written(state: StateDatabase) -> None:
    """A second save of a process at rest writes nothing; a gauge that fell to zero is written once."""
    collector = MetricsCollector()
    collector.budget_left.labels("account", "60").set(500)
    collector.active_workers.labels("candles").set(3)
    assert store.save(state, None, NOW, collector=collector) == 2
    assert store.save(state, None, NOW, collector=collector) == 1, "a process shows that it lives"
    collector.active_workers.labels("candles").set(0)
    assert store.save(state, None, NOW, collector=collector) == 1
    assert store.save(state, None, NOW, collector=collector) == 0


def test_a_gauge_of_a_killed_process_is_let_go(state: StateDatabase) -> None:
    """After three saves without a word; what describes the home stays."""
    collector = MetricsCollector()
    collector.memory_bytes.set(1e6)
    collector.budget_left.labels("account", "60").set(500)
    store.save(state, None, NOW, collector=collector)
    assert last(state, MEMORY, NOW + store.ALIVE_SECONDS) == [1e6]
    assert last(state, MEMORY, NOW + store.ALIVE_SECONDS + 1) == []
    assert last(state, BUDGET, NOW + DAY) == [500]


def test_hosts_with_the_same_numbers_are_told_apart(state: StateDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every container's first process has the number 1; what describes the home has no host."""
    for host, size, at in (("one~1a", 1e6, NOW), ("two~2b", 2e6, NOW + 60)):
        monkeypatch.setattr(store, "this_host", lambda name=host: name)
        collector = MetricsCollector()
        collector.memory_bytes.set(size)
        collector.network_sent.set(size / 10)
        collector.budget_left.labels("account", "60").set(size)
        store.save(state, None, at, collector=collector)
    for name, last_minute in ((MEMORY, 2e6), (NETWORK, 2e5)):
        found = {one.host: one.value for one in store.latest(state, [name], now=NOW + 60)[name]}
        assert found == {"one~1a": last_minute / 2, "two~2b": last_minute}
        assert last(state, name, NOW + store.ALIVE_SECONDS + 1) == [last_minute]
    assert [(one.host, one.value) for one in store.latest(state, [BUDGET])[BUDGET]] == [(None, 2e6)]


def test_figures_from_before_hosts_were_told_apart_are_let_go(tmp_path: Path) -> None:
    """A gauge of a machine was kept as one of the home, whose last row would stay for ever."""
    kept = "INSERT INTO metrics (saved_at, pid, name, labels, value) VALUES (?, ?, ?, '{}', 5)"
    with closing(sqlite3.connect(tmp_path / "state.sqlite", isolation_level=None)) as database:
        for number, script in enumerate(schema.scripts()[:8], start=1):
            database.executescript(f"{schema.for_sqlite(script)}\nPRAGMA user_version = {number};")
        database.executemany(kept, [(NOW, 1, MEMORY), (NOW, None, NETWORK), (NOW, None, BUDGET)])
    with StateDatabase(tmp_path / "state.sqlite") as state:
        assert {name for name, found in store.latest(state, now=NOW).items() if found} == {MEMORY, NETWORK, BUDGET}
        assert {name for name, found in store.latest(state, now=NOW + DAY).items() if found} == {BUDGET}


def test_a_locked_database_loses_nothing(state: StateDatabase) -> None:
    """The save that fails keeps nothing, and the next one brings it all."""
    collector = MetricsCollector()
    collector.candles_stored.inc(5)
    store.save(state, None, NOW, collector=collector)
    collector.candles_stored.inc(3)
    with StateDatabase(state.address) as holder, holder.transaction(), pytest.raises(StateLocked):
        store.save(state, None, NOW, collector=collector)
    store.save(state, None, NOW, collector=collector)
    assert last(state, STORED) == [8]


def test_retention_keeps_the_last_of_each_series(state: StateDatabase) -> None:
    """Old rows go at the next save; sums stay, gauges of processes go whole."""
    collector = MetricsCollector()
    for day in range(10):
        collector.candles_stored.inc()
        collector.memory_bytes.set(day)
        collector.breaker.labels("account").set(1)
        store.save(state, None, NOW + day * DAY, keep_days=3, collector=collector)
    assert [one.value for one in store.series(state, STORED, 0)] == [7, 8, 9, 10]
    later = MetricsCollector()
    later.candles_duplicate.inc()
    store.save(state, None, NOW + 30 * DAY, keep_days=3, collector=later)
    names = state.query(sql("SELECT name, value FROM metrics ORDER BY name"))
    assert names == [
        ("expirytrack_breaker", 1),
        ("expirytrack_candles_duplicate_total", 1),
        (STORED, 10),
    ]


@example([*[("settle", 0, 200)] * 6, ("back", 1, 200), ("back", 1, 200), ("back", 0, 200), ("settle", 0, 200)])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    requests=st.lists(
        st.tuples(st.sampled_from(["settle", "back", "kill"]), st.integers(0, 5), st.sampled_from([200, 429, 503])),
        max_size=30,
    )
)
def test_requests_are_counted_once_however_they_end(engine: Engine, requests: list[tuple[str, int, int]]) -> None:
    """Saves at any instant between slots, answers in any order, kills: the table has what the ledger has."""
    clock = HostClock(engine, time=NOW)
    with TimedState(engine) as state:
        ledger = RequestLedger(state, (), clock=clock)
        waiting: list[tuple[int, str, int, int]] = []
        for number, (end, delay, status) in enumerate(requests):
            slot = ledger.acquire(Call("candles"), attempt=1 + number % 2, lease=30, run_id=f"run {number % 3}")
            assert isinstance(slot, int)
            waiting.append((number + delay, end, slot, status))
            for due in [entry for entry in waiting if entry[0] <= number]:
                _end(ledger, due, clock.now())
                waiting.remove(due)
            clock.time += 1
            if number % 4 == 3:
                store.save(state, None, clock.time, collector=MetricsCollector())
        for due in waiting:
            _end(ledger, due, clock.now())
        store.save(state, None, clock.time + 30, collector=MetricsCollector())
        counted = store.latest(state, [CALLS])[CALLS]
        booked = state.query(sql("SELECT status, count(*) FROM requests GROUP BY 1"))
        assert {one.labels["status"]: one.value for one in counted} == {
            str(status or "none"): n for status, n in booked
        }
        by_run = state.query(sql("SELECT run_id, sum(added) FROM metrics WHERE name = ? GROUP BY 1 ORDER BY 1", CALLS))
        assert by_run == state.query(sql("SELECT run_id, count(*) FROM requests GROUP BY 1 ORDER BY 1"))
        (again,) = state.query(sql("SELECT count(*) FROM requests WHERE attempt > 1"))[0]
        assert store.growth(state, "expirytrack_api_retries_total", 0) == again


def test_a_request_that_is_committed_late_is_counted(postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scopes do not wait for one another, so that a number may be there before a smaller one is; a save misses none."""
    address = StateAddress("postgresql", postgres)
    with StateDatabase(address, timeout=0.3) as state, StateDatabase(address) as other:
        one, late = (RequestLedger(each, (), scope_of=family_scope) for each in (state, other))
        _end(late, (0, "settle", _slot(late, "expiries"), 200), NOW)

        def slowly(work: Callable[[Connection], object], *, alone: bool) -> object:
            with other.transaction(alone=alone) as connection:
                done = work(connection)
                _end(one, (0, "settle", _slot(one, "candles"), 200), NOW)
                with suppress(StateLocked):
                    store.save(state, None, NOW, collector=MetricsCollector())
                return done

        with monkeypatch.context() as patch:
            patch.setattr(other, "write", slowly)
            slot = _slot(late, "expiries")
        _end(late, (0, "settle", slot, 200), NOW)
        store.save(state, None, NOW, collector=MetricsCollector())
        assert sum(last(state, CALLS)) == 3


def _slot(ledger: RequestLedger, endpoint: Endpoint) -> int:
    slot = ledger.acquire(Call(endpoint))
    assert isinstance(slot, int)
    return slot


def _end(ledger: RequestLedger, due: tuple[int, str, int, int], now: float) -> None:
    _, end, slot, status = due
    if end == "settle":
        ledger.settle(slot, Receipt("ok" if status == 200 else "http_error", now, status))
    elif end == "back":
        ledger.give_back(slot)


def test_a_quantile_is_a_bound_of_what_was_observed_since(state: StateDatabase) -> None:
    """Of nine fast and one slow answer, nine tenths lie under a small bound; what was before does not count."""
    before, since = MetricsCollector(), MetricsCollector()
    for _ in range(50):
        before.insert_seconds.labels("candles").observe(50)
    store.save(state, None, NOW, collector=before)
    for seconds in (*[0.004] * 6, *[0.04] * 3, 20):
        since.insert_seconds.labels("contracts").observe(seconds)
    store.save(state, None, NOW + 60, collector=since)
    bounds = [store.quantile(state, "expirytrack_insert_seconds", share, NOW + 1) for share in (0.6, 0.9, 0.95)]
    assert bounds == [0.01, 0.05, 30.0]
    assert store.quantile(state, "expirytrack_cell_seconds", 0.5, 0) is None


def test_a_save_is_cheap_however_long_the_past(tmp_path: Path) -> None:
    """With 120,000 rows behind it, a save takes no more of SQLite's work than a few statements do."""
    state = StateDatabase(tmp_path / "state.sqlite")
    with state.transaction() as connection:
        connection.execute(
            sql(
                "WITH RECURSIVE minutes (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM minutes WHERE n < 120000)"
                " INSERT INTO metrics (saved_at, name, labels, value, added)"
                " SELECT n, 'expirytrack_x' || n % 8, '{}', n, 1 FROM minutes"
            )
        )
    collector = MetricsCollector()
    collector.candles_stored.inc()
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    with state.transaction() as connection:  # this thread's one connection
        driver = connection.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        driver.set_progress_handler(step, 1000)
    store.save(state, None, NOW, collector=collector, keep_days=NOW)
    assert steps < 5, "thousands of SQLite's instructions"


def test_the_catalogue_says_what_each_metric_is() -> None:
    """Names are unique and of Prometheus's form, each has a unit and one sentence."""
    names = [metric.name for metric in catalogue()]
    assert len(set(names)) == len(names)
    for metric in catalogue():
        assert metric.name.startswith("expirytrack_")
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert metric.unit
        assert metric.meaning.endswith(".")


def test_the_documentation_has_every_metric_as_it_is() -> None:
    """Each row of the page is the catalogue's, word for word, and the page has no other."""
    page = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `expirytrack_")]
    assert rows == [
        f"| `{metric.name}` | {metric.kind} | {metric.unit} | {', '.join(metric.labels)} | {metric.meaning} |"
        for metric in catalogue()
    ]
