"""LEAN's data folder, read by a reader that was written from LEAN's documentation alone."""

from __future__ import annotations

import csv
import io
import re
import zipfile
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.export.manifest import check
from expirytrack_dagster.warehouse.connection import Warehouse
from expirytrack_dagster_tests.unit.export.conftest import DAYS, MONTHLY, WEEKLY

if TYPE_CHECKING:
    from pathlib import Path

    from expirytrack_dagster_tests.unit.export.conftest import Shop

IST = timezone(timedelta(hours=5, minutes=30))
OPTION = re.compile(r"(\d{8})_([^_]+)_minute_(trade|openinterest)_european_(call|put)_(\d+)_(\d{8})\.csv")
FUTURE = re.compile(r"(\d{8})_([^_]+)_minute_(trade|openinterest)_(\d{6})\.csv")

Bars = dict[tuple[Any, ...], dict[datetime, tuple[float, ...]]]


def read_options(root: Path, kind: str) -> Bars:
    """Return the rows of each (expiry, right, strike); prices and strikes are divided by 10,000."""
    found: Bars = {}
    for path in sorted(root.glob(f"minute/*/*_{kind}_european.zip")):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                match = OPTION.fullmatch(name)
                assert match is not None, name
                day, ticker, of_kind, right, strike, expiry = match.groups()
                assert (path.parent.name, path.name, of_kind) == (ticker, f"{day}_{kind}_european.zip", kind)
                scale = 10_000 if kind == "trade" else 1
                contract = (expiry, right, int(strike) / 10_000)
                found.setdefault(contract, {}).update(read_rows(archive.read(name), day, scale))
    return found


def read_rows(data: bytes, day: str, scale: int) -> dict[datetime, tuple[float, ...]]:
    """Return the values of each bar's start; the last value, a volume or an open interest, is not scaled."""
    midnight = datetime.strptime(day, "%Y%m%d").replace(tzinfo=IST)
    rows = [[int(cell) if scale > 1 else float(cell) for cell in row] for row in csv.reader(io.StringIO(data.decode()))]
    return {
        midnight + timedelta(milliseconds=row[0]): (*(value / scale for value in row[1:-1]), row[-1]) for row in rows
    }


def test_options_are_read_back(shop: Shop) -> None:
    """Both expiries share the zips of a day; every bar and every open interest is there."""
    made = shop.export("lean", underlyings=["NIFTY"])
    root = made.target / "indexoption" / "india"
    trades, interests = read_options(root, "trade"), read_options(root, "openinterest")
    rights = {"CE": "call", "PE": "put"}
    expected: Bars = {}
    for expiry, kind, strike, ts, *values in shop.rows(
        "SELECT expiry, instrument_type, strike_price, ts, open, high, low, close, volume, open_interest FROM candles "
        "JOIN contracts USING (underlying, expiry, instrument_key) WHERE underlying = 'NIFTY' AND strike_price > 0"
    ):
        expected.setdefault((f"{expiry:%Y%m%d}", rights[kind], strike), {})[ts] = tuple(values)
    assert {key: {ts: row[:-1] for ts, row in rows.items()} for key, rows in expected.items()} == trades
    assert {key: {ts: row[-1:] for ts, row in rows.items()} for key, rows in expected.items()} == interests
    assert sorted(path.name for path in (root / "minute" / "nifty").iterdir()) == [
        f"{day:%Y%m%d}_{kind}_european.zip" for day in DAYS for kind in ("openinterest", "trade")
    ]
    assert check(made.target).problems == []


def test_futures_keep_their_prices(shop: Shop) -> None:
    """One file a contract month, prices as they are."""
    made = shop.export("lean", underlyings=["NIFTY"])
    folder = made.target / "future" / "india"
    with zipfile.ZipFile(folder / "minute" / "nifty" / "20250826_trade.zip") as archive:
        (name,) = archive.namelist()
        first = archive.read(name).decode().splitlines()[0]
    match = FUTURE.fullmatch(name)
    assert match is not None
    assert match.groups() == ("20250826", "nifty", "trade", "202508")
    assert [float(value) for value in first.split(",")] == [33_300_000, 24511, 24512.5, 24510, 24510, 75]
    header, line = (folder / "universes" / "nifty" / "20250826.csv").read_text().splitlines()
    assert header == "#expiry,open,high,low,close,volume,open_interest"
    assert line.split(",")[0] == "202508"


def test_universes_list_the_contracts_of_a_day(shop: Shop) -> None:
    """One header, then each contract of both expiries with its daily bar; greeks are empty."""
    made = shop.export("lean", underlyings=["NIFTY"])
    path = made.target / "indexoption" / "india" / "universes" / "nifty" / f"{DAYS[1]:%Y%m%d}.csv"
    header, *lines = csv.reader(io.StringIO(path.read_text()))
    assert header[:9] == ["#expiry", "strike", "right", "open", "high", "low", "close", "volume", "open_interest"]
    assert all(len(line) == len(header) for line in lines)
    assert {line[0] for line in lines} == {f"{MONTHLY:%Y%m%d}", f"{WEEKLY:%Y%m%d}"}
    expected = {
        (f"{expiry:%Y%m%d}", f"{strike:g}", kind[0]): list(values)
        for expiry, strike, kind, *values in shop.rows(
            "SELECT expiry, strike_price, instrument_type, first(open ORDER BY ts), max(high), min(low), "
            "last(close ORDER BY ts), sum(volume), last(open_interest ORDER BY ts) FROM candles "
            "JOIN contracts USING (underlying, expiry, instrument_key) "
            "WHERE underlying = 'NIFTY' AND strike_price > 0 AND ts::DATE = '2025-08-28' GROUP BY ALL"
        )
    }
    assert {tuple(line[:3]): [float(value) for value in line[3:9]] for line in lines} == expected


def test_shares_have_options_of_their_own_folder(shop: Shop) -> None:
    """With a strike of half a rupee."""
    made = shop.export("lean", underlyings=["M&M"])
    found = read_options(made.target / "option" / "india", "trade")
    assert set(found) == {("20250828", "call", 24400.0), ("20250828", "call", 24487.5)}


def test_other_underlyings_are_refused(shop: Shop, stocked: Path, tmp_path: Path) -> None:
    """LEAN has no folder for options on a currency pair of NSE."""
    copy = tmp_path / "copy.duckdb"
    copy.write_bytes(stocked.read_bytes())
    changed = type(shop)(Warehouse(copy), shop.folder)
    with changed.warehouse.writing() as connection:
        connection.execute("UPDATE contracts SET underlying_key = 'NCD_FO|14294'")
    with pytest.raises(ConfigurationError, match="neither"):
        changed.export("lean")
