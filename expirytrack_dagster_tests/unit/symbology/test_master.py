"""Every contract of the instruments master: all of its names agree with each other and are read back."""

from __future__ import annotations

import gzip
import itertools
from collections import Counter
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from expirytrack_dagster.symbology import nse, openalgo, upstox
from expirytrack_dagster.symbology.contract import Contract
from expirytrack_dagster.upstox.keys import ExpiredKey

if TYPE_CHECKING:
    from pathlib import Path

IST = timezone(timedelta(hours=5, minutes=30))


@pytest.fixture(scope="module")
def listed(realdata: Path) -> list[tuple[dict[str, Any], Contract]]:
    """Return the rows of all derivatives, with the contracts that their fields (not their names) tell."""
    rows = orjson.loads(gzip.decompress((realdata / "instruments_master_2025-12-18.json.gz").read_bytes()))
    return [
        (row, Contract.of(row["underlying_symbol"], expiry_of(row), row["instrument_type"], row["strike_price"]))
        for row in rows
        if row["instrument_type"] in {"CE", "PE", "FUT"}
    ]


def expiry_of(row: dict[str, Any]) -> Any:
    """Return the date in India of a row's expiry, which is in milliseconds since the epoch."""
    return datetime.fromtimestamp(row["expiry"] / 1000, IST).date()


def test_trading_symbols_are_read_and_written(listed: list[tuple[dict[str, Any], Contract]]) -> None:
    """The name says what the fields say, and the fields make the same name."""
    assert len(listed) > 100_000
    for row, contract in listed:
        assert upstox.parse(row["trading_symbol"]) == contract
        assert upstox.format_symbol(contract) == row["trading_symbol"]


def test_openalgo_symbols_round_trip_and_are_unique(listed: list[tuple[dict[str, Any], Contract]]) -> None:
    """Within an exchange no two contracts have the same symbol."""
    seen = set()
    for row, contract in listed:
        symbol = openalgo.format_symbol(contract)
        assert openalgo.parse(symbol) == contract
        seen.add((row["exchange"], symbol))
    assert len(seen) == len(listed)


def test_keys_of_expired_contracts_round_trip(listed: list[tuple[dict[str, Any], Contract]]) -> None:
    """A listed key and the expiry make the key under which the contract is found once it has expired."""
    for row, contract in listed:
        segment, token = row["instrument_key"].split("|")
        key = ExpiredKey(segment, token, contract.expiry)
        assert ExpiredKey.parse(str(key)) == key


def test_exchange_symbols_have_one_meaning(listed: list[tuple[dict[str, Any], Contract]]) -> None:
    """Every index and share contract of NSE and BSE is read back; `weekly` is the API's word."""
    by_exchange = itertools.groupby(
        sorted(
            ((row, of) for row, of in listed if row["segment"] in {"NSE_FO", "BSE_FO"}),
            key=lambda each: each[0]["segment"],
        ),
        key=lambda each: each[0]["segment"],
    )
    read: Counter[str] = Counter()
    for segment, group in by_exchange:
        rows = list(group)
        reader = nse.Reader(nse.Expiry(of.underlying, of.expiry, row["weekly"]) for row, of in rows)
        for row, contract in rows:
            assert reader.parse(nse.format_symbol(contract, weekly=row["weekly"])) == contract
            read[segment] += 1
    assert read["NSE_FO"] > 36_000
    assert read["BSE_FO"] > 4_500
