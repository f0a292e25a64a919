"""The Python reader: what it answers, in which form, and that it is cheap to import and changes nothing."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, date, datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from expirytrack_dagster import archive
from expirytrack_dagster.errors import ConfigurationError, QueryRefused
from expirytrack_dagster.sandbox.bars import aggregate
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket
from expirytrack_dagster.settings import load_settings
from expirytrack_dagster.warehouse.connection import Warehouse, open_warehouse
from expirytrack_dagster.warehouse.derived import CELL_TABLES, derive, derive_continuous
from expirytrack_dagster.warehouse.published import publish
from expirytrack_dagster_tests.market import store_bars, store_cell

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MONTHLY, WEEKLY = date(2025, 8, 28), date(2025, 8, 21)
MOMENT = "2025-08-26 10:30"
UTC_MOMENT = pd.Timestamp("2025-08-26 05:00", tz="UTC")
MARKET = SyntheticMarket(strikes=5, days=4, today=date(2025, 9, 15))
SAME_INSTANT = {
    "text without a zone": MOMENT,
    "text in UTC": "2025-08-26T05:00:00+00:00",
    "inside the minute": "2025-08-26 10:30:59.5",
    "naive": datetime(2025, 8, 26, 10, 30),  # noqa: DTZ001 -- what a notebook writes
    "aware": datetime(2025, 8, 26, 5, 0, tzinfo=UTC),
    "elsewhere": datetime(2025, 8, 26, 7, 0, tzinfo=timezone(timedelta(hours=2))),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a home with a monthly and a weekly cell and everything that is made from them."""
    folder = tmp_path_factory.mktemp("home")
    warehouse = Warehouse(folder / "expirytrack.duckdb")
    for expiry in (WEEKLY, MONTHLY):
        store_cell(warehouse, MARKET, "NIFTY", expiry, folder)
        for table in CELL_TABLES:
            derive(warehouse, table, "NIFTY", expiry, 0.065)
    derive_continuous(warehouse, "NIFTY")
    publish(warehouse)
    return folder


@pytest.fixture(scope="module")
def future(home: Path) -> str:
    """Return the key of the future."""
    frame = archive.contracts("NIFTY", MONTHLY, home=home).df()
    return str(frame.loc[frame["instrument_type"] == "FUT", "instrument_key"].iloc[0])


def test_every_table_is_the_one_of_the_archive(home: Path) -> None:
    """Row for row, generated columns included; the files hold the stored ones alone."""
    asked: dict[str, Callable[..., archive.Answer]] = {
        "candles": archive.candles,
        "option_chain": archive.option_chain,
        "implied_volatility": archive.implied_volatility,
        "chain_metrics": archive.chain_metrics,
        "daily_bars": archive.daily_bars,
        "contracts": archive.contracts,
    }
    with Warehouse(home / "expirytrack.duckdb").reading() as connection:
        for table, ask in asked.items():
            read = ask("NIFTY", "2025-08-28", home=home).df()
            sql = f"FROM {table} WHERE expiry = '2025-08-28'"
            stored = connection.execute(sql).to_arrow_table().to_pandas()
            columns = [name for name in stored.columns if name != "minute"]
            stored = stored[columns]
            keys = [name for name in ("ts", "day", "instrument_key", "strike_price") if name in columns]
            pd.testing.assert_frame_equal(
                read[columns].sort_values(keys, ignore_index=True), stored.sort_values(keys, ignore_index=True)
            )
            assert len(read) > 0


def test_rows_come_in_order(home: Path) -> None:
    """Of time and strike, of day and contract, of expiry and strike, as they are published."""
    chain = archive.option_chain("NIFTY", MONTHLY, home=home).df()
    assert chain[["ts", "strike_price"]].apply(tuple, axis=1).is_monotonic_increasing
    days = archive.daily_bars("NIFTY", home=home).df()
    assert days[["day", "instrument_key"]].apply(tuple, axis=1).is_monotonic_increasing
    listed = archive.contracts("NIFTY", home=home).df()
    assert listed["expiry"].is_monotonic_increasing
    assert archive.chain_metrics("NIFTY", MONTHLY, home=home).df()["ts"].is_monotonic_increasing
    minutes = archive.candles("NIFTY", MONTHLY, home=home).df()
    assert minutes[["instrument_key", "ts"]].apply(tuple, axis=1).is_monotonic_increasing


