"""The derived tables, each against the same thing computed from the candles in another way."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from expirytrack_dagster.analytics.black76 import price
from expirytrack_dagster.errors import StorageError
from expirytrack_dagster.sandbox.bars import aggregate
from expirytrack_dagster.sandbox.pricing import RATE
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket
from expirytrack_dagster.warehouse.connection import Warehouse
from expirytrack_dagster.warehouse.derived import CELL_TABLES, derive, derive_continuous
from expirytrack_dagster_tests.market import store_bars, store_cell

if TYPE_CHECKING:
    from pathlib import Path

MONTHLY, WEEKLY = date(2025, 8, 28), date(2025, 8, 21)
INDIA = timedelta(hours=5, minutes=30)
MARKET = SyntheticMarket(strikes=6, days=4, today=date(2025, 9, 15))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    """Give an archive with a monthly and a weekly cell and everything that is made from them."""
    folder = tmp_path_factory.mktemp("made")
    warehouse = Warehouse(folder / "a.duckdb")
    for expiry in (WEEKLY, MONTHLY):
        store_cell(warehouse, MARKET, "NIFTY", expiry, folder)
        for table in CELL_TABLES:
            derive(warehouse, table, "NIFTY", expiry, RATE)
    return warehouse


def frame(warehouse: Warehouse, sql: str, **bound: Any) -> pd.DataFrame:
    """Return the answer to a query."""
    with warehouse.reading() as connection:
        answer: pd.DataFrame = connection.execute(sql, bound).to_arrow_table().to_pandas()
    return answer


def candles(warehouse: Warehouse, expiry: date) -> pd.DataFrame:
    """Return the candles of a cell with what is known of their contracts."""
    return frame(
        warehouse,
        "SELECT * FROM candles JOIN contracts USING (underlying, expiry, instrument_key) WHERE expiry = $expiry"
        " ORDER BY instrument_key, ts",
        expiry=expiry,
    )


def test_a_day_is_the_day_of_the_api(made: Warehouse) -> None:
    """Bars of a day equal those that the market itself makes of its minutes."""
    stored = frame(made, "SELECT * FROM daily_bars WHERE expiry = $expiry ORDER BY instrument_key, day", expiry=MONTHLY)
    for key, days in stored.groupby("instrument_key"):
        minutes = MARKET.minutes(str(key))
        assert minutes is not None
        expected = aggregate(minutes, "day")
        for name in ("open", "high", "low", "close", "volume", "open_interest"):
            assert days[name].tolist() == getattr(expected, name).tolist()
        assert days["minutes"].sum() == (minutes.volume > 0).sum()
        assert [pd.Timestamp(day) for day in days["day"]] == [
            pd.Timestamp(number, unit="s").normalize() + timedelta(days=1) for number in expected.time
        ]  # midnight in India is the evening before in UTC
    assert set(stored["instrument_type"]) == {"CE", "PE", "FUT"}


def test_the_chain_holds_every_option_bar_once(made: Warehouse) -> None:
    """Both legs side by side, nothing lost, nothing invented, in the order of time and strike."""
    bars = candles(made, MONTHLY)
    chain = frame(made, "SELECT * FROM option_chain WHERE expiry = $expiry", expiry=MONTHLY)
    for leg in ("CE", "PE"):
        name = leg.lower()
        had = bars[bars["instrument_type"] == leg].set_index(["ts", "strike_price"]).sort_index()
        has = chain[chain[f"{name}_key"].notna()].set_index(["ts", "strike_price"])
        assert has.index.equals(had.index)
        assert (has[f"{name}_key"] == had["instrument_key"]).all()
        for column in ("close", "volume", "open_interest"):
            assert (has[f"{name}_{column}"] == had[column]).all()
        assert chain.loc[chain[f"{name}_key"].isna(), f"{name}_close"].isna().all()
    assert chain["ts"].is_monotonic_increasing
    assert (chain[["ce_key", "pe_key"]].notna().any(axis=1)).all()


def test_the_forward_is_the_one_of_the_market(made: Warehouse) -> None:
    """Parity finds the future's price to a few ticks, and the weekly cell, which has no future, has one too."""
    future = frame(
        made, "SELECT ts, close FROM candles JOIN contracts USING (instrument_key) WHERE instrument_type = 'FUT'"
    )
    chain = frame(
        made, "SELECT DISTINCT ts, forward, forward_source FROM option_chain WHERE expiry = $expiry", expiry=MONTHLY
    )
    both = chain.merge(future, on="ts")
    assert len(both) == len(chain) == 4 * 375
    assert (both["forward"] - both["close"]).abs().max() < 0.15
    assert set(both["forward_source"]) == {"parity"}
    weekly = frame(
        made, "SELECT count(*) AS n, count(forward) AS known FROM option_chain WHERE expiry = $expiry", expiry=WEEKLY
    )
    assert weekly["n"].equals(weekly["known"])


