"""Nothing silently missing: whole collections from an API with narrow, shortened or contradictory answers."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from expirytrack_dagster.collect.contract import DAYS, MINUTES
from expirytrack_dagster.sandbox.bars import day_number
from expirytrack_dagster.sandbox.running import Running, running
from expirytrack_dagster.sandbox.switches import Switches
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket

if TYPE_CHECKING:
    from collections.abc import Callable

    from expirytrack_dagster.sandbox.bars import Bars
    from expirytrack_dagster_tests.integration.assets.conftest import Archive

EXPIRY = date(2025, 8, 21)
TODAY = date(2025, 9, 1)
KEY = "NSE_INDEX|Nifty 50"
LIVES = 40  # trading days, which are eight weeks


def _contracts(market: SyntheticMarket) -> list[str]:
    listed = [*(market.option_contracts(KEY, EXPIRY) or []), *(market.future_contracts(KEY, EXPIRY) or [])]
    return [str(row["instrument_key"]) for row in listed]


def _rows(market: SyntheticMarket) -> set[tuple[str, datetime]]:
    """Return contract and time of every row of the market."""
    found = ((key, market.minutes(key)) for key in _contracts(market))
    return {(key, datetime.fromtimestamp(ts, UTC)) for key, bars in found if bars for ts in bars.time.tolist()}


def _asked(upstox: Running) -> Counter[str]:
    """Return the number of requests for candles by interval."""
    return Counter(entry.path.split("/")[-3] for entry in upstox.requests() if entry.endpoint == "candles")


def test_a_cell_costs_hardly_more_than_its_contracts(
    collect: Callable[..., Archive], capsys: pytest.CaptureFixture[str]
) -> None:
    """On a chain of ordinary size: one request of minutes a contract, and few of days for all proofs together."""
    market = SyntheticMarket(strikes=100, days=1, today=TODAY)
    with running(market, limits=()) as upstox:
        archive = collect(upstox, [EXPIRY], rate_limits="1000/1")
        asked = _asked(upstox)
    contracts = len(_contracts(market))
    with capsys.disabled():
        print(  # noqa: T201 -- what the test shows
            f"\n{contracts} contracts: {asked[MINUTES]} requests of minutes ({asked[MINUTES] / (contracts + 2):.3f} of "
            f"contracts + 2), {asked[DAYS]} of days ({asked[DAYS] / contracts:.1%} of the contracts)"
        )
    assert contracts <= asked[MINUTES] <= 1.02 * (contracts + 2)
    assert 0 < asked[DAYS] <= 0.05 * contracts
    assert archive.outcome.exit_code == 0
    states = archive.table("SELECT status, count(*) AS n FROM contract_status GROUP BY status")
    assert dict(zip(states["status"], states["n"], strict=True)) == {"complete": contracts - 20, "empty_proven": 20}
    assert archive.number("SELECT count(*) FROM candles") == len(_rows(market))


@pytest.mark.parametrize("switches", [Switches(newest_days=30), Switches(range_cap=30)], ids=["newest_days", "cap"])
def test_no_row_is_lost_to_narrow_windows(collect: Callable[..., Archive], switches: Switches) -> None:
    """An API that shortens a window in silence, or refuses a wide one, still gives every row of longer lives."""
    market = SyntheticMarket(strikes=4, days=LIVES, today=TODAY)
    with running(market, limits=(), switches=switches) as upstox:
        archive = collect(upstox, [EXPIRY], rate_limits="1000/1")
        asked = _asked(upstox)
    assert archive.outcome.exit_code == 0
    stored = archive.table("SELECT instrument_key, ts FROM candles")
    rows = set(zip(stored["instrument_key"], stored["ts"].dt.to_pydatetime(), strict=True))
    assert rows == _rows(market)
    assert len(rows) == len(stored)
    # Windows of about three weeks, asked back over eight; the refusals of wide ones were met by one contract alone.
    assert asked[MINUTES] <= 5 * len(_contracts(market)) + 6


class _Forgetful(SyntheticMarket):
    """A market that has lost the minutes of one contract on one day, but not its daily candle."""

    lost: tuple[str, date] | None = None

    def candles(self, instrument_key: str, interval: str, from_date: date, to_date: date) -> Bars | None:
        """Return the candles of the window, less those that are lost."""
        bars = super().candles(instrument_key, interval, from_date, to_date)
        if bars is None or interval != MINUTES or self.lost is None or self.lost[0] != instrument_key:
            return bars
        return bars.take(bars.day != day_number(self.lost[1]))


def test_a_contradiction_to_the_daily_candles_is_told(collect: Callable[..., Archive]) -> None:
    """A contract at the money that lacks a day is partial, the day is named, and the next collection mends it alone."""
    market = _Forgetful(strikes=3, days=3, today=TODAY)
    listed = _contracts(market)
    key = listed[len(listed) // 2]
    market.lost = (key, EXPIRY - timedelta(days=1))
    with running(market, limits=()) as upstox:
        archive = collect(upstox, [EXPIRY])
        assert archive.outcome.exit_code == 3
        told = archive.table("SELECT instrument_key, message FROM contract_status WHERE status = 'partial'")
        assert told["instrument_key"].tolist() == [key]
        assert f"disagree on {market.lost[1]}:" in told["message"][0]
        market.lost = None
        before = _asked(upstox)
        again = collect(upstox, [EXPIRY])
        assert _asked(upstox) - before == {MINUTES: 1, DAYS: 1}
    assert again.outcome.exit_code == 0
    assert again.number("SELECT count(*) FROM candles") == len(_rows(market))
