"""The synthetic market keeps what its module promises."""

import gzip
import json
import subprocess
import sys
from datetime import date

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.sandbox import pricing, wire
from expirytrack_dagster.sandbox.bars import Bars
from expirytrack_dagster.sandbox.sessions import all_minutes
from expirytrack_dagster.sandbox.synthetic import YEAR, SyntheticMarket
from expirytrack_dagster.sandbox.underlyings import UNDERLYINGS, Underlying, expiries

NIFTY = "NSE_INDEX|Nifty 50"
TODAY = date(2026, 11, 20)
MONTHLY, WEEKLY = date(2025, 8, 28), date(2025, 8, 21)
MARKET = SyntheticMarket(today=TODAY)


def truth(key: object, market: SyntheticMarket = MARKET) -> Bars:
    """Return the minutes of a contract that must exist."""
    bars = market.minutes(str(key))
    assert bars is not None
    return bars


def test_chain() -> None:
    """A small monthly expiry has 42 options, strikes ascending and PE before CE, and one future."""
    rows = MARKET.option_contracts(NIFTY, MONTHLY)
    assert rows is not None
    assert len(rows) == 42
    order = [(row["strike_price"], row["instrument_type"] == "CE") for row in rows]
    assert order == sorted(order, key=lambda pair: (float(str(pair[0])), pair[1]))
    assert len({row["instrument_key"] for row in rows}) == 42
    assert not any(row["weekly"] for row in rows)
    futures = MARKET.future_contracts(NIFTY, MONTHLY)
    assert futures is not None
    assert [row["instrument_type"] for row in futures] == ["FUT"]
    assert not {"weekly", "strike_price"} & set(futures[0])


def test_weekly_expiry_has_no_future() -> None:
    """Futures stand on monthly expiries only; a weekly one answers an empty list."""
    assert MARKET.future_contracts(NIFTY, WEEKLY) == []
    rows = MARKET.option_contracts(NIFTY, WEEKLY)
    assert rows
    assert all(row["weekly"] for row in rows)


def test_unknown_and_unlisted() -> None:
    """An unknown key is None, a date without an expiry is empty, and nothing is listed before it has expired."""
    assert MARKET.expiries("NSE_INDEX|Nifty 51") is None
    assert MARKET.option_contracts(NIFTY, date(2025, 8, 27)) == []
    assert MARKET.minutes("NSE_FO|1|28-08-2025") is None
    assert MARKET.minutes("NSE_FO|1|31-02-2025") is None
    young = SyntheticMarket(today=MONTHLY)
    assert young.option_contracts(NIFTY, MONTHLY) == []
    assert MONTHLY not in (young.expiries(NIFTY) or ())


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(UNDERLYINGS), st.data())
def test_candles_are_valid_and_free_of_arbitrage(known: Underlying, data: st.DataObject) -> None:
    """In any expiry: OHLC valid, prices on the tick, counts in lots, no bar after expiry, parity at every close."""
    expiry = data.draw(st.sampled_from([day for day in expiries(known) if day < TODAY]))
    minutes = all_minutes()
    options = MARKET.option_contracts(known.key, expiry) or []
    futures = MARKET.future_contracts(known.key, expiry) or []
    traded: dict[tuple[object, object], Bars] = {}
    for row in options + futures:
        bars = truth(row["instrument_key"])
        assert (bars.high >= np.maximum(bars.open, bars.close)).all()
        assert (bars.low <= np.minimum(bars.open, bars.close)).all()
        assert (bars.low >= 0.05).all()
        assert (np.diff(bars.time) > 0).all()
        assert (minutes[np.searchsorted(minutes, bars.time)] == bars.time).all()
        ticks = bars.close * (20 if row in options else 10)
        assert np.abs(ticks - np.rint(ticks)).max(initial=0) < 1e-6
        lot = int(str(row["lot_size"]))
        assert not (bars.volume % lot).any()
        assert not (bars.open_interest % lot).any()
        assert (bars.volume > 0).all()
        assert (bars.open_interest >= 0).all()
        traded[row.get("strike_price"), row["instrument_type"]] = bars
    if not futures:
        return
    future = traded[None, "FUT"]
    years = np.maximum(future.time[-1] - future.time, 60) / YEAR
    compared = 0
    for strike in {strike for strike, _ in traded if strike is not None}:
        calls, puts = traded[strike, "CE"], traded[strike, "PE"]
        both = np.intersect1d(calls.time, puts.time)
        at = np.searchsorted(future.time, both)
        held = calls.close[np.isin(calls.time, both)] - puts.close[np.isin(puts.time, both)]
        fair = pricing.discount(years[at]) * (future.close[at] - float(str(strike)))
        assert np.abs(held - fair).max(initial=0) <= 0.05 + 1e-9
        compared += len(both)
    assert compared > 1000


