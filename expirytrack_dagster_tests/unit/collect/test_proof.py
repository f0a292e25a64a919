"""Proofs: which contracts are compared with daily candles, where wings are dead, and what counts as disagreement."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from expirytrack_dagster.collect.proof import AT_THE_MONEY, dead_wings, disagreements, in_share, to_reconcile
from expirytrack_dagster_tests.unit.collect.conftest import bars, daily_bars

FIRST, SECOND, THIRD = (date(2025, 8, day) for day in (26, 27, 28))
DAYS = [FIRST, SECOND, THIRD]
MINUTES = 4


def chain(strikes: int, kinds: str = "CP", *, future: bool = False) -> pd.DataFrame:
    """Return a list of contracts whose keys are type and strike, such as C24000."""
    rows = [(f"{kind}{24_000 + 50 * n}", f"{kind}E", 24_000.0 + 50 * n) for n in range(strikes) for kind in kinds]
    rows += [("F", "FUT", float("nan"))] if future else []
    return pd.DataFrame(rows, columns=["instrument_key", "instrument_type", "strike_price"])


def test_a_share_is_a_share_and_always_the_same() -> None:
    """Of many contracts about the share is in the sample; 0 takes none, 1 takes all, a larger one takes more."""
    keys = [f"NSE_FO|{number}|28-08-2025" for number in range(20_000)]
    few, more = ({key for key in keys if in_share(key, share)} for share in (0.01, 0.1))
    assert 150 < len(few) < 250
    assert few < more
    assert not [key for key in keys if in_share(key, 0.0)]
    assert all(in_share(key, 1.0) for key in keys)


def test_the_sample_lies_at_the_money_and_elsewhere() -> None:
    """The future and both types of the five middle strikes are compared, with share 1 everybody."""
    contracts = chain(21, future=True)
    near = {f"{kind}{24_000 + 50 * n}" for n in range(10 - AT_THE_MONEY, 10 + AT_THE_MONEY + 1) for kind in "CP"}
    assert to_reconcile(contracts, 0.0) == near | {"F"}
    assert to_reconcile(contracts, 1.0) == set(contracts["instrument_key"])
    some = to_reconcile(contracts, 0.5)
    assert near < some < set(contracts["instrument_key"])


def test_a_small_chain_is_compared_as_a_whole() -> None:
    """Five strikes or fewer are all at the money; of nothing there is nothing."""
    for size in range(1, 6):
        assert to_reconcile(chain(size), 0.0) == set(chain(size)["instrument_key"])
    assert to_reconcile(chain(0), 1.0) == set()
    assert to_reconcile(chain(0, future=True), 0.0) == {"F"}


def test_wings_begin_beyond_the_outermost_live_strike() -> None:
    """On both sides, for each type by itself; a hole among live strikes is no wing, nor is a future."""
    contracts = chain(10, future=True)
    alive = ["C24150", "C24300", "P24100", "P24450", "F"]
    assert dead_wings(contracts, alive) == {
        *(f"C{strike}" for strike in (24000, 24050, 24100, 24350, 24400, 24450)),
        *(f"P{strike}" for strike in (24000, 24050)),
    }


def test_a_type_that_never_traded_has_no_wings() -> None:
    """Where nothing of a type is alive there is nothing beyond which it could be dead."""
    assert dead_wings(chain(6), ["C24100"]) == {f"C{strike}" for strike in (24000, 24050, 24150, 24200, 24250)}
    assert dead_wings(chain(6), []) == set()
    assert dead_wings(chain(0), []) == set()
    assert dead_wings(chain(0, future=True), ["F"]) == set()


def test_daily_candles_of_the_same_minutes_agree() -> None:
    """Nothing is named, in whatever order both come."""
    minutes = bars(DAYS, MINUTES).to_pandas()
    days = daily_bars(DAYS, MINUTES)
    assert disagreements(minutes, days) == []
    assert disagreements(minutes.sample(frac=1, random_state=1), days.take([2, 0, 1])) == []
    assert disagreements(minutes.iloc[:0], days.slice(0, 0)) == []


@pytest.mark.parametrize(
    ("column", "value"), [("high", 12.05), ("low", 8.95), ("close", 11.05), ("volume", 299), ("close", None)]
)
def test_each_disagreeing_number_is_named_by_its_day(column: str, value: float | None) -> None:
    """Highest, lowest, last close and volume must be the day's own; another open or open interest says nothing."""
    rows = daily_bars(DAYS, MINUTES).to_pylist()
    at = next(number for number, row in enumerate(rows) if row["ts"].date() == FIRST)  # UTC: the evening before SECOND
    rows[at] |= {column: value}
    days = pa.Table.from_pylist(rows, schema=daily_bars([], 0).schema)
    assert disagreements(bars(DAYS, MINUTES).to_pandas(), days) == [str(SECOND)]
    rows[at] |= {column: daily_bars(DAYS, MINUTES).to_pylist()[at][column], "open": 1.0, "open_interest": 1}
    days = pa.Table.from_pylist(rows, schema=days.schema)
    assert disagreements(bars(DAYS, MINUTES).to_pandas(), days) == []


