"""The chain of a real week of 2021, from recordings: parity, forward and smile look as a market's do."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from expirytrack_dagster import archive
from expirytrack_dagster.sandbox.recorded import RecordedMarket
from expirytrack_dagster.warehouse.connection import Warehouse
from expirytrack_dagster.warehouse.derived import CELL_TABLES, derive
from expirytrack_dagster.warehouse.published import publish
from expirytrack_dagster_tests.market import store_recorded

if TYPE_CHECKING:
    from pathlib import Path

EXPIRY = date(2021, 6, 17)
SYMBOL = "NIFTY2021"


@pytest.fixture(scope="module")
def home(realdata: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a home with the recorded cell and what is derived from it."""
    folder = tmp_path_factory.mktemp("home")
    warehouse = Warehouse(folder / "expirytrack.duckdb")
    store_recorded(warehouse, RecordedMarket(realdata), SYMBOL, "NSE_INDEX|Nifty 50 2021", EXPIRY, folder)
    for table in CELL_TABLES:
        derive(warehouse, table, SYMBOL, EXPIRY, 0.065)
    publish(warehouse)
    return folder


def test_the_forward_follows_the_index(home: Path, realdata: Path) -> None:
    """Within half a per cent of the index in every minute, and moving with it."""
    index = pd.read_csv(realdata / "nifty_2021_06" / "NIFTY_minute.csv")
    index["ts"] = (
        pd.to_datetime(index["TIME"]).dt.tz_localize("Asia/Kolkata").dt.tz_convert("UTC").astype("datetime64[us, UTC]")
    )
    metrics = archive.chain_metrics(SYMBOL, EXPIRY, home=home).df()
    both = metrics[metrics["forward"].notna()].merge(index, on="ts")
    assert len(both) >= 740
    assert (both["forward"] / both["Close"] - 1).abs().max() < 0.005
    assert np.corrcoef(both["forward"], both["Close"])[0, 1] > 0.99


def test_calls_and_puts_tell_one_smile(home: Path) -> None:
    """Nearly all rows have one, between 8 and 20 per cent, equal for both options of a strike to half a point."""
    rows = archive.implied_volatility(SYMBOL, EXPIRY, home=home).df()
    known = rows[rows["reason"].isna()]
    assert len(known) > 0.99 * len(rows)
    assert known["volatility"].between(0.08, 0.20).all()
    legs = known.pivot_table(index=["ts", "strike_price"], columns="instrument_type", values="volatility")
    difference = (legs["CE"] - legs["PE"]).abs()
    assert difference.median() < 0.001
    assert difference.quantile(0.99) < 0.005
    lowest, highest = rows["strike_price"].min(), rows["strike_price"].max()
    mean = known.groupby("strike_price")["volatility"].mean()
    assert mean[lowest] > mean[highest]  # an index's smile falls with the strike


def test_time_runs_to_the_close_of_a_day_that_was_not_recorded(home: Path) -> None:
    """Two recorded days, one with closing trades until 16:54: the expiry is taken to end at 15:30."""
    chain = archive.option_chain(SYMBOL, EXPIRY, home=home).df()
    first = chain.iloc[0]
    left = pd.Timestamp("2021-06-17 15:30", tz="Asia/Kolkata") - first["ts"] - pd.Timedelta(minutes=1)
    assert first["days_to_expiry"] == pytest.approx(left / pd.Timedelta(days=1))
