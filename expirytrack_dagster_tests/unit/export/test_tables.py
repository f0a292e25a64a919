"""Parquet, CSV and Feather: opened by the libraries of their users, every row and value as in the archive."""

from __future__ import annotations

import csv
import zipfile
from datetime import date, time
from typing import TYPE_CHECKING

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from expirytrack_dagster.export.exporting import export_cell
from expirytrack_dagster.export.selection import Interval, Selection
from expirytrack_dagster.settings import load_settings
from expirytrack_dagster.symbology import openalgo
from expirytrack_dagster_tests.unit.export.conftest import DAYS, MINUTES, MONTHLY, STRIKES, WEEKLY

if TYPE_CHECKING:
    from pathlib import Path

    from expirytrack_dagster_tests.unit.export.conftest import Shop

COLUMNS = "underlying, expiry, instrument_key, ts, open, high, low, close, volume, open_interest"
ARCHIVE = f"""
SELECT {COLUMNS}, instrument_type, strike_price FROM candles JOIN contracts USING (underlying, expiry, instrument_key)
WHERE underlying = 'NIFTY' ORDER BY expiry, instrument_key, ts
"""  # noqa: S608 - constants
NAMES = ("candles.parquet", "contracts.parquet")
HEADER = (
    "openalgo_symbol date time instrument expiry strike option_type trading_symbol timestamp "
    "open high low close volume oi"
)


def candles(shop: Shop, **options: object) -> pd.DataFrame:
    """Export NIFTY as Parquet and return its candles, in the order of the files."""
    chosen = Selection(**options)  # type: ignore[arg-type]
    made = shop.export("parquet", overwrite=True, underlyings=["NIFTY"], selection=chosen)
    read = [[pd.read_parquet(path) for path in sorted(made.target.rglob(name))] for name in NAMES]
    contracts = pd.concat(read[1])[["instrument_key", "instrument_type", "strike_price"]]
    return pd.concat(read[0]).merge(contracts, how="left", on="instrument_key")


def test_parquet_holds_the_archive(shop: Shop) -> None:
    """Row for row and in order, opened by pyarrow and by DuckDB; a file for each underlying and expiry."""
    made = shop.export("parquet")
    files = sorted(path.relative_to(made.target).as_posix() for path in made.target.rglob("candles.parquet"))
    assert files == [
        "M&M/2025-08-28/candles.parquet",
        "NIFTY/2025-08-28/candles.parquet",
        "NIFTY/2025-09-02/candles.parquet",
    ]
    tables = [pq.read_table(made.target / file) for file in files[1:]]
    expected = [row[:-2] for row in shop.rows(ARCHIVE)]
    assert [tuple(row.values()) for table in tables for row in table.to_pylist()] == expected
    assert tables[0].schema.field("ts").type == pa.timestamp("us", tz="UTC")
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        found = connection.execute(
            ARCHIVE.replace("candles", "read_parquet($candles) AS c").replace(
                "contracts", "read_parquet($contracts) AS k"
            ),
            {name: f"{made.target}/*/*/{name}.parquet" for name in ("candles", "contracts")},
        ).fetchall()
    assert found == shop.rows(ARCHIVE)


def test_contracts_lie_beside_their_candles(shop: Shop) -> None:
    """With the names by which other programs know them; also those without a candle."""
    made = shop.export("parquet", underlyings=["M&M"])
    listed = pd.read_parquet(made.target / "M&M" / "2025-08-28" / "contracts.parquet")
    assert list(listed["openalgo_symbol"]) == ["M&M28AUG2524400CE", "M&M28AUG2524487.5CE", "M&M28AUG2524500CE"]
    assert list(listed["lot_size"]) == [75, 75, 75]
    assert made.incomplete == ["M&M 2025-08-28"]
    assert [entry["complete"] for entry in made.manifest.cells] == [False]


def test_csv_has_the_columns_that_users_know(shop: Shop) -> None:
    """Read by the csv module and by pandas; symbols can be read back, times are India's."""
    made = shop.export("csv", underlyings=["NIFTY"])
    path = made.target / "NIFTY" / str(MONTHLY) / "candles.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == HEADER.split()
    expected = [row for row in shop.rows(ARCHIVE) if row[1] == MONTHLY]
    assert len(rows) == len(expected)
    for row, (_, expiry, _, ts, *values, kind, strike) in zip(rows, expected, strict=True):
        contract = openalgo.parse(row["openalgo_symbol"])
        assert (contract.kind, contract.expiry) == (kind, expiry)
        assert (row["instrument"], row["expiry"], row["option_type"]) == ("NIFTY", "2025-08-28", kind)
        assert (float(row["strike"]) if row["strike"] else None) == strike
        assert pd.Timestamp(row["timestamp"]) == ts
        assert row["timestamp"] == f"{row['date']}T{row['time']}+05:30"
        assert [float(row[name]) for name in ("open", "high", "low", "close", "volume", "oi")] == values
    assert rows[0]["openalgo_symbol"] == "NIFTY28AUG2524300CE"
    assert rows[0]["trading_symbol"] == "NIFTY 24300 CE 28 AUG 25"
    assert (rows[0]["date"], rows[0]["time"], rows[0]["strike"]) == ("2025-08-26", "09:15:00", "24300")
    assert rows[-1]["openalgo_symbol"] == "NIFTY28AUG25FUT"
    frame = pd.read_csv(path)
    assert frame["volume"].dtype == "int64"
    assert frame["close"].dtype == "float64"


