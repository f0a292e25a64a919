"""Faults planted by the sandbox: exactly those rows are in quarantine, every other row is in the archive."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

import pytest

from expirytrack_dagster.sandbox.planting import Plant
from expirytrack_dagster.sandbox.running import running
from expirytrack_dagster.sandbox.switches import Switches
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket
from expirytrack_dagster_tests.bench.bench_faults import hunt

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from expirytrack_dagster_tests.integration.assets.conftest import Archive

EXPIRY = date(2025, 8, 21)
MARKET = SyntheticMarket(strikes=3, days=2, today=date(2025, 9, 1))
KEY = "NSE_INDEX|Nifty 50"
RULES = {
    "high_below_low": "ohlc",
    "low_above_open": "ohlc",
    "zero_price": "ohlc",
    "null_price": "ohlc",
    "negative_volume": "volume_and_open_interest",
    "negative_open_interest": "volume_and_open_interest",
    "after_expiry": "timestamp_continuity",
    "off_the_minute": "timestamp_continuity",
    "conflicting_duplicate": "duplicates",
}
COLUMNS = "instrument_key, ts, open, high, low, close, volume, open_interest"
MISSING = -1.0  # in place of a price that is null, since nothing equals NaN

Row = tuple[str, datetime, float, float, float, float, int, int]


def _row(key: str, candle: list[object]) -> Row:
    moment = datetime.fromisoformat(str(candle[0])).astimezone(UTC)
    prices = [MISSING if price is None else float(str(price)) for price in candle[1:5]]
    return (key, moment, prices[0], prices[1], prices[2], prices[3], int(str(candle[5])), int(str(candle[6])))


def _clean_rows() -> set[Row]:
    rows = set()
    for contract in [*(MARKET.option_contracts(KEY, EXPIRY) or []), *(MARKET.future_contracts(KEY, EXPIRY) or [])]:
        key = str(contract["instrument_key"])
        bars = MARKET.minutes(key)
        if bars is None:
            continue
        columns = (bars.open, bars.high, bars.low, bars.close, bars.volume, bars.open_interest)
        for ts, *values in zip(bars.time.tolist(), *(column.tolist() for column in columns), strict=True):
            moment = datetime.fromtimestamp(ts, tz=UTC)
            rows.add((key, moment, *values[:4], int(values[4]), int(values[5])))
    return rows


def _contracts_with_candles() -> list[str]:
    keys = [str(row["instrument_key"]) for row in MARKET.option_contracts(KEY, EXPIRY) or []]
    return [key for key in keys if len(MARKET.minutes(key) or ()) > 300][:2]


def test_planted_rows_are_quarantined_and_no_other(collect: Callable[..., Archive]) -> None:
    """Each planted row stands in quarantine under its rule, and the candles are the market's less those rows."""
    keys = tuple(_contracts_with_candles())
    with running(MARKET, switches=Switches(planted=(Plant(keys),))) as upstox:
        archive = collect(upstox, [EXPIRY])
        planted = upstox.planted()

    expected_bad = {(_row(p.instrument_key, p.candle), RULES[p.kind]) for p in planted if p.kind in RULES}
    quarantined = archive.table(f"SELECT {COLUMNS}, rule, detail, run_id FROM quarantine").fillna({"close": MISSING})  # noqa: S608 -- constants
    found = {(tuple(row[:8]), row[8]) for row in quarantined.itertuples(index=False)}
    assert found == expected_bad
    assert len(quarantined) == len(keys) * 10
    assert quarantined["detail"].str.len().min() > 10
    assert quarantined["run_id"].notna().all()

    stored = archive.table(f"SELECT {COLUMNS} FROM candles")  # noqa: S608 -- constants
    candles = {tuple(row) for row in stored.itertuples(index=False)}
    replaced = {"high_below_low", "low_above_open", "zero_price", "null_price"}
    replaced |= {"negative_volume", "negative_open_interest"}
    gone = {(p.instrument_key, _row(p.instrument_key, p.candle)[1]) for p in planted if p.kind in replaced}
    gone |= {
        (p.instrument_key, _row(p.instrument_key, p.candle)[1]) for p in planted if p.kind == "conflicting_duplicate"
    }
    assert candles == {row for row in _clean_rows() if row[:2] not in gone}
    assert len(candles) == len(stored)


def test_counts_add_up_and_checks_tell(collect: Callable[..., Archive]) -> None:
    """Rows received = candles + quarantine + exact duplicates, and each check names its failing rows as a warning."""
    keys = tuple(_contracts_with_candles())
    with running(MARKET, switches=Switches(planted=(Plant(keys),))) as upstox:
        archive = collect(upstox, [EXPIRY])
    candles, quarantined, duplicates = (
        archive.number(f"SELECT sum({column}) FROM contract_status")  # noqa: S608 -- constants
        for column in ("candles", "quarantined", "duplicates")
    )
    received = len(_clean_rows()) + len(keys) * 4  # each planted contract answers with four rows more
    assert candles + quarantined + duplicates == received
    assert candles == archive.number("SELECT count(*) FROM candles")
    assert quarantined == archive.number("SELECT count(*) FROM quarantine")
    assert duplicates == len(keys)
    failed = {line.name for line in archive.outcome.checks if not line.passed}
    assert failed == {"ohlc", "volume_and_open_interest", "duplicates", "timestamp_continuity"}
    assert archive.outcome.exit_code == 0


def test_every_kind_of_fault_is_found_and_nothing_else(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a market with at least twelve kinds of fault, each is named by its rule or check, and nothing else is."""
    result = hunt(home)
    with capsys.disabled():
        print(f"\n{result.found.total()} of {result.planted.total()} found, {len(result.false)} false: {result.line}")  # noqa: T201 -- what the test shows
    assert len(result.planted) >= 12
    assert result.found == result.planted
    assert result.false == []
    assert result.errors == []


def test_a_cell_with_too_many_bad_rows_is_not_written(collect: Callable[..., Archive]) -> None:
    """Above the threshold nothing of the cell is written, the run fails, and what arrived stays staged."""
    keys = tuple(_contracts_with_candles())
    with running(MARKET, switches=Switches(planted=(Plant(keys),))) as upstox:
        archive = collect(upstox, [EXPIRY], quarantine_threshold="0")
    assert archive.outcome.exit_code == 1
    assert "is not written" in archive.outcome.errors[0]
    assert archive.number("SELECT count(*) FROM candles") == 0
    assert archive.number("SELECT count(*) FROM contract_status") == 0
    assert list((archive.settings.staging / "NIFTY" / "2025-08-21").glob("batch-*.parquet"))


@pytest.mark.parametrize(
    "switches", [Switches(shuffled=True), Switches(duplicated=True), Switches(zero_volume=True)], ids=str
)
def test_harmless_oddities_change_nothing(collect: Callable[..., Archive], switches: Switches) -> None:
    """Order, exact duplicates and bars without volume lead to no quarantine and to no lost candle."""
    with running(MARKET, switches=switches) as upstox:
        archive = collect(upstox, [EXPIRY])
    stored = archive.table(f"SELECT {COLUMNS} FROM candles")  # noqa: S608 -- constants
    candles = {tuple(row) for row in stored.itertuples(index=False)}
    assert len(candles) == len(stored)
    assert candles >= _clean_rows()
    assert switches.zero_volume or candles == _clean_rows()
    assert archive.number("SELECT count(*) FROM quarantine") == 0
