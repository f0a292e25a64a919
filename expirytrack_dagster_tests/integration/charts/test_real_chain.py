"""The recorded chain of June 2021, from its files to the picture: names, parity of calls and puts, the smile."""

from __future__ import annotations

import math
import sys
from datetime import date
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from PIL import Image

from expirytrack_dagster.cli import main
from expirytrack_dagster.symbology import nse, upstox
from expirytrack_dagster.warehouse import cells
from expirytrack_dagster.warehouse.connection import Warehouse
from expirytrack_dagster.warehouse.derived import CELL_TABLES, derive

if TYPE_CHECKING:
    from pathlib import Path

EXPIRY = date(2021, 6, 17)
RATE = 0.065


def rows_of(file: Path, key: str) -> pd.DataFrame:
    """Return the bars of a recording up to the close; there is no open interest in it."""
    recorded = pd.read_csv(file)
    local = pd.to_datetime(recorded["TIME"]).dt.tz_localize("Asia/Kolkata")
    prices = {name.lower(): recorded[name].astype("float64") for name in ("Open", "High", "Low", "Close")}
    frame = pd.DataFrame(
        {"instrument_key": key, "ts": local.dt.tz_convert("UTC").astype("datetime64[us, UTC]"), **prices}
    )
    frame = frame.assign(volume=recorded["VOLUME"].astype("int64"), open_interest=0)
    return frame[local.dt.strftime("%H:%M") < "15:30"]


@pytest.fixture(scope="module")
def recorded(realdata: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Store the chain as a collected cell with everything derived from it, once, and return the home."""
    home = tmp_path_factory.mktemp("recorded")
    warehouse = Warehouse(home / "expirytrack.duckdb")
    names = nse.Reader([nse.Expiry("NIFTY", EXPIRY, weekly=True)])
    listed, bars = [], []
    for number, file in enumerate(sorted((realdata / "nifty_2021_06").glob("NIFTY2*_minute.csv"))):
        contract = names.parse(file.stem.removesuffix("_minute"))
        key = f"NSE_FO|{40_000 + number}|17-06-2021"
        strike = None if contract.strike is None else float(contract.strike)
        row = {"instrument_key": key, "instrument_type": contract.kind, "strike_price": strike, "weekly": True}
        listed.append(row | {"trading_symbol": upstox.format_symbol(contract), "underlying_key": "NSE_INDEX|Nifty 50"})
        bars.append(rows_of(file, key))
    dates = pd.DataFrame({"expiry": [EXPIRY], "underlying_key": "NSE_INDEX|Nifty 50"})
    cells.write_expiries(warehouse, "NIFTY", dates)
    cells.write_contracts(warehouse, "NIFTY", EXPIRY, pd.DataFrame(listed))
    everything = pd.concat(bars)
    missing = pd.Series(pd.NA, index=everything.index, dtype="str")
    everything.assign(rule=missing, detail=missing).to_parquet(home / "staged.parquet", index=False)
    counted = everything.groupby("instrument_key")["ts"].agg(["size", "min", "max"]).reset_index()
    counted.columns = pd.Index(["instrument_key", "candles", "first_ts", "last_ts"])
    states = counted.assign(status="complete", requests=1, received=counted["candles"], quarantined=0, duplicates=0)
    states = states.assign(error_code=None, message=None, checked_at=pd.Timestamp("2021-06-18", tz="UTC"))
    cells.write_candles(warehouse, "NIFTY", EXPIRY, [home / "staged.parquet"], states, "recorded")
    for table in CELL_TABLES:
        derive(warehouse, table, "NIFTY", EXPIRY, RATE)
    return home


def asked(home: Path, sql: str) -> pd.DataFrame:
    """Return the answer to a query."""
    with Warehouse(home / "expirytrack.duckdb").reading() as connection:
        frame: pd.DataFrame = connection.execute(sql).to_arrow_table().to_pandas()
    return frame


def test_calls_and_puts_agree(recorded: Path) -> None:
    """A real chain keeps put-call parity within a rupee as a rule, and within four nearly always."""
    chain = asked(recorded, "SELECT * FROM option_chain WHERE ce_volume > 0 AND pe_volume > 0 AND forward IS NOT NULL")
    assert len(chain) > 4_000
    grown = (-chain["rate"] * chain["years"]).map(math.exp)
    residual = (chain["ce_close"] - chain["pe_close"] - (chain["forward"] - chain["strike_price"]) * grown).abs()
    assert residual.median() < 0.5
    assert residual.quantile(0.95) < 2
    assert residual.quantile(0.999) < 15


def test_the_smile_is_one(recorded: Path) -> None:
    """Calls and puts of a strike imply nearly the same volatility, and lower strikes a higher one."""
    found = asked(
        recorded,
        "SELECT ts, strike_price, first(volatility) FILTER (instrument_type = 'CE') AS call,"
        " first(volatility) FILTER (instrument_type = 'PE') AS put FROM implied_volatility GROUP BY ALL",
    ).dropna()
    assert found[["call", "put"]].min().min() > 0.05
    assert found[["call", "put"]].max().max() < 0.5
    assert (found["call"] - found["put"]).abs().median() < 0.002
    by_strike = found.groupby("strike_price")["put"].median()
    assert by_strike.iloc[0] > by_strike.iloc[-1]


@pytest.mark.parametrize(
    "words",
    [
        ("smile", "NIFTY", "2021-06-17", "--at", "2021-06-11 11:00"),
        ("bars", "NIFTY2161715700CE"),
        ("bars", "NIFTY17JUN2115700CE", "--from", "2021-06-14", "--interval", "5minute"),
        ("coverage", "NIFTY", "2021-06-17"),
    ],
    ids=["smile", "bars", "a day", "coverage"],
)
def test_the_command_draws_it(
    recorded: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
) -> None:
    """A file is made and named; a second time it is not replaced."""
    monkeypatch.setenv("EXPIRYTRACK_HOME", str(recorded))
    target = tmp_path / "picture.png"
    for expected in (0, 1):
        monkeypatch.setattr(sys, "argv", ["expirytrack", "chart", *words, "--to", str(target)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == expected
        told = capsys.readouterr()
        assert str(target) in (told.err if expected else told.out)
    with Image.open(target) as picture:
        assert picture.size[0] > 300
