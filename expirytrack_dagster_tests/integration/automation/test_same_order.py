"""`expirytrack collect` works in the order of the schedules: what leaves soon, else the newest of all symbols."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta

import pytest

from expirytrack_dagster.backfill import Backfill, track
from expirytrack_dagster.collect.horizon import record_list
from expirytrack_dagster.console import ProgressBars
from expirytrack_dagster.instance import open_instance
from expirytrack_dagster.sandbox.running import running
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket
from expirytrack_dagster.settings import load_settings
from expirytrack_dagster.state import open_state

MARKET = SyntheticMarket(strikes=1, days=1, today=date(2024, 10, 11))
SYMBOLS = ["NIFTY", "SENSEX"]


@pytest.mark.parametrize(
    ("rolling", "order"),
    [
        pytest.param(False, ["2024-10-10", "2024-10-04", "2024-10-03"], id="fixed floor"),
        pytest.param(True, ["2024-10-03", "2024-10-04", "2024-10-10"], id="rolling list"),
    ],
)
def test_collect_follows_the_horizon(monkeypatch: pytest.MonkeyPatch, *, rolling: bool, order: list[str]) -> None:
    """The cells of all symbols are one queue."""
    now = datetime.now(tz=UTC)
    with running(MARKET, limits=()) as upstox:
        monkeypatch.setenv("EXPIRYTRACK_API_URL", upstox.url)
        monkeypatch.setenv("EXPIRYTRACK_ACCESS_TOKEN", "x")
        settings = load_settings()
        with open_instance(settings) as instance:
            for symbol in SYMBOLS:
                track(settings, instance, symbol)
            if rolling:
                record_list(open_state(settings), "NIFTY", [date(2024, 10, 2)], now - timedelta(days=1))
            told: list[str] = []
            outcome = Backfill(settings, instance, ProgressBars(), tell=told.append).collect(SYMBOLS, [])
        asked = [entry.path for entry in upstox.requests() if entry.endpoint == "option_contracts"]
    assert outcome.exit_code == 0
    assert [found[1] for path in asked if (found := re.search(r"expiry_date=([\d-]+)", path))] == order
    assert told == []