def test_the_last_close_is_the_last_by_time() -> None:
    """The close of the day is that of its latest minute, wherever the row stands."""
    minutes = bars([FIRST], MINUTES).to_pandas()
    minutes.loc[minutes["ts"].idxmax(), "close"] = 10.5
    days = daily_bars([FIRST], MINUTES)
    assert disagreements(minutes, days) == [str(FIRST)]
    assert disagreements(minutes, days.set_column(4, "close", [[10.5]])) == []


def test_a_day_that_one_of_them_lacks_is_named() -> None:
    """A daily candle without minutes and minutes without a daily candle both contradict."""
    minutes = bars(DAYS, MINUTES).to_pandas()
    assert disagreements(minutes, daily_bars([FIRST, THIRD], MINUTES)) == [str(SECOND)]
    assert disagreements(bars([FIRST, THIRD], MINUTES).to_pandas(), daily_bars(DAYS, MINUTES)) == [str(SECOND)]
    assert disagreements(minutes, daily_bars([], MINUTES)) == [str(day) for day in DAYS]
    assert disagreements(minutes.iloc[:0], daily_bars(DAYS, MINUTES)) == [str(day) for day in DAYS]


def test_a_missing_minute_shows_in_the_volume() -> None:
    """A minute that was not received makes its day disagree."""
    minutes = bars(DAYS, MINUTES).to_pandas()
    assert disagreements(minutes.iloc[:-1], daily_bars(DAYS, MINUTES)) == [str(FIRST)]


def test_days_with_rows_in_quarantine_are_excepted() -> None:
    """Such a day cannot agree, and the quarantine tells of it already; other days must agree all the same."""
    minutes = bars(DAYS, MINUTES).to_pandas()
    held = minutes.drop(index=[0, len(minutes) - 1])  # a row of the last and of the first day
    days = daily_bars(DAYS, MINUTES)
    assert disagreements(held, days, {THIRD}) == [str(FIRST)]
    assert disagreements(held, days, {THIRD, FIRST}) == []
    assert disagreements(minutes[minutes["ts"].dt.day != THIRD.day], days, {THIRD}) == []


@pytest.mark.parametrize("clock", [(18, 29), (18, 30)])
def test_a_day_is_a_day_in_india(clock: tuple[int, int]) -> None:
    """Daily candles stand at midnight in India, which is 18:30 UTC of the day before."""
    moment = datetime(2025, 8, 27, *clock, tzinfo=UTC)
    row: dict[str, Any] = bars([SECOND], 1).to_pylist()[0]
    day = (moment + timedelta(hours=5, minutes=30)).date()
    days = pa.Table.from_pylist([row | {"ts": moment}], schema=bars([], 0).schema)
    assert disagreements(bars([day], 1).to_pandas(), days) == []