def test_strikes_are_monotonic_at_every_minute() -> None:
    """At any minute, calls fall and puts rise with the strike, within a tick."""
    rows = MARKET.option_contracts(NIFTY, MONTHLY) or []
    for kind, sign in (("CE", -1), ("PE", 1)):
        chain = [truth(row["instrument_key"]) for row in rows if row["instrument_type"] == kind]
        lower = chain[0]
        for upper in chain[1:]:
            both = np.intersect1d(lower.time, upper.time)
            rise = upper.close[np.isin(upper.time, both)] - lower.close[np.isin(lower.time, both)]
            assert (sign * rise >= -0.05 - 1e-9).all()
            lower = upper


def test_liquidity_thins_out_towards_the_wings() -> None:
    """The future and the middle trade every minute, wings miss minutes, and the outermost in the money never trade."""
    rows = MARKET.option_contracts(NIFTY, MONTHLY) or []
    counts = [len(truth(row["instrument_key"])) for row in rows]
    assert counts[20] == counts[21] == 5 * 375
    assert 0 < counts[0] < 300
    assert counts[1] == 0
    assert counts[-2] == 0
    futures = MARKET.future_contracts(NIFTY, MONTHLY) or []
    assert len(truth(futures[0]["instrument_key"])) == 5 * 375


@pytest.mark.parametrize(
    ("expiry", "days", "bars"),
    [
        pytest.param(date(2026, 7, 28), 5, 5 * 375, id="before 2026-08-03"),
        pytest.param(date(2026, 8, 4), 5, 3 * 375 + 2 * 385, id="across 2026-08-03"),
        pytest.param(date(2025, 10, 28), 6, 5 * 375 + 60, id="with an evening session"),
    ],
)
def test_session_lengths(expiry: date, days: int, bars: int) -> None:
    """A contract that trades every minute has the minutes of its sessions."""
    market = SyntheticMarket(strikes=1, days=days, today=TODAY)
    rows = market.option_contracts(NIFTY, expiry) or []
    assert len(truth(rows[3]["instrument_key"], market)) == bars


def test_options_begin_at_the_floor() -> None:
    """No option has a minute before 2024-10-01, where Upstox's data begin."""
    market = SyntheticMarket(strikes=1, days=10, today=TODAY)
    rows = market.option_contracts(NIFTY, date(2024, 10, 3)) or []
    assert len(truth(rows[3]["instrument_key"], market)) == 2 * 375


def test_bodies_do_not_depend_on_order_or_process() -> None:
    """Another process that asks for nothing else gives the same bytes; another seed gives others."""
    key = str((MARKET.option_contracts(NIFTY, MONTHLY) or [])[10]["instrument_key"])
    body = wire.candles(truth(key))
    code = (
        "import sys, datetime; from expirytrack_dagster.sandbox import wire;"
        "from expirytrack_dagster.sandbox.synthetic import SyntheticMarket as M;"
        f"bars = M(today=datetime.date(2026, 11, 20)).minutes({key!r}); sys.stdout.buffer.write(wire.candles(bars))"
    )
    other = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert other.stdout == body
    assert wire.candles(truth(key, SyntheticMarket(seed=1, today=TODAY))) != body


def test_large_sizes() -> None:
    """500 contracts of 20,000 bars can be asked; only those asked for are made, and few are kept."""
    market = SyntheticMarket(strikes=125, days=54, today=TODAY)
    rows = market.option_contracts(NIFTY, MONTHLY) or []
    assert len(rows) == 502
    for row in rows[200:260]:
        bars = truth(row["instrument_key"], market)
    assert len(bars) == 54 * 375
    assert market._bars.cache_info().currsize <= 32  # noqa: SLF001 - the bound on memory is what is tested


def test_instruments_master() -> None:
    """The master names each underlying by its symbol and lists contracts that have not expired."""
    rows = json.loads(gzip.decompress(MARKET.instruments_master()))
    found = {row["trading_symbol"]: row["instrument_key"] for row in rows}
    assert found["NIFTY"] == NIFTY
    assert found["RELIANCE"] == "NSE_EQ|INE002A01018"
    derivatives = [row for row in rows if row["segment"] in {"NSE_FO", "BSE_FO"}]
    assert {row["underlying_symbol"] for row in derivatives} == {"NIFTY", "BANKNIFTY", "SENSEX", "RELIANCE"}
    assert all(row["instrument_key"].count("|") == 1 for row in derivatives)


@pytest.mark.parametrize("sizes", [{"strikes": 250}, {"days": 0}, {"seed": -1}])
def test_impossible_sizes(sizes: dict[str, int]) -> None:
    """A size that cannot be served is refused at once."""
    with pytest.raises(ConfigurationError):
        SyntheticMarket(**sizes)  # type: ignore[arg-type]  # a dictionary of sizes has no date


def test_no_strike_is_zero_or_below() -> None:
    """A cheap stock with very many strikes lists those above zero only, and each of them is answered."""
    market = SyntheticMarket(strikes=200, days=1, today=date(2025, 9, 1))
    listed = market.option_contracts("NSE_EQ|INE002A01018", date(2025, 8, 28)) or []
    strikes = [float(str(row["strike_price"])) for row in listed]
    assert min(strikes) > 0
    assert len(strikes) < 2 * (2 * 200 + 1)
    assert market.minutes(str(listed[0]["instrument_key"])) is not None
