"""The last minute and the failures of the last half hour, counted from the rows of the ledger itself."""

from __future__ import annotations

from expirytrack_dagster.settings import RateLimit
from expirytrack_dagster.state import StateDatabase
from expirytrack_dagster.upstox.activity import activity
from expirytrack_dagster.upstox.calls import Call, Receipt
from expirytrack_dagster.upstox.ledger import RequestLedger
from expirytrack_dagster_tests.engines import Engine, HostClock


def test_the_last_minute(engine: Engine) -> None:
    """Answers by second, candles, latencies and what is under way; older requests and other scopes do not count."""
    clock = HostClock(engine)
    state = StateDatabase(engine.fresh())
    ledger = RequestLedger(state, (RateLimit(60, 1000),), clock=clock)

    def asked(latency: float, *, run: str = "run-1", rows: int = 10, **receipt: object) -> None:
        taken = ledger.acquire(Call("candles", "X"), run_id=run)
        assert isinstance(taken, int)
        clock.time += latency
        fields = {"outcome": "ok", "status": 200, "rows": rows} | receipt
        ledger.settle(taken, Receipt(counted_at=clock.now(), **fields))  # type: ignore[arg-type]

    asked(0.5, rows=7)
    clock.time += 70.0
    asked(0.5, outcome="http_error", status=429, error_code="UDAPI10005", rows=0)
    clock.time += 9.5
    for _ in range(3):
        asked(0.25)
    asked(0.25, run="run-2", outcome="network_error", status=None, rows=0)
    under_way = ledger.acquire(Call("candles", "Y"))
    assert isinstance(under_way, int)
    seen = activity(state, ["account"], clock.time)
    assert (seen.total, seen.candles, seen.under_way) == (5, 30, 1)
    assert (sum(seen.answers[-2:]), seen.answers[-11]) == (4, 1)
    assert dict(seen.by_run) == {"run-1": 4, "run-2": 1}
    assert (round(seen.latency or 0, 3), round(seen.slowest or 0, 3)) == (0.25, 0.5)
    assert [(failure.what, failure.endpoint, failure.count) for failure in seen.failures] == [
        ("no answer", "candles", 1),
        ("HTTP 429 UDAPI10005", "candles", 1),
    ]
    assert activity(state, ["account of another"], clock.time).total == 0
    clock.time += 61
    later = activity(state, ["account"], clock.time)
    assert (later.total, later.latency, len(later.failures)) == (0, None, 2)
    clock.time += 1800
    assert activity(state, ["account"], clock.time).failures == ()