def test_an_answer_comes_in_three_forms(home: Path) -> None:
    """The same rows as pandas, polars and Arrow, with times in UTC; and whoever reads Arrow streams takes it."""
    answer = archive.candles("NIFTY", MONTHLY, home=home)
    frame, polars, table = answer.df(), answer.pl(), answer.arrow()
    assert isinstance(frame, pd.DataFrame)
    assert isinstance(polars, pl.DataFrame)
    assert isinstance(table, pa.Table)
    assert len(answer) == len(frame) == len(polars) == table.num_rows > 0
    assert str(frame["ts"].dtype) == "datetime64[us, UTC]"
    assert polars.schema["ts"] == pl.Datetime("us", "UTC")
    assert pl.DataFrame(answer).equals(polars)
    assert repr(answer).startswith(f"<{len(answer):,} rows: underlying, expiry, instrument_key")


def test_a_contract_is_its_minutes(home: Path, future: str) -> None:
    """By key, in the order of time."""
    minutes = MARKET.minutes(future)
    assert minutes is not None
    frame = archive.candles("NIFTY", MONTHLY, key=future, home=home).df()
    assert frame["close"].tolist() == minutes.close.tolist()
    assert (frame["ts"].astype("int64") // 1_000_000).tolist() == minutes.time.tolist()


def test_rows_that_came_later_stand_in_their_place(tmp_path: Path) -> None:
    """A review released a minute from quarantine: in the file it lies behind the others."""
    warehouse = Warehouse(tmp_path / "expirytrack.duckdb")
    market = SyntheticMarket(strikes=0, days=1, today=date(2025, 9, 15))
    store_cell(warehouse, market, "NIFTY", MONTHLY, tmp_path)
    with warehouse.writing() as connection:
        connection.execute(
            "CREATE TEMP TABLE released AS FROM candles WHERE minute = (SELECT min(minute) FROM candles)"
        )
        connection.execute("DELETE FROM candles WHERE minute = (SELECT min(minute) FROM released)")
        connection.execute("INSERT INTO candles BY NAME SELECT * EXCLUDE (ts) FROM released")
        (key,) = connection.execute("SELECT min(instrument_key) FROM released").fetchone() or ("",)
    publish(warehouse)
    minutes = market.minutes(key)
    assert minutes is not None
    frame = archive.candles("NIFTY", MONTHLY, key=key, home=tmp_path).df()
    assert frame["close"].tolist() == minutes.close.tolist()


@pytest.mark.parametrize("interval", ["1m", "3m", "5m", "15m", "30m", "60m", "1d"])
def test_bars_are_those_of_the_api(home: Path, interval: archive.Interval) -> None:
    """Widths that the API serves agree with its own; an illiquid contract has the gaps that its minutes have."""
    for key in archive.contracts("NIFTY", MONTHLY, home=home).df()["instrument_key"].iloc[[0, 5, 12]]:
        minutes = MARKET.minutes(key)
        assert minutes is not None
        frame = archive.bars(key, interval, home=home).df()
        api = {"1m": "1minute", "3m": "3minute", "5m": "5minute", "15m": "15minute", "30m": "30minute", "1d": "day"}
        if interval == "60m":
            assert frame["volume"].sum() == minutes.volume.sum()
            assert set((frame["ts"] + timedelta(minutes=15)).dt.minute) <= {0}  # 03:45 and so on in UTC
            continue
        expected = aggregate(minutes, api[interval])
        for name in ("open", "high", "low", "close", "volume", "open_interest"):
            assert frame[name].tolist() == getattr(expected, name).tolist()
        assert (frame["ts"].astype("int64") // 1_000_000).tolist() == expected.time.tolist()


@pytest.mark.parametrize("instant", SAME_INSTANT.values(), ids=SAME_INSTANT)
def test_an_instant_may_be_written_in_many_ways(home: Path, instant: datetime | str) -> None:
    """A time without a zone is Indian; one inside a minute means that minute."""
    chain = archive.chain_at("NIFTY", MONTHLY, instant, home=home).df()
    assert set(chain["ts"]) == {UTC_MOMENT}
    assert chain["strike_price"].is_monotonic_increasing
    now = archive.atm("NIFTY", MONTHLY, instant, home=home).df().iloc[0]
    assert now["ts"] == UTC_MOMENT
    assert now["atm_strike"] == min(chain["strike_price"], key=lambda strike: abs(strike - now["forward"]))


def test_the_window_rolls_with_the_money_and_names_its_contracts(home: Path) -> None:
    """Five strikes a minute where they traded, each with the contracts that have this strike."""
    window = archive.chain_window("NIFTY", MONTHLY, 2, home=home).df()
    metrics = archive.chain_metrics("NIFTY", MONTHLY, home=home).df().set_index("ts")["atm_strike"]
    middle = window[window["step"] == 0]
    assert (middle.set_index("ts")["strike_price"] == metrics).all()
    assert len(middle) == len(metrics)
    assert set(window["step"]) <= {-2, -1, 0, 1, 2}
    assert (window["strike_price"] - window["ts"].map(metrics) == 50 * window["step"]).all()
    strikes = archive.contracts("NIFTY", MONTHLY, home=home).df().set_index("instrument_key")["strike_price"]
    named = window[window["pe_key"].notna()]
    assert (named["pe_key"].map(strikes) == named["strike_price"]).all()


def test_the_spot_is_of_the_nearest_expiry(home: Path) -> None:
    """Before the weekly expiry it is the weekly one's, after it the monthly one's; both near the market's level."""
    before = archive.spot_at("NIFTY", "2025-08-21 10:30", home=home).df().iloc[0]
    after = archive.spot_at("NIFTY", MOMENT, home=home).df().iloc[0]
    assert (pd.Timestamp(before["expiry"]).date(), pd.Timestamp(after["expiry"]).date()) == (WEEKLY, MONTHLY)
    assert 0 < after["forward"] - after["spot"] < 30
    assert len(archive.spot_at("NIFTY", "2025-09-10 10:30", home=home)) == 0


def test_a_straddle_is_one_row_a_minute(home: Path) -> None:
    """And is the two prices together."""
    frame = archive.straddle("NIFTY", MONTHLY, home=home).df()
    assert len(frame) == 4 * 375
    assert (frame["straddle"] == frame["atm_ce_close"] + frame["atm_pe_close"]).all()


def test_a_continuous_future_by_day_and_by_minute(home: Path, future: str) -> None:
    """With one future there is nothing to adjust: the days are its days and the minutes its minutes."""
    days = archive.continuous("NIFTY", "volume", "ratio", home=home).df()
    minutes = archive.continuous("NIFTY", "volume", "difference", minutes=True, home=home).df()
    assert set(days["instrument_key"]) == {future}
    assert minutes["close"].tolist() == archive.candles("NIFTY", MONTHLY, key=future, home=home).df()["close"].tolist()


def test_sql_sees_all_tables_or_one_cell(home: Path) -> None:
    """Narrowed to a cell, only its rows are there; parameters are bound by name."""
    query = "SELECT count(*) AS n FROM candles WHERE volume > $least"
    everything = archive.sql(query, {"least": 0}, home=home).df()["n"][0]
    parts = [
        archive.sql(query, {"least": 0}, underlying="NIFTY", expiry=day, home=home).df()["n"][0]
        for day in (WEEKLY, MONTHLY)
    ]
    assert everything == sum(parts) > 0
    assert len(archive.sql("FROM bars_15m", underlying="NIFTY", expiry=WEEKLY, home=home)) > 0


def test_nothing_can_be_changed(home: Path) -> None:
    """Whatever is no question is refused, and the next question is answered as before."""
    for statement in (
        "DELETE FROM candles",
        "CREATE TABLE t (i INT)",
        "SELECT 1; DROP VIEW candles",
        "COPY candles TO 'x'",
    ):
        with pytest.raises(ConfigurationError, match="one SELECT"):
            archive.sql(statement, home=home)
    assert len(archive.sql("FROM candles LIMIT 1", home=home)) == 1


def test_nothing_else_can_be_read(home: Path, tmp_path: Path) -> None:
    """A query in Python reaches no file either."""
    (tmp_path / "other.csv").write_text("a\n1\n")
    other = f"'{tmp_path}/other.csv'"
    for query in (f"FROM {other}", f"FROM candles WHERE EXISTS (FROM read_text({other}))"):
        with pytest.raises(QueryRefused):
            archive.sql(query, home=home)


def test_a_version_names_its_rows_for_ever(tmp_path: Path) -> None:
    """After a refetch found other rows, the version that a backtest wrote down still gives what it used."""
    warehouse = Warehouse(tmp_path / "expirytrack.duckdb")
    market = SyntheticMarket(strikes=1, days=1, today=date(2025, 9, 15))
    store_cell(warehouse, market, "NIFTY", MONTHLY, tmp_path)
    publish(warehouse)
    used = archive.at("NIFTY", MONTHLY, home=tmp_path)
    before = used.candles().df()
    key = str(before["instrument_key"].iloc[-1])
    minutes = market.minutes(key)
    assert minutes is not None
    store_bars(warehouse, "NIFTY", MONTHLY, {key: minutes.take(slice(7, None))}, tmp_path)
    publish(warehouse)
    now = archive.at("NIFTY", "2025-08-28", home=tmp_path)
    again = archive.at("NIFTY", "2025-08-28", version=used.version, home=tmp_path)
    assert now.version != used.version
    assert (now.current, again.current, used.complete) == (True, False, True)
    pd.testing.assert_frame_equal(again.candles().df(), before)
    assert len(now.candles()) == len(before) - 7 == now.rows
    assert [cell.version for cell in archive.cells(home=tmp_path)] == [now.version]
    with pytest.raises(ConfigurationError, match=f"no version 0123 of NIFTY 2025-08-28, only {now.version}"):
        archive.at("NIFTY", MONTHLY, version="0123", home=tmp_path)


def test_what_was_never_published_is_published_by_the_first_question(tmp_path: Path) -> None:
    """An archive of an older program, or no archive at all."""
    assert archive.cells(home=tmp_path / "nothing") == []
    warehouse = Warehouse(tmp_path / "expirytrack.duckdb")
    rows = store_cell(
        warehouse, SyntheticMarket(strikes=0, days=1, today=date(2025, 9, 15)), "NIFTY", MONTHLY, tmp_path
    )
    assert len(archive.candles("NIFTY", MONTHLY, home=tmp_path)) == rows


def test_the_home_is_that_of_the_settings(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As everywhere else."""
    monkeypatch.setenv("EXPIRYTRACK_HOME", str(home))
    assert load_settings().published == home / "published"
    assert archive.cells("NIFTY") == archive.cells("NIFTY", home=home)
    assert archive.cells("BANKNIFTY") == []


def test_mistakes_are_said_in_a_sentence(home: Path) -> None:
    """Which word is wrong, and what it should look like."""
    with pytest.raises(ConfigurationError, match="no date of the form"):
        archive.candles("NIFTY", "28-08-2025", home=home)
    with pytest.raises(ConfigurationError, match="no time such as"):
        archive.chain_at("NIFTY", MONTHLY, "10:30", home=home)
    with pytest.raises(ConfigurationError, match=r"SEGMENT\|token"):
        archive.bars("NIFTY", home=home)
    with pytest.raises(ConfigurationError, match="collect the cell first"):
        archive.at("NIFTY", "2025-01-30", home=home)


def test_columns_are_described(home: Path) -> None:
    """Every column of an answer has a type and a sentence."""
    told = archive.describe("option_chain", home=home).df().set_index("column")
    chain = archive.option_chain("NIFTY", MONTHLY, home=home).arrow()
    assert set(told.index) == set(chain.column_names)
    assert told["description"].str.len().min() > 10
    assert told.loc["moneyness", "type"] == "DOUBLE"


def test_importing_is_cheap() -> None:
    """Neither Dagster nor pandas nor DuckDB is loaded before something is asked."""
    code = "from expirytrack_dagster import archive; import sys; print([m for m in "
    code += "('dagster', 'duckdb', 'pandas', 'pyarrow', 'polars', 'pydantic') if m in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.strip() == "[]"


def test_an_encrypted_archive_is_read_with_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has the vault reads as before; the answer is the same."""
    monkeypatch.setenv("EXPIRYTRACK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("EXPIRYTRACK_ENCRYPTION", "true")
    monkeypatch.setenv("EXPIRYTRACK_PASSPHRASE", "correct horse battery staple")
    warehouse = open_warehouse(load_settings())
    market = SyntheticMarket(strikes=1, days=1, today=date(2025, 9, 15))
    rows = store_cell(warehouse, market, "NIFTY", MONTHLY, tmp_path)
    publish(warehouse)
    assert len(archive.candles("NIFTY", MONTHLY)) == rows
    assert len(archive.at("NIFTY", MONTHLY).candles()) == rows