def test_feather_is_read_by_arrow_and_pandas(shop: Shop) -> None:
    """The same rows as Parquet."""
    made = shop.export("feather", underlyings=["NIFTY"], expiries=[WEEKLY])
    path = made.target / "NIFTY" / str(WEEKLY) / "candles.feather"
    expected = [row for row in shop.rows(ARCHIVE) if row[1] == WEEKLY]
    assert [(*row.values(),) for row in pa.feather.read_table(path).to_pylist()] == [row[:-2] for row in expected]
    assert len(pd.read_feather(path)) == len(expected) == len(STRIKES) * 2 * MINUTES * len(DAYS)


def test_several_formats_become_one_zip(shop: Shop) -> None:
    """Each in a folder of its own; the members open where they lie."""
    made = shop.export("csv", "parquet", "lean", to="all.zip", underlyings=["NIFTY"])
    with zipfile.ZipFile(made.target) as archive:
        assert archive.testzip() is None
        assert {name.split("/")[0] for name in archive.namelist()} == {"csv", "parquet", "lean", "manifest.json"}
        with archive.open("csv/NIFTY/2025-09-02/candles.csv") as file:
            assert len(pd.read_csv(file)) == len(STRIKES) * 2 * MINUTES * len(DAYS)
    assert made.bars == len(shop.rows(ARCHIVE))


def test_days_times_types_and_strikes_are_chosen(shop: Shop) -> None:
    """Both ends are included, and times are India's."""
    found = candles(
        shop, first_day=DAYS[1], last_day=DAYS[1], first_time=time(9, 17), last_time=time(9, 19),
        kinds=frozenset({"CE", "FUT"}), lowest_strike=24400, highest_strike=24600,
    )  # fmt: skip
    local = found["ts"].dt.tz_convert("Asia/Kolkata")
    assert set(local.dt.date) == {DAYS[1]}
    assert set(local.dt.strftime("%H:%M")) == {"09:17", "09:18", "09:19"}
    assert set(found["instrument_type"]) == {"CE", "FUT"}
    assert set(found["strike_price"].dropna()) == {24400, 24500, 24600}
    assert len(found) == 3 * (3 + 1 + 3)


@pytest.mark.parametrize(
    ("width", "first", "second"),
    [(0, {24500}, {24500, 24600, 24700}), (1, {24400, 24500, 24600}, {24400, 24500, 24600, 24700, 24800}),
     (50, set(STRIKES), set(STRIKES))],
)  # fmt: skip
def test_at_the_money_follows_the_traded_forward(shop: Shop, width: int, first: set[float], second: set[float]) -> None:
    """A day keeps, whole, all strikes that the money came near to; futures stay."""
    found = candles(shop, at_the_money=width)
    for day, strikes in zip(DAYS, (first, second), strict=True):
        of_day = found[found["ts"].dt.date == day]
        assert set(of_day["strike_price"].dropna()) == strikes
        assert len(of_day) == MINUTES * (2 * 2 * len(strikes) + 1)


def test_wider_bars_are_made_of_minutes(shop: Shop) -> None:
    """Counted from 09:15: first open, highest high, lowest low, last close and open interest, sum of volumes."""
    minutes = candles(shop)
    found = candles(shop, interval=Interval.FIVE)
    key = "NSE_FO|40000|28-08-2025"
    of_key = minutes[(minutes["instrument_key"] == key) & (minutes["ts"].dt.date == DAYS[0])].reset_index(drop=True)
    bars = found[(found["instrument_key"] == key) & (found["ts"].dt.date == DAYS[0])].reset_index(drop=True)
    assert list(bars["ts"].dt.tz_convert("Asia/Kolkata").dt.strftime("%H:%M")) == ["09:15", "09:20", "09:25"]
    for number, bar in bars.iterrows():
        part = of_key.iloc[5 * int(str(number)) : 5 * int(str(number)) + 5]
        assert bar["open"] == part["open"].iloc[0]
        assert bar["high"] == part["high"].max()
        assert bar["low"] == part["low"].min()
        assert (bar["close"], bar["open_interest"]) == (part["close"].iloc[-1], part["open_interest"].iloc[-1])
        assert bar["volume"] == part["volume"].sum()
    assert found["volume"].sum() == minutes["volume"].sum()
    pairs = list(zip(found["expiry"], found["instrument_key"], found["ts"], strict=True))
    assert pairs == sorted(pairs)


def test_daily_bars_begin_at_midnight_in_india(shop: Shop) -> None:
    """One bar a contract and trading day."""
    found = candles(shop, interval=Interval.DAY)
    local = found["ts"].dt.tz_convert("Asia/Kolkata")
    assert set(local.dt.strftime("%Y-%m-%d %H:%M")) == {f"{day} 00:00" for day in DAYS}
    assert len(found) == (len(STRIKES) * 2 * 2 + 1) * len(DAYS)


def test_files_of_all_cells_have_one_schema(shop: Shop) -> None:
    """Also those of a cell that lists nothing: readers take them as one table."""
    settings = load_settings()
    none = export_cell(settings, shop.warehouse, shop.folder / "none", "NIFTY", date(2030, 1, 1))
    some = export_cell(settings, shop.warehouse, shop.folder / "some", "NIFTY", MONTHLY)
    assert (none.bars, len(none.manifest.files)) == (0, 2)
    assert some.bars == len([row for row in shop.rows(ARCHIVE) if row[1] == MONTHLY])
    for name in NAMES:
        assert pq.read_schema(none.target / name) == pq.read_schema(some.target / name)


def test_strange_folders_are_no_sql(shop: Shop, tmp_path: Path) -> None:
    """A quote in a path is a quote."""
    made = shop.export("parquet", "csv", to="it's; DROP TABLE candles")
    assert made.target.is_dir()
    assert tmp_path in made.target.parents
    assert date(2025, 8, 28) in {row[0] for row in shop.rows("SELECT expiry FROM candles")}