def test_time_runs_to_the_last_minute_of_the_expiry_day(made: Warehouse) -> None:
    """15:29 is the last bar, so at its end nothing is left, and a minute before a minute."""
    chain = frame(
        made, "SELECT DISTINCT ts, years FROM option_chain WHERE expiry = $expiry ORDER BY ts DESC", expiry=MONTHLY
    )
    assert (chain["ts"][0] + INDIA).strftime("%H:%M") == "15:29"
    np.testing.assert_allclose(chain["years"][:2] * 365 * 1440, [0, 1], atol=1e-9)
    open_to_close = chain[(chain["ts"] + INDIA).dt.strftime("%H:%M") == "09:15"].iloc[0]
    assert open_to_close["years"] * 365 * 1440 == pytest.approx(374)


def test_what_follows_from_a_row_agrees_with_it(made: Warehouse) -> None:
    """Moneyness, days, intrinsic and time value are what their comments say."""
    chain = frame(made, "SELECT * FROM option_chain WHERE expiry = $expiry", expiry=MONTHLY)
    discount = np.exp(-RATE * chain["years"])
    call = np.maximum(chain["forward"] - chain["strike_price"], 0) * discount
    put = np.maximum(chain["strike_price"] - chain["forward"], 0) * discount
    np.testing.assert_allclose(chain["moneyness"], chain["strike_price"] / chain["forward"])
    np.testing.assert_allclose(chain["days_to_expiry"], chain["years"] * 365)
    np.testing.assert_allclose(chain["ce_intrinsic"], call, atol=1e-9)
    np.testing.assert_allclose(chain["pe_intrinsic"], put, atol=1e-9)
    np.testing.assert_allclose(chain["ce_time_value"], chain["ce_close"] - call, atol=1e-9)
    np.testing.assert_allclose(chain["pe_time_value"], chain["pe_close"] - put, atol=1e-9)


def test_volatilities_price_back_or_have_a_reason(made: Warehouse) -> None:
    """Every option bar has a row; what it holds gives its price again; the last minute has no time left."""
    rows = frame(made, "SELECT * FROM implied_volatility WHERE expiry = $expiry", expiry=MONTHLY)
    options = candles(made, MONTHLY)
    options = options[options["instrument_type"] != "FUT"]
    assert len(rows) == len(options)
    known = rows[rows["reason"].isna()]
    assert len(known) > 0.9 * len(rows)
    calls = known["instrument_type"] == "CE"
    again = price(known["forward"], known["strike_price"], known["years"], known["rate"], known["volatility"], calls)
    np.testing.assert_allclose(again, known["price"], rtol=1e-9, atol=1e-7)
    unknown = rows[rows["reason"].notna()]
    numbers = ["volatility", "delta", "gamma", "vega", "theta", "rho"]
    assert unknown[numbers].isna().all(axis=None)
    assert known[numbers].notna().all(axis=None)
    assert set(rows.loc[rows["years"] <= 0, "reason"]) == {"expired"}


