"""The forecast against the ledger itself: the same arithmetic, before anything is asked."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from expirytrack_dagster.settings import RateLimit
from expirytrack_dagster.state import StateDatabase
from expirytrack_dagster.upstox.calls import Call, Receipt
from expirytrack_dagster.upstox.forecast import Forecast
from expirytrack_dagster.upstox.ledger import RequestLedger, Wait

if TYPE_CHECKING:
    from pathlib import Path

LIMITS = (RateLimit(1, 4), RateLimit(10, 11), RateLimit(60, 30))
CALL = Call("candles", "NSE_FO|1|28-08-2025", {})


class _Clock:
    def __init__(self) -> None:
        self.seconds = 1_000_000.0

    def now(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)
        self.seconds += seconds


def _spend(ledger: RequestLedger, clock: _Clock, requests: int) -> float:
    """Send so many requests as early as they may leave, each answered at once; return when the last one left."""
    for _ in range(requests):
        while isinstance(slot := ledger.acquire(CALL), Wait):
            clock.seconds += slot.seconds
        ledger.settle(slot, Receipt("ok", counted_at=clock.seconds, status=200))
    return clock.seconds


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    before=st.integers(0, 45), pause=st.floats(0, 30), requests=st.integers(1, 100), burst=st.none() | st.integers(1, 4)
)
def test_the_forecast_is_what_happens(
    tmp_path: Path, before: int, pause: float, requests: int, burst: int | None
) -> None:
    """Whatever was spent before, the last request leaves when it was foreseen."""
    clock = _Clock()
    with StateDatabase(tmp_path / f"{before}-{pause}-{requests}-{burst}.sqlite") as state:
        ledger = RequestLedger(state, LIMITS, clock=clock, burst=burst)
        _spend(ledger, clock, before)
        clock.seconds += pause
        forecast = ledger.forecast()
        assert forecast.finish(0) == clock.seconds
        assert _spend(ledger, clock, requests) == pytest.approx(forecast.finish(requests), abs=1e-3)


@pytest.mark.parametrize("requests", [1, 2000, 2001, 50_000, 1_200_000])
def test_many_requests_follow_the_widest_window(requests: int) -> None:
    """2,000 in 30 minutes, for ever, with the burst of the first minutes ahead of it."""
    upstox = (RateLimit(1, 50), RateLimit(60, 500), RateLimit(1800, 2000))
    finish = Forecast(upstox, (), 0.0).finish(requests)
    full = (requests - 1) // 2000 * 1800
    assert full <= finish <= full + 190


@given(st.integers(1, 10_000))
def test_what_fits_before_a_deadline(requests: int) -> None:
    """`until` is the inverse of `finish`: so many leave before, and one more does not."""
    forecast = Forecast((RateLimit(1, 5), RateLimit(60, 100)), (), 100.0)
    deadline = forecast.finish(requests)
    fits = forecast.until(deadline)
    assert fits < requests
    assert forecast.finish(fits + 1) >= deadline
    assert fits == 0 or forecast.finish(fits) < deadline


def test_without_limits_everything_leaves_at_once() -> None:
    """No window, no wait."""
    assert Forecast((), (), 5.0).finish(10**6) == 5.0
    assert Forecast((), (), 5.0).until(6.0) > 10**6
    assert Forecast((), (), 5.0).until(4.0) == 0


def test_a_refused_token_is_remembered_until_the_next_answer(tmp_path: Path) -> None:
    """The last answer alone says whether the token is good."""
    clock = _Clock()
    with StateDatabase(tmp_path / "state.sqlite") as state:
        ledger = RequestLedger(state, (), clock=clock)
        assert ledger.refused_at() is None
        for status, refused in ((200, False), (401, True), (200, False)):
            slot = ledger.acquire(CALL)
            assert isinstance(slot, int)
            outcome = "ok" if status == 200 else "http_error"
            ledger.settle(slot, Receipt(outcome, counted_at=clock.seconds, status=status))  # type: ignore[arg-type]
            assert (ledger.refused_at() == clock.seconds) is refused


def test_the_size_of_a_candle_is_measured(tmp_path: Path) -> None:
    """Bytes a row come from answers with candles; before the first there is no figure."""
    with StateDatabase(tmp_path / "state.sqlite") as state:
        ledger = RequestLedger(state, ())
        assert ledger.bytes_a_row() is None
        for size, rows in ((6000, 100), (4000, 100), (30, 0)):
            slot = ledger.acquire(CALL)
            assert isinstance(slot, int)
            ledger.settle(slot, Receipt("ok", counted_at=1.0, status=200, bytes=size, rows=rows))
        assert ledger.bytes_a_row() == 50.0
