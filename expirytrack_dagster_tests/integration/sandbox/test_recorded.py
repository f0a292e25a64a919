"""The recorded folder is served as Upstox served it."""

import csv
import gzip
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.sandbox.recorded import RecordedMarket
from expirytrack_dagster.sandbox.running import Running, running
from expirytrack_dagster.settings import INSTRUMENTS_PATH

FOLDER = Path("../shared/realdata")
here = pytest.mark.skipif(not FOLDER.is_dir(), reason="the recordings (../shared/realdata) are not on this machine")
BASE = "/v2/expired-instruments"


@pytest.fixture(scope="module")
def served() -> Iterator[Running]:
    """Serve the recordings."""
    with running(RecordedMarket(FOLDER), limits=()) as sandbox:
        yield sandbox


def get(served: Running, path: str, **query: str) -> Any:
    """Return the body of a good answer."""
    answer = httpx.get(served.url + BASE + path, params=query, headers={"Authorization": "Bearer x"})
    assert answer.status_code == 200
    return answer.json()


def recorded(name: str) -> Any:
    """Return a recorded body."""
    return json.loads((FOLDER / "upstox_recorded" / name).read_bytes())


@here
def test_bodies_equal_the_recordings(served: Running) -> None:
    """All four recorded bodies come back equal as JSON."""
    nifty = "NSE_INDEX|Nifty 50"
    august = {"instrument_key": nifty, "expiry_date": "2025-08-28"}
    assert get(served, "/expiries", instrument_key=nifty) == recorded("expired_expiries__NSE_INDEX_Nifty50.json")
    assert get(served, "/option/contract", **august) == recorded(
        "expired_option_contract__NSE_INDEX_Nifty50__2025-08-28.json"
    )
    assert get(served, "/future/contract", **august) == recorded(
        "expired_future_contract__NSE_INDEX_Nifty50__2025-08-28.json"
    )
    body = get(served, "/historical-candle/NSE_FO|64103|28-08-2025/1minute/2025-08-28/2020-01-01")
    assert body == recorded("expired_historical_candle__NSE_FO_64103_28-08-2025__1minute.json")


@here
def test_what_was_not_recorded_is_empty(served: Running) -> None:
    """Another expiry has no contracts, a listed contract without a recording and another window have no candles."""
    other = {"instrument_key": "NSE_INDEX|Nifty 50", "expiry_date": "2025-08-21"}
    assert get(served, "/option/contract", **other)["data"] == []
    assert get(served, "/future/contract", **other)["data"] == []
    for path in (
        "NSE_FO|71706|28-08-2025/1minute/2025-08-28/2020-01-01",
        "NSE_FO|64103|28-08-2025/day/2025-07-31/2025-07-01",
    ):
        assert get(served, f"/historical-candle/{path}")["data"]["candles"] == []


@here
def test_contracts_of_2021(served: Running) -> None:
    """Twelve contracts, and every row of their files: prices, volume, rows after the close, open interest 0."""
    underlying = "NSE_INDEX|Nifty 50 2021"
    assert get(served, "/expiries", instrument_key=underlying)["data"] == ["2021-06-17"]
    rows = get(served, "/option/contract", instrument_key=underlying, expiry_date="2021-06-17")["data"]
    assert [(row["strike_price"], row["instrument_type"]) for row in rows] == [
        (strike, kind) for strike in range(15_600, 15_900, 50) for kind in ("PE", "CE")
    ]
    late = 0
    for row in rows:
        path = FOLDER / "nifty_2021_06" / f"NIFTY21617{row['strike_price']}{row['instrument_type']}_minute.csv"
        with path.open(encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file))
        key = row["instrument_key"]
        candles = get(served, f"/historical-candle/{key}/1minute/2021-06-17/2021-01-01")["data"]["candles"]
        expected = [
            [
                line["TIME"].replace(" ", "T") + "+05:30",
                *(float(line[name]) for name in ("Open", "High", "Low", "Close")),
                int(line["VOLUME"]),
                0,
            ]
            for line in reversed(lines)
        ]
        assert candles == expected
        late += sum(candle[0] > "2021-06-14T15:29:59" for candle in candles)
    assert late == 60


@here
def test_contract_of_2026(served: Running) -> None:
    """The contract of 2026-07-21 has its real key, its 375 rows and its open interest."""
    rows = get(served, "/option/contract", instrument_key="NSE_INDEX|Nifty 50 2026", expiry_date="2026-07-21")["data"]
    assert [row["instrument_key"] for row in rows] == ["NSE_FO|57352|21-07-2026"]
    assert rows[0]["trading_symbol"] == "NIFTY2026 24300 CE 21 JUL 26"
    candles = get(served, "/historical-candle/NSE_FO|57352|21-07-2026/1minute/2026-07-21/2026-07-01")["data"]["candles"]
    assert len(candles) == 375
    assert candles[-1] == ["2026-07-15T09:15:00+05:30", 64.5, 75.4, 61.5, 75, 1110200, 4142645]


@here
def test_master(served: Running) -> None:
    """The recorded instruments master is served byte for byte."""
    body = httpx.get(served.url + INSTRUMENTS_PATH).content
    assert body == next(FOLDER.glob("instruments_master_*.json.gz")).read_bytes()


@here
def test_master_without_a_recording(tmp_path: Path) -> None:
    """Without a recorded master the underlyings of the folder are listed."""
    shutil.copytree(FOLDER / "upstox_2026_07_15", tmp_path / "upstox_2026_07_15")
    rows = json.loads(gzip.decompress(RecordedMarket(tmp_path).instruments_master()))
    assert [(row["trading_symbol"], row["instrument_key"]) for row in rows] == [
        ("NIFTY2026", "NSE_INDEX|Nifty 50 2026")
    ]


def test_no_folder(tmp_path: Path) -> None:
    """A missing or empty folder is named in one sentence."""
    with pytest.raises(ConfigurationError, match="no folder"):
        RecordedMarket(tmp_path / "none")
    with pytest.raises(ConfigurationError, match="no recorded contracts"):
        RecordedMarket(tmp_path)