def test_metrics_are_those_of_a_slow_count(made: Warehouse) -> None:
    """Totals with the last known open interest, and max pain by trying every strike, in a few dozen minutes."""
    bars = candles(made, MONTHLY)
    metrics = frame(made, "SELECT * FROM chain_metrics WHERE expiry = $expiry ORDER BY ts", expiry=MONTHLY).set_index(
        "ts"
    )
    options = bars[bars["instrument_type"] != "FUT"]
    listed = np.sort(options["strike_price"].unique())
    for moment in metrics.index[5::40]:
        past = options[options["ts"] <= moment].groupby("instrument_key").last()
        now = metrics.loc[moment]
        calls, puts = past[past["instrument_type"] == "CE"], past[past["instrument_type"] == "PE"]
        assert now["call_open_interest"] == calls["open_interest"].sum()
        assert now["put_open_interest"] == puts["open_interest"].sum()
        paid = [
            (np.maximum(settled - calls["strike_price"], 0) * calls["open_interest"]).sum()
            + (np.maximum(puts["strike_price"] - settled, 0) * puts["open_interest"]).sum()
            for settled in listed
        ]
        assert now["max_pain"] == listed[int(np.argmin(paid))]
        today = options[(options["ts"] <= moment) & ((options["ts"] + INDIA).dt.date == (moment + INDIA).date())]
        volumes = today.groupby("instrument_type")["volume"].sum()
        assert (now["call_volume"], now["put_volume"]) == (volumes["CE"], volumes["PE"])
        assert now["put_call_ratio"] == pytest.approx(now["put_open_interest"] / now["call_open_interest"])


def test_the_straddle_is_of_the_nearest_strike(made: Warehouse) -> None:
    """The two prices are those of the contracts that the row names, in the same minute."""
    sql = """SELECT m.*, c.close AS ce, p.close AS pe, c.ts AS c_ts FROM chain_metrics AS m
    JOIN candles AS c ON c.instrument_key = atm_ce_key AND c.ts = m.ts
    JOIN candles AS p ON p.instrument_key = atm_pe_key AND p.ts = m.ts WHERE m.expiry = $expiry ORDER BY m.ts"""
    rows = frame(made, sql, expiry=MONTHLY)
    assert len(rows) == 4 * 375
    assert (rows["straddle"] == rows["ce"] + rows["pe"]).all()
    chain = frame(made, "SELECT * FROM option_chain WHERE expiry = $expiry", expiry=MONTHLY)
    chain = chain[chain["ce_key"].notna() & chain["pe_key"].notna()]
    chain = chain.assign(distance=(chain["strike_price"] - chain["forward"]).abs())
    nearest = chain.sort_values(["ts", "distance", "strike_price"]).groupby("ts")["strike_price"].first()
    assert rows["atm_strike"].tolist() == nearest.tolist()


def test_changes_of_open_interest_start_at_the_close_before(made: Warehouse) -> None:
    """The first day starts from nothing, each other one from where the day before ended."""
    sql = """SELECT day, arg_min(call_open_interest - call_open_interest_change, ts) AS base,
    arg_max(call_open_interest, ts) AS final FROM chain_metrics WHERE expiry = $expiry GROUP BY day ORDER BY day"""
    days = frame(made, sql, expiry=MONTHLY)
    assert days["base"].tolist() == [0, *days["final"][:-1]]


def test_a_cell_is_replaced_and_its_source_is_noted(tmp_path: Path) -> None:
    """Made twice it is there once; made from other candles its source has another name."""
    warehouse = Warehouse(tmp_path / "a.duckdb")
    small = SyntheticMarket(strikes=1, days=1, today=date(2025, 9, 15))
    store_cell(warehouse, small, "NIFTY", MONTHLY, tmp_path)
    first = derive(warehouse, "option_chain", "NIFTY", MONTHLY, RATE)
    assert derive(warehouse, "option_chain", "NIFTY", MONTHLY, RATE) == first
    assert frame(warehouse, "SELECT count(*) AS n FROM option_chain")["n"][0] == first.rows > 300
    key = str(frame(warehouse, "SELECT min(instrument_key) AS k FROM candles")["k"][0])
    bars = small.minutes(key)
    assert bars is not None
    store_bars(warehouse, "NIFTY", MONTHLY, {key: bars.take(slice(0, 10))}, tmp_path)
    second = derive(warehouse, "option_chain", "NIFTY", MONTHLY, RATE)
    assert second.source_version != first.source_version
    notes = frame(warehouse, "SELECT asset, source_version, rate, rows FROM derived_cells")
    assert notes.to_dict("records") == [
        {"asset": "option_chain", "source_version": second.source_version, "rate": RATE, "rows": second.rows}
    ]


