"""The checks of a chain: a market without arbitrage passes, what cannot be is found, real data are judged sensibly."""

from __future__ import annotations

import weakref
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expirytrack_dagster.errors import UnfitData
from expirytrack_dagster.quality.chain import COLUMNS, ChainReport, judge_chain
from expirytrack_dagster.sandbox import pricing
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from expirytrack_dagster.quality.outcome import CheckOutcome

REALDATA = Path(__file__).parents[4] / "shared" / "realdata" / "nifty_2021_06"
needs_realdata = pytest.mark.skipif(not REALDATA.is_dir(), reason=f"real data are not at {REALDATA}")

NIFTY, RELIANCE = "NSE_INDEX|Nifty 50", "NSE_EQ|INE002A01018"
MONTHLY, WEEKLY = date(2025, 8, 28), date(2025, 8, 21)
PRICES = ["high", "low", "close"]


def chain(
    underlying: str = NIFTY, expiry: date = MONTHLY, *, strikes: int = 6, days: int = 2, seed: int = 0
) -> pd.DataFrame:
    """Return the candles of an expiry of the sandbox's market with their contracts."""
    market = SyntheticMarket(strikes=strikes, days=days, seed=seed, today=date(2025, 9, 15))
    listed = [
        *(market.option_contracts(underlying, expiry) or []),
        *(market.future_contracts(underlying, expiry) or []),
    ]
    frames = []
    for contract in listed:
        key = str(contract["instrument_key"])
        bars = market.minutes(key)
        assert bars is not None
        frames.append(
            pd.DataFrame(
                {
                    "ts": pd.to_datetime(bars.time, unit="s", utc=True).astype("datetime64[us, UTC]"),
                    "instrument_key": key,
                    "instrument_type": contract["instrument_type"],
                    "strike_price": float(str(contract.get("strike_price", "nan"))),
                    "high": bars.high,
                    "low": bars.low,
                    "close": bars.close,
                    "volume": bars.volume,
                    "open_interest": bars.open_interest,
                    "tick_size": float(str(contract["tick_size"])),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def judge(frame: pd.DataFrame, expiry: date = MONTHLY) -> ChainReport:
    """Judge a chain day by day."""
    ordered = frame.sort_values(["instrument_key", "ts"], ignore_index=True)
    return judge_chain((rows for _, rows in ordered.groupby(ordered["ts"].dt.date)), expiry)


def failed(report: ChainReport) -> dict[str, CheckOutcome]:
    """Return what did not pass, by name."""
    return {outcome.name: outcome for outcome in report.outcomes if not outcome.passed}


def at_the_money(frame: pd.DataFrame, kind: str, minute: int = 100, offset: int = 0) -> int:
    """Return the row of the option nearest to the money (or so many strikes above) in the n-th minute."""
    now = frame[(frame["ts"] == np.sort(frame["ts"].unique())[minute])]
    level = float(now.loc[now["instrument_type"] == "FUT", "close"].iloc[0])
    options = now[now["instrument_type"] == kind].sort_values("strike_price")
    place = int((options["strike_price"] - level).abs().to_numpy().argmin())
    return int(options.index[place + offset])


def indian(frame: pd.DataFrame, row: int) -> str:
    """Return the time of a row as it is shown."""
    return f"{pd.DatetimeIndex(frame['ts'])[row].tz_convert('Asia/Kolkata'):%Y-%m-%d %H:%M} IST"


@pytest.mark.parametrize(
    ("underlying", "expiry", "days"),
    [(NIFTY, WEEKLY, 5), (NIFTY, MONTHLY, 20), (RELIANCE, MONTHLY, 5), ("BSE_INDEX|SENSEX", date(2025, 8, 26), 5)],
    ids=["weekly", "monthly", "stock", "SENSEX"],
)
def test_a_market_without_arbitrage_passes(underlying: str, expiry: date, days: int) -> None:
    """Black-76 with a smile, ticks and illiquid wings shows no violation at all, and is judged nearly everywhere."""
    frame = chain(underlying, expiry, strikes=15, days=days)
    report = judge(frame, expiry)
    assert failed(report) == {}
    assert report.spots.empty
    by_name = {outcome.name: outcome.counts for outcome in report.outcomes}
    options = int((frame["instrument_type"] != "FUT").sum())
    assert by_name["intrinsic_value"]["judged"] == options
    assert by_name["monotonic_strikes"]["judged"] > 0.9 * options
    assert by_name["put_call_parity"]["judged"] > 0.35 * options
    assert not any(outcome.fatal for outcome in report.outcomes)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 5), kept=st.floats(0.02, 1.0), silent=st.booleans())
def test_missing_bars_are_never_a_violation(seed: int, kept: float, silent: bool) -> None:  # noqa: FBT001 -- hypothesis
    """Whatever part of a sound chain is missing, with the future or without it, the rest passes."""
    frame = chain(strikes=4, days=1, seed=seed)
    frame = frame[np.random.default_rng(seed).random(len(frame)) < kept]
    if silent:
        frame = frame[frame["instrument_type"] != "FUT"]
    assert failed(judge(frame)) == {}


def test_closes_of_different_seconds_pass() -> None:
    """A forward that moves half a percent within each minute, strikes that close before and after it: no violation."""
    minutes, strikes = 60, np.arange(24_000, 26_050, 50.0)
    begin = np.full(minutes, 25_000.0) + np.arange(minutes)
    years = np.full(minutes, 7 / 365)
    low, high = (np.multiply(begin, factor, dtype=np.float64) for factor in (0.9975, 1.0025))
    ts = pd.date_range("2025-08-21 03:45", periods=minutes, freq="min", tz="UTC").astype("datetime64[us, UTC]")
    frames = []
    for strike in strikes:
        for kind in ("CE", "PE"):
            ends = [pricing.option_ticks(level, strike, years, 0.14, call=kind == "CE") / 20 for level in (low, high)]
            close = ends[int(strike) % 100 // 50]  # every other strike closes before the move, the rest after it
            frames.append(rows(ts, kind, strike, np.maximum(*ends), np.minimum(*ends), close))
    frames.append(rows(ts, "FUT", np.nan, high, low, begin))
    frame = pd.concat(frames, ignore_index=True)
    assert failed(judge(frame)) == {}
    assert failed(judge(frame[frame["instrument_type"] != "FUT"])) == {}


def rows(ts: pd.Index[Any], kind: str, strike: float, high: object, low: object, close: object) -> pd.DataFrame:
    """Return bars of one contract."""
    return pd.DataFrame(
        {
            "ts": ts,
            "instrument_key": f"NSE_FO|{kind}{strike:g}|28-08-2025",
            "instrument_type": kind,
            "strike_price": strike,
            "high": high,
            "low": low,
            "close": close,
            "volume": 75,
            "open_interest": 7_500,
            "tick_size": 10.0 if kind == "FUT" else 5.0,
        }
    )


@pytest.mark.parametrize("kind", ["CE", "PE"])
def test_two_strikes_exchanged(kind: str) -> None:
    """Prices of neighbouring strikes that were exchanged for a minute are out of order, in that minute alone."""
    frame = chain()
    one, other = at_the_money(frame, kind), at_the_money(frame, kind, offset=1)
    frame.loc[[one, other], PRICES] = frame.loc[[other, one], PRICES].to_numpy()
    outcome = failed(judge(frame))["monotonic_strikes"]
    assert set(outcome.failing["time"]) == {indian(frame, one)}
    named = {frame.loc[row, "instrument_key"] for row in (one, other)}
    assert named & set(outcome.failing["instrument_key"])
    assert outcome.counts["violations"] == len(outcome.failing)
    assert outcome.failing["excess"].iloc[0] == outcome.counts["worst"] > 10


@pytest.mark.parametrize("future", [True, False], ids=["future", "implied forward"])
@pytest.mark.parametrize("kind", ["CE", "PE"])
def test_a_price_below_its_intrinsic_value(kind: str, future: bool) -> None:  # noqa: FBT001 -- a parameter of the test
    """An option in the money that costs nearly nothing is found, against the future or the forward that is implied."""
    frame = chain(strikes=12)
    row = at_the_money(frame, kind, offset=-3 if kind == "CE" else 3)
    frame.loc[row, PRICES] = 0.05
    if not future:
        frame = frame[frame["instrument_type"] != "FUT"]
    outcome = failed(judge(frame))["intrinsic_value"]
    assert list(outcome.failing["instrument_key"]) == [frame.loc[row, "instrument_key"]]
    assert "0.05 is less than the intrinsic value" in outcome.failing["detail"].iloc[0]
    assert not outcome.fatal


@pytest.mark.parametrize("future", [True, False], ids=["future", "implied forward"])
def test_a_price_far_off_breaks_parity(future: bool) -> None:  # noqa: FBT001 -- a parameter of the test
    """A put at the money that is 50 rupees too dear is found at its strike and minute, and nowhere else."""
    frame = chain()
    row = at_the_money(frame, "PE")
    frame.loc[row, PRICES] += 50
    if not future:
        frame = frame[frame["instrument_type"] != "FUT"]
    report = judge(frame)
    outcome = failed(report)["put_call_parity"]
    assert outcome.counts["violations"] == 1
    assert outcome.failing["contract"].iloc[0] == f"{frame['strike_price'].to_numpy()[row]:g} CE"
    spots = report.spots[report.spots["check"] == "put_call_parity"]
    assert spots[["ts", "strike_price"]].to_numpy().tolist() == [[frame.loc[row, "ts"], frame.loc[row, "strike_price"]]]


def test_a_future_far_off_breaks_parity_everywhere() -> None:
    """When the future itself is wrong by a percent, every strike of the minute disagrees with it."""
    frame = chain()
    minute = frame["ts"] == frame["ts"].sort_values().unique()[50]
    frame.loc[minute & (frame["instrument_type"] == "FUT"), PRICES] *= 1.01
    outcome = failed(judge(frame))["put_call_parity"]
    both = frame[minute].groupby("strike_price")["instrument_type"].nunique() == 2
    assert outcome.counts["violations"] == both.sum()


def test_two_strikes_imply_no_forward() -> None:
    """Without a future, a minute with fewer than three strikes on both sides is not judged against a forward."""
    frame = chain(strikes=1, days=1)
    kept = frame["strike_price"].isin(frame["strike_price"].dropna().unique()[:2])
    report = {outcome.name: outcome for outcome in judge(frame[kept]).outcomes}
    assert report["put_call_parity"].counts["judged"] == 0
    assert report["intrinsic_value"].counts["judged"] == 0
    assert report["put_call_parity"].passed
    assert "Nothing of this cell can be judged" in report["put_call_parity"].summary


def interest(*values: int, volume: int = 75, start: str = "2025-08-21 03:45", key: str = "a") -> pd.DataFrame:
    """Return consecutive bars of one call with this open interest."""
    ts = pd.date_range(start, periods=len(values), freq="min", tz="UTC").astype("datetime64[us, UTC]")
    prices = np.full(len(values), 100.0)
    return rows(ts, "CE", 25_000.0, prices, prices, prices).assign(
        open_interest=values, volume=volume, instrument_key=key
    )


@pytest.mark.parametrize(
    ("frame", "jumps"),
    [
        (interest(7_500, 7_575, 15_000, 15_000), 0),
        (interest(7_500, 75_000, 75_000), 1),
        (interest(7_500, 75_000, 7_500), 2),
        (interest(7_500, 75_000, 75_000, volume=100_000), 0),
        (interest(0, 0, 0, 0), 0),
        (interest(7_500, 0, 7_500), 2),
        (interest(0, 75, 150), 0),
        (pd.concat([interest(7_500), interest(75_000, start="2025-08-22 03:45")]), 1),
        (pd.concat([interest(7_500, volume=90_000), interest(75_000, start="2025-08-22 03:45")]), 0),
        (pd.concat([interest(7_500), interest(75_000, start="2025-08-22 03:45", key="b")]), 0),
        (pd.concat([interest(75, volume=9_000), interest(7_500, 7_500, start="2025-08-21 04:15")]), 0),
    ],
    ids=[
        "doubled",
        "tenfold",
        "up and down",
        "traded",
        "never published",
        "zero between",
        "first positions",
        "overnight",
        "traded the day before",
        "another contract",
        "published late",
    ],
)
def test_open_interest_that_jumps(frame: pd.DataFrame, jumps: int) -> None:
    """A change by a factor that was not traded is found, up and down and over night, and nothing else is."""
    outcome = next(outcome for outcome in judge(frame).outcomes if outcome.name == "open_interest_jumps")
    assert outcome.counts["violations"] == jumps


def test_the_volume_of_a_day_is_remembered_once() -> None:
    """Over three days, only the day before speaks for a change at the opening, and a silent day does not hide it."""
    days = [interest(7_500, volume=90_000), interest(8_000, volume=75, start="2025-08-22 03:45")]
    jump = interest(80_000, volume=75, start="2025-08-25 03:45")
    assert "open_interest_jumps" in failed(judge(pd.concat([*days, jump])))
    other = interest(1, start="2025-08-22 03:45", key="b")
    assert failed(judge(pd.concat([days[0], other, jump]))) == {}


def test_the_worst_rows_come_first() -> None:
    """Fifty rows at most are shown, the worst of all days first; every violation is counted."""
    frame = chain(days=3)
    puts = frame.index[frame["instrument_type"] == "PE"]
    frame.loc[puts, PRICES] = frame.loc[puts, PRICES] + np.arange(len(puts))[:, None] * 0.1 + 30
    outcome = failed(judge(frame))["put_call_parity"]
    assert len(outcome.failing) == 50
    assert outcome.failing["excess"].is_monotonic_decreasing
    assert outcome.counts["violations"] > 1_000
    assert list(outcome.failing.columns) == ["time", "instrument_key", "contract", "detail", "excess"]


def test_an_empty_cell_passes_with_a_sentence() -> None:
    """A cell without any day fails nothing and says so."""
    report = judge_chain([], MONTHLY)
    assert failed(report) == {}
    assert all("Nothing of this cell can be judged" in outcome.summary for outcome in report.outcomes)
    assert report.spots.empty


def test_quotes_are_not_judged() -> None:
    """A bar without volume is a quote: its price proves nothing."""
    frame = chain()
    row = at_the_money(frame, "CE")
    frame.loc[row, PRICES] += 500
    frame.loc[row, "volume"] = 0
    assert failed(judge(frame)) == {}


def test_a_missing_column_is_named() -> None:
    """A frame without a column cannot be judged."""
    with pytest.raises(UnfitData, match="tick_size"):
        judge(chain(strikes=1, days=1).drop(columns="tick_size"))


def real() -> pd.DataFrame:
    """Return twelve NIFTY options of June 2021, two days, bars after the close included."""
    frames = []
    for path in sorted(REALDATA.glob("NIFTY21617*_minute.csv")):
        bars = pd.read_csv(path)
        strike, kind = float(path.name[10:15]), path.name[15:17]
        ts = pd.DatetimeIndex(pd.to_datetime(bars["TIME"])).tz_localize("Asia/Kolkata").tz_convert("UTC")
        one = rows(ts.astype("datetime64[us, UTC]"), kind, strike, *(bars[name] for name in ("High", "Low", "Close")))
        frames.append(one.assign(volume=bars["VOLUME"], open_interest=0))
    return pd.concat(frames, ignore_index=True)


@needs_realdata
def test_a_real_chain_passes() -> None:
    """Two days of twelve real contracts near the money hold no violation, at thousands of comparisons."""
    report = judge(real(), date(2021, 6, 17))
    assert failed(report) == {}
    judged = {outcome.name: outcome.counts["judged"] for outcome in report.outcomes}
    assert judged["monotonic_strikes"] == 7_502
    assert judged["put_call_parity"] == 4_500
    assert judged["intrinsic_value"] == 9_000


@needs_realdata
@pytest.mark.parametrize(
    ("spoil", "check"),
    [(lambda price: price + 25, "put_call_parity"), (lambda price: price * 0.3, "monotonic_strikes")],
    ids=["25 rupees", "a third"],
)
def test_a_spoilt_real_chain_does_not(spoil: Callable[[pd.DataFrame], pd.DataFrame], check: str) -> None:
    """One minute of one real contract that is off by 25 rupees, or by two thirds, is found."""
    frame = real()
    row = frame.index[(frame["instrument_type"] == "CE") & (frame["strike_price"] == 15_700)][200]
    frame.loc[row, PRICES] = spoil(frame.loc[row, PRICES])
    outcome = failed(judge(frame, date(2021, 6, 17)))[check]
    assert set(outcome.failing["time"]) == {indian(frame, row)}


def test_columns_are_those_of_the_archive() -> None:
    """The frame of these tests has exactly the documented columns."""
    assert set(chain(strikes=1, days=1).columns) == set(COLUMNS)


def test_one_day_is_held_at_a_time() -> None:
    """When a day is handed over, the day before the last one is no longer held."""
    alive: list[weakref.ref[pd.DataFrame]] = []

    def days() -> Iterator[pd.DataFrame]:
        whole = chain(strikes=2, days=5)
        for _, day in whole.groupby(whole["ts"].dt.date):
            rows_of_day = day.copy()
            alive.append(weakref.ref(rows_of_day))
            yield rows_of_day
            del rows_of_day, day
            assert sum(each() is not None for each in alive) <= 1

    assert failed(judge_chain(days(), MONTHLY)) == {}
    assert len(alive) == 5
