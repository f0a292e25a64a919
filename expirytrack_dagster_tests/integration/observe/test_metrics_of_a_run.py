"""A real collection with refusals, retries, bad rows and duplicates: every figure of the catalogue moves, rightly."""

from __future__ import annotations

import base64
import json
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from expirytrack_dagster.backfill import Backfill, track
from expirytrack_dagster.console import ProgressBars
from expirytrack_dagster.definitions import build_defs
from expirytrack_dagster.instance import open_instance
from expirytrack_dagster.observe import logs, store
from expirytrack_dagster.observe.metrics import PREFIX, catalogue, metrics
from expirytrack_dagster.observe.recorder import recording
from expirytrack_dagster.sandbox.planting import Plant
from expirytrack_dagster.sandbox.running import running
from expirytrack_dagster.sandbox.switches import Fault, Switches
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket
from expirytrack_dagster.settings import load_settings
from expirytrack_dagster.state import StateDatabase, open_state
from expirytrack_dagster.upstox.calls import Call
from expirytrack_dagster.upstox.ledger import open_ledger
from expirytrack_dagster.warehouse.connection import open_warehouse
from expirytrack_dagster_tests.statements import sql

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from expirytrack_dagster.observe.metrics import Metric
    from expirytrack_dagster.sandbox.server import Logged
    from expirytrack_dagster.settings import Settings

EXPIRY = date(2025, 8, 21)
MARKET = SyntheticMarket(strikes=3, days=2, today=date(2025, 9, 1))


@dataclass(frozen=True)
class Collected:
    """The home of a collection that has ended, and what the sandbox saw of it."""

    settings: Settings
    state: StateDatabase
    requests: list[Logged]
    began: float
    token: str

    def value(self, name: str, **labels: str) -> float:
        """Return the last value of a series."""
        (found,) = [one.value for one in store.latest(self.state, [name])[name] if one.labels == labels]
        return found


def token_of_two_hours() -> str:
    """Return a token that dies in two hours, counted from now and not from when the tests were gathered."""
    claims = json.dumps({"exp": int(time.time()) + 7200}).encode()
    return f"eyJ0eXAiOiJKV1QifQ.{base64.urlsafe_b64encode(claims).decode().rstrip('=')}.Zm9v"


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collected]:
    """Collect a cell with faults of every kind that is counted, while the metrics are kept ten times a second."""
    keys = [str(row["instrument_key"]) for row in MARKET.option_contracts("NSE_INDEX|Nifty 50", EXPIRY) or []]
    traded = tuple(key for key in keys if len(MARKET.minutes(key) or ()) > 300)[:1]
    faults = (Fault(429, times=1, endpoints=("candles",)), Fault(503, every=5, times=2, endpoints=("candles",)))
    switches = Switches(
        planted=(Plant(traded, ("high_below_low", "exact_duplicate")),), faults=faults, delay_before=(0.03, 0.06)
    )
    with pytest.MonkeyPatch.context() as patch, running(MARKET, switches=switches) as upstox, ExitStack() as cleaned:
        patch.setenv("EXPIRYTRACK_HOME", str(tmp_path_factory.mktemp("observed") / "home"))
        patch.setenv("EXPIRYTRACK_API_URL", upstox.url)
        patch.setenv("EXPIRYTRACK_ACCESS_TOKEN", token := token_of_two_hours())
        settings, began = load_settings(), time.time()
        metrics.cache_clear()
        logs.begin(settings, "test")
        with open_instance(settings) as instance, recording(settings, every=0.1):
            track(settings, instance, "NIFTY")
            outcome = Backfill(settings, instance, ProgressBars()).collect(["NIFTY"], [EXPIRY])
            assert outcome.exit_code == 0, outcome.errors
            job = build_defs().resolve_implicit_global_asset_job_def()
            assert job.execute_in_process(instance=instance, asset_selection=[dg.AssetKey("coverage")]).success
        state = cleaned.enter_context(open_state(settings))
        logs.end()
        yield Collected(settings, state, upstox.requests(), began, token)


def test_requests_are_those_of_the_ledger_and_of_the_api(collected: Collected) -> None:
    """By endpoint and status: the table of metrics, the ledger of requests and the API's own log agree."""
    name = f"{PREFIX}api_calls_total"
    counted = {
        (one.labels["endpoint"], one.labels["status"]): one.value for one in store.latest(collected.state, [name])[name]
    }
    booked = collected.state.query(sql("SELECT endpoint, status, count(*) FROM requests GROUP BY 1, 2"))
    assert counted == {(endpoint, str(status)): number for endpoint, status, number in booked}
    seen = [(entry.endpoint, str(entry.status)) for entry in collected.requests]
    assert counted == {one: seen.count(one) for one in set(seen)}
    assert counted["candles", "429"] == 1
    assert counted["candles", "503"] == 2
    by_run = collected.state.query(sql("SELECT run_id, sum(added) FROM metrics WHERE name = ? GROUP BY 1", name))
    assert dict(by_run) == dict(collected.state.query(sql("SELECT run_id, count(*) FROM requests GROUP BY 1")))