def test_a_failure_leaves_the_old_rows(made: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """The delete and the insert are one transaction."""
    counted = "SELECT count(*) AS n FROM implied_volatility"
    before = frame(made, counted)["n"][0]
    monkeypatch.setattr("expirytrack_dagster.analytics.black76.implied", lambda *_args, **_more: 1 / 0)
    with pytest.raises(StorageError):
        derive(made, "implied_volatility", "NIFTY", MONTHLY, RATE)
    assert frame(made, counted)["n"][0] == before


def test_an_empty_cell_has_no_rows(tmp_path: Path) -> None:
    """A listed date without a candle makes nothing, and says so."""
    warehouse = Warehouse(tmp_path / "a.duckdb")
    for table in CELL_TABLES:
        assert derive(warehouse, table, "NIFTY", MONTHLY, RATE).rows == 0
    assert derive_continuous(warehouse, "NIFTY").rows == 0
    assert frame(warehouse, "SELECT count(*) AS n FROM derived_cells")["n"][0] == 5


FUTURES = [date(2025, 1, 3), date(2025, 1, 6), date(2025, 1, 9)]
# day, then (close, volume, open interest) of the three futures where they traded
SERIES: dict[int, list[tuple[float, int, int] | None]] = {
    1: [(100, 50, 500), (104, 10, 100), None],
    2: [(102, 20, 300), (106, 40, 200), (109, 1, 1)],
    3: [(101, 5, 10), (105, 60, 400), (108, 5, 2)],
    4: [None, (107, 70, 500), (110, 90, 300)],
    6: [None, (103, 10, 50), (106, 99, 600)],
    9: [None, None, (120, 50, 100)],
}
HELD = {
    "expiry": [0, 0, 0, 1, 1, 2],
    "volume": [0, 0, 1, 1, 2, 2],
    "open_interest": [0, 0, 0, 1, 1, 2],
}
GAPS = {"expiry": [7, 7, 7, 3, 3, 0], "volume": [7, 7, 3, 3, 0, 0], "open_interest": [7, 7, 7, 3, 3, 0]}


def series(tmp_path: Path) -> Warehouse:
    """Give an archive with the daily bars of three futures."""
    warehouse = Warehouse(tmp_path / "a.duckdb")
    rows: list[dict[str, Any]] = []
    for day, bars in SERIES.items():
        for number, bar in enumerate(bars):
            if bar is not None:
                close, volume, held = bar
                rows.append({"expiry": FUTURES[number], "day": date(2025, 1, day), "close": float(close),
                             "volume": volume, "open_interest": held, "key": f"F{number}"})  # fmt: skip
    bars_ = pd.DataFrame(rows)
    with warehouse.writing() as connection:
        connection.register("given", bars_)
        connection.execute("""INSERT INTO main.daily_bars BY NAME
        SELECT 'NIFTY' AS underlying, expiry, key AS instrument_key,
        'FUT' AS instrument_type, day, close AS open, close AS high, close AS low, close, volume, open_interest,
        1 AS minutes, now() AS first_ts, now() AS last_ts FROM given""")
    return warehouse


@pytest.mark.parametrize("rule", HELD)
def test_a_future_is_held_until_its_rule_says_so(tmp_path: Path, rule: str) -> None:
    """By hand: which future on which day, and what the later rolls add to its prices."""
    warehouse = series(tmp_path)
    derive_continuous(warehouse, "NIFTY")
    rows = frame(warehouse, "SELECT * FROM continuous_futures WHERE rule = $rule ORDER BY day", rule=rule)
    assert rows["instrument_key"].tolist() == [f"F{number}" for number in HELD[rule]]
    assert rows["rolled"].tolist() == [False, *(a != b for a, b in zip(HELD[rule], HELD[rule][1:], strict=False))]
    assert rows["difference"].tolist() == GAPS[rule]


def test_a_ratio_is_a_product_of_factors(tmp_path: Path) -> None:
    """The expiry rule rolls after the 3rd (105 for 101) and after the 6th (106 for 103)."""
    warehouse = series(tmp_path)
    derive_continuous(warehouse, "NIFTY")
    rows = frame(warehouse, "SELECT ratio FROM continuous_futures WHERE rule = 'expiry' ORDER BY day")
    late = 106 / 103
    np.testing.assert_allclose(rows["ratio"], [105 / 101 * late] * 3 + [late] * 2 + [1.0])


def test_a_gap_that_nobody_can_know_is_null(tmp_path: Path) -> None:
    """Two futures that never traded on the same day leave everything before the roll without an adjustment."""
    warehouse = series(tmp_path)
    with warehouse.writing() as connection:
        connection.execute("DELETE FROM main.daily_bars WHERE instrument_key = 'F1' AND day <= DATE '2025-01-03'")
    derive_continuous(warehouse, "NIFTY")
    rows = frame(warehouse, "SELECT * FROM continuous_futures WHERE rule = 'expiry' ORDER BY day")
    assert rows["difference"].isna().tolist() == [True, True, True, False, False, False]
    assert rows["ratio"].isna().tolist() == [True, True, True, False, False, False]


def test_evening_minutes_belong_to_their_day_and_time_still_runs_to_the_close(tmp_path: Path) -> None:
    """A cell with no bar on its expiry day takes the hour at which its days end; here 15:30."""
    warehouse = Warehouse(tmp_path / "a.duckdb")
    store_cell(warehouse, MARKET, "NIFTY", MONTHLY, tmp_path)
    with warehouse.writing() as connection:
        connection.execute("DELETE FROM main.candles WHERE ts >= '2025-08-28 00:00:00+05:30'")
    derive(warehouse, "option_chain", "NIFTY", MONTHLY, RATE)
    last = frame(warehouse, "SELECT ts, years FROM option_chain ORDER BY ts DESC LIMIT 1").iloc[0]
    left = pd.Timestamp("2025-08-28 15:30", tz="Asia/Kolkata") - last["ts"] - timedelta(minutes=1)
    assert last["years"] == pytest.approx(left / timedelta(days=365))


def test_the_future_stands_in_where_parity_says_nothing(tmp_path: Path) -> None:
    """With two strikes left, the forward is the future's price; without it nothing is known."""
    warehouse = Warehouse(tmp_path / "a.duckdb")
    store_cell(warehouse, SyntheticMarket(strikes=1, days=1, today=date(2025, 9, 15)), "NIFTY", MONTHLY, tmp_path)
    with warehouse.writing() as connection:
        connection.execute("""DELETE FROM main.candles WHERE instrument_key IN (
            SELECT instrument_key FROM contracts WHERE
        strike_price = (SELECT min(strike_price) FROM contracts))""")
        connection.execute("""DELETE FROM main.candles WHERE minute % 2 = 0 AND instrument_key IN
        (SELECT instrument_key FROM contracts WHERE instrument_type = 'FUT')""")
    for table in CELL_TABLES:
        derive(warehouse, table, "NIFTY", MONTHLY, RATE)
    assert frame(
        warehouse,
        """SELECT DISTINCT epoch(ts)::BIGINT // 60 % 2 AS odd, coalesce(forward_source, '') AS source,
    forward IS NULL AS n
    FROM option_chain ORDER BY odd""",
    ).to_numpy().tolist() == [[0, "", True], [1, "future", False]]
    unknown = frame(warehouse, "SELECT * FROM chain_metrics WHERE epoch(ts)::BIGINT // 60 % 2 = 0")
    assert unknown[["forward", "spot", "atm_strike", "straddle"]].isna().all(axis=None)
    reasons = frame(warehouse, "SELECT DISTINCT reason FROM implied_volatility WHERE forward IS NULL")
    assert reasons["reason"].tolist() == ["missing"]
