"""Expiries, contracts and profile: recorded answers, tolerance, and errors that quote the body."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import orjson
import pytest

from expirytrack_dagster.errors import MalformedResponse, TruncatedResponse
from expirytrack_dagster.upstox.wire import (
    contracts_frame,
    decode_contracts,
    decode_expiries,
    decode_profile,
)

RECORDED = Path(__file__).parents[4] / "shared" / "realdata" / "upstox_recorded"
needs_recordings = pytest.mark.skipif(not RECORDED.is_dir(), reason=f"recorded answers are not at {RECORDED}")
OPTION = {
    "instrument_key": "NSE_FO|71706|28-08-2025", "expiry": "2025-08-28", "instrument_type": "PE", "lot_size": 75,
    "minimum_lot": 75, "trading_symbol": "NIFTY 22600 PE 28 AUG 25", "exchange_token": "71706", "tick_size": 5,
    "freeze_quantity": 1800, "strike_price": 22600, "weekly": False, "segment": "NSE_FO", "name": "NIFTY",
    "underlying_key": "NSE_INDEX|Nifty 50",
}  # fmt: skip


def answer(data: object) -> bytes:
    """Wrap data as the API does."""
    return orjson.dumps({"status": "success", "data": data})


@needs_recordings
def test_recorded_expiries() -> None:
    """51 expiries, ascending."""
    expiries = decode_expiries((RECORDED / "expired_expiries__NSE_INDEX_Nifty50.json").read_bytes())
    assert len(expiries) == 51
    assert expiries == sorted(expiries)
    assert expiries[0] == date(2024, 10, 3)


@needs_recordings
def test_recorded_contracts_as_columns() -> None:
    """194 options and one future become typed columns; the future has neither strike nor weekly."""
    options = decode_contracts((RECORDED / "expired_option_contract__NSE_INDEX_Nifty50__2025-08-28.json").read_bytes())
    futures = decode_contracts((RECORDED / "expired_future_contract__NSE_INDEX_Nifty50__2025-08-28.json").read_bytes())
    frame = contracts_frame([*options, *futures], "NIFTY")
    assert len(frame) == 195
    assert frame.dtypes.astype(str).to_dict() == {
        "instrument_key": "str", "underlying": "str", "expiry": "object", "instrument_type": "str",
        "strike_price": "float64", "trading_symbol": "str", "exchange_token": "str", "lot_size": "int64",
        "tick_size": "float64", "minimum_lot": "int64", "freeze_quantity": "float64", "weekly": "boolean",
        "segment": "str", "name": "str", "underlying_key": "str",
    }  # fmt: skip
    assert frame["underlying"].unique().tolist() == ["NIFTY"]
    assert frame["expiry"].unique().tolist() == [date(2025, 8, 28)]
    future = frame.iloc[-1]
    assert future[["strike_price", "weekly"]].isna().all()
    assert frame.iloc[:-1]["strike_price"].agg(["min", "max"]).tolist() == [22600, 27400]


def test_no_contracts_give_the_same_columns() -> None:
    """An empty list keeps names and types."""
    full, empty = contracts_frame(decode_contracts(answer([OPTION])), "NIFTY"), contracts_frame([], "NIFTY")
    assert empty.dtypes.equals(full.dtypes)


def test_unknown_fields_are_ignored_and_optional_ones_may_be_missing() -> None:
    """New fields do no harm; only what identifies and sizes a contract is required."""
    required = {k: OPTION[k] for k in ("instrument_key", "expiry", "instrument_type", "lot_size", "minimum_lot")}
    (contract,) = decode_contracts(answer([{**required, "brand_new": {"x": [1]}, "name": None}]))
    assert contract.name is None
    assert contract.weekly is None


@pytest.mark.parametrize("body", [answer([]), answer(None)])
def test_empty_lists(body: bytes) -> None:
    """No data is an empty list in every spelling."""
    assert decode_contracts(body) == []
    assert decode_expiries(body) == []


@pytest.mark.parametrize(
    "data",
    [[{**OPTION, "lot_size": "75"}], [{**OPTION, "expiry": 1756339200}], [{**OPTION, "strike_price": "22600"}],
     [{k: v for k, v in OPTION.items() if k != "instrument_key"}], {"a": 1}, "x", [None], [{**OPTION, "weekly": "no"}]],
)  # fmt: skip
def test_wrong_types_are_malformed_and_quoted(data: object) -> None:
    """The error shows the beginning of the body."""
    with pytest.raises(MalformedResponse, match="status"):
        decode_contracts(answer(data))


@pytest.mark.parametrize(
    "body", [b"", b"OK", answer([OPTION])[:-5], b"\xff\xfe", b'{"status":"success","data":["\xff"]}']
)
def test_what_is_no_json_is_truncated(body: bytes) -> None:
    """Cut off, empty, plain text and broken UTF-8."""
    with pytest.raises(TruncatedResponse):
        decode_expiries(body)


def test_missing_data_never_passes_for_an_empty_list() -> None:
    """An envelope without data is malformed."""
    with pytest.raises(MalformedResponse):
        decode_expiries(b'{"status":"success"}')


def test_quoted_body_is_short_and_on_one_line() -> None:
    """200 characters, control characters escaped."""
    with pytest.raises(TruncatedResponse) as caught:
        decode_expiries(b"\x1b[31mred\n" + b"x" * 1000)
    quoted = str(caught.value).partition(": \\x1b[31mred\\n")[2]
    assert quoted == "x" * (200 - len("\x1b[31mred\n"))


def test_profile() -> None:
    """The profile tells whose token it is; an empty one is malformed."""
    assert decode_profile(answer({"user_id": "AB1234", "poa": False, "exchanges": ["NSE"]})).user_id == "AB1234"
    with pytest.raises(MalformedResponse):
        decode_profile(answer(None))