def test_candles_are_those_of_the_archive(collected: Collected) -> None:
    """What was received is what was stored, quarantined and dropped, and the archive holds as many."""
    received, stored, bad, twice = (
        collected.value(f"{PREFIX}candles_{what}_total") for what in ("received", "stored", "quarantined", "duplicate")
    )
    assert received == stored + bad + twice
    assert bad == 1
    assert twice == 1
    with open_warehouse(collected.settings).reading() as connection:
        assert connection.execute("SELECT count(*) FROM candles").fetchone() == (stored,)
        states = connection.execute("SELECT status, count(*) FROM contract_status GROUP BY ALL").fetchall()
    for state, contracts in states:
        assert collected.value(f"{PREFIX}contracts_processed_total", status=state) == contracts


@pytest.mark.parametrize("metric", catalogue(), ids=lambda metric: metric.name)
def test_every_metric_moves(collected: Collected, metric: Metric) -> None:
    """Each name of the catalogue has samples, and all but the breaker of an untroubled home have been above zero.

    A disk is read only where the system does not have it all in memory: that counter is `test_resources`'.
    """
    name = metric.name
    kind = metric.kind
    ending = "_count" if kind in {"histogram", "summary"} else ""
    values = [sample.value for sample in store.series(collected.state, name + ending, collected.began)]
    if not values:
        assert name == f"{PREFIX}disk_read_bytes_total"
        return
    assert max(values) > 0 or name == f"{PREFIX}breaker"


def test_gauges_follow_the_work(collected: Collected) -> None:
    """While it collected, requests were under way, within the workers; at the end, none is, and the budget is less."""
    under_way = [
        one.value
        for one in store.series(collected.state, f"{PREFIX}active_workers", 0)
        if one.labels == {"stage": "candles"}
    ]
    assert 1 <= max(under_way) <= collected.settings.workers
    assert under_way[-1] == 0
    paused = [one.value for one in store.series(collected.state, f"{PREFIX}cooldown_seconds", 0)]
    assert 0 < max(paused) <= 1, "the refusal paused everybody for the shortest window"
    assert paused[-1] == 0
    left = collected.value(f"{PREFIX}budget_left", scope="account", window_seconds="1800")
    assert left == 2000 - len(collected.requests)
    assert 100 < collected.value(f"{PREFIX}token_minutes_left") < 120
    assert collected.value(f"{PREFIX}cell_completeness_percent") == 100
    assert collected.value(f"{PREFIX}completeness_percent", underlying="NIFTY") == 100


def test_response_times_lie_where_the_api_puts_them(collected: Collected) -> None:
    """As many as answers; none faster than the sandbox, and the quantile is a bound of a bucket that says so."""
    answered = collected.state.query(sql("SELECT count(*) FROM requests WHERE latency IS NOT NULL"))[0][0]
    assert store.growth(collected.state, f"{PREFIX}api_response_seconds_count", collected.began) == answered
    p95 = store.quantile(collected.state, f"{PREFIX}api_response_seconds", 0.95, collected.began)
    assert p95 is not None
    assert 0.05 <= p95 <= 5
    assert store.quantile(collected.state, f"{PREFIX}api_response_seconds", 0.95, time.time() + 60) is None


def test_log_lines_say_whose_they_are(collected: Collected) -> None:
    """Every line is JSON; those of httpx name run, cell and contract, Dagster's records and the figures are there."""
    lines = [json.loads(line) for line in read(collected.settings.home)]
    asked = [line for line in lines if line["logger"] == "httpx" and "/historical-candle/" in line["message"]]
    assert len(asked) == sum(entry.endpoint == "candles" for entry in collected.requests)
    runs = {
        run for (run,) in collected.state.query(sql("SELECT DISTINCT run_id FROM requests WHERE endpoint = 'candles'"))
    }
    assert {line["run"] for line in asked} == runs
    assert {line["cell"] for line in asked} == {f"NIFTY {EXPIRY}"}
    assert all(line["contract"].replace("|", "%7C") in line["message"] for line in asked)
    assert any(line["logger"] == "dagster" and line["step"] == "expiries" for line in lines)
    figures = [line["metrics"] for line in lines if line["message"] == "metrics"]
    assert figures[-1][f"{PREFIX}candles_stored_total"] == collected.value(f"{PREFIX}candles_stored_total")
    assert collected.token not in "".join(read(collected.settings.home))


def test_a_killed_process_loses_no_request(collected: Collected) -> None:
    """A request whose process never came back is counted by whoever saves after its lease, as one without an answer."""
    ledger = open_ledger(collected.settings)
    assert isinstance(ledger.acquire(Call("profile"), lease=0.01), int)
    time.sleep(0.02)
    with ledger.state:
        store.save(collected.state, None, time.time())
    assert collected.value(f"{PREFIX}api_calls_total", endpoint="profile", status="none") == 1
    total = sum(one.value for one in store.latest(collected.state, ["expirytrack_api_calls_total"]).popitem()[1])
    assert total == collected.state.query(sql("SELECT count(*) FROM requests"))[0][0]


def read(home: Path) -> list[str]:
    """Return the lines of the log."""
    return (home / "logs" / logs.FILE).read_text(encoding="utf-8").splitlines()
