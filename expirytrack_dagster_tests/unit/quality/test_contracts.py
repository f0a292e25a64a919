"""Contracts: every rule of the specification, on a small chain and on the recorded one."""

from __future__ import annotations

import json
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandera.errors import SchemaErrors

from expirytrack_dagster.errors import UnfitData
from expirytrack_dagster.quality.contracts import (
    CONTRACT_COLUMNS,
    check_contracts,
    contract_schema,
    drop_exact_duplicates,
)

if TYPE_CHECKING:
    from expirytrack_dagster.quality.outcome import CheckOutcome

REALDATA = Path(__file__).parents[4] / "shared" / "realdata"
needs_realdata = pytest.mark.skipif(not REALDATA.is_dir(), reason=f"real data are not at {REALDATA}")

EXPIRY = date(2025, 8, 28)
NIFTY = "NSE_INDEX|Nifty 50"


def chain() -> pd.DataFrame:
    """Return two strikes of calls and puts and their future, typed as the wire's reader types them."""
    rows = [(71706, "PE", 22600.0), (71707, "CE", 22600.0), (71708, "PE", 22650.0), (71709, "CE", 22650.0)]
    frame = pd.DataFrame(
        {
            "instrument_key": [f"NSE_FO|{token}|28-08-2025" for token in (*(row[0] for row in rows), 64103)],
            "underlying": "NIFTY",
            "expiry": [EXPIRY] * 5,
            "instrument_type": [*(row[1] for row in rows), "FUT"],
            "strike_price": [*(row[2] for row in rows), float("nan")],
            "trading_symbol": "NIFTY",
            "exchange_token": [*(str(row[0]) for row in rows), "64103"],
            "lot_size": 75,
            "tick_size": 5.0,
            "minimum_lot": 75,
            "freeze_quantity": 1800.0,
            "weekly": pd.array([False] * 4 + [None], dtype="boolean"),
            "segment": "NSE_FO",
            "name": "NIFTY",
            "underlying_key": NIFTY,
        }
    )
    return frame[list(CONTRACT_COLUMNS)]


def check(frame: pd.DataFrame) -> CheckOutcome:
    """Check the frame as the cell NIFTY, 2025-08-28."""
    return check_contracts(frame, underlying_key=NIFTY, expiry=EXPIRY)


def test_a_sound_chain_passes() -> None:
    """Options and their future pass, are counted, and satisfy the schema."""
    outcome = check(chain())
    assert (outcome.passed, outcome.fatal) == (True, False)
    assert outcome.counts == {"contracts": 5, "options": 4, "futures": 1, "broken": 0}
    assert outcome.failing.empty
    contract_schema(NIFTY, EXPIRY).validate(chain(), lazy=True)


FAULTS = [
    pytest.param("instrument_key", "NSE_FO:71707:28-08-2025", "instrument_key", "is not SEGMENT", id="separator"),
    pytest.param("instrument_key", "NSE_XX|71707|28-08-2025", "instrument_key", "is not SEGMENT", id="segment"),
    pytest.param("instrument_key", "NSE_FO|71707|2025-08-28", "instrument_key", "is not SEGMENT", id="day-spelling"),
    pytest.param("instrument_key", "NSE_FO|717 07|28-08-2025", "instrument_key", "is not SEGMENT", id="token-spelling"),
    pytest.param("instrument_key", "NSE_FO|71707|28-08-2025\n", "instrument_key", "is not SEGMENT", id="line-end"),
    pytest.param("instrument_key", None, "instrument_key", "instrument_key is missing", id="no-key"),
    pytest.param("exchange_token", "71777", "exchange_token", "token 71707, the column 71777", id="token"),
    pytest.param("instrument_key", "NSE_FO|71707|21-08-2025", "expiry", "on 21-08-2025 by its key", id="day-in-key"),
    pytest.param("expiry", date(2025, 8, 21), "expiry", "expires on 2025-08-21 by its column", id="expiry"),
    pytest.param("expiry", None, "expiry", "expiry is missing", id="no-expiry"),
    pytest.param("expiry", datetime(2025, 8, 28), "expiry", "by its column", id="a-time"),  # noqa: DTZ001  as received
    pytest.param("instrument_type", "XX", "instrument_type", "type XX", id="type"),
    pytest.param("strike_price", 0.0, "strike_price", "the strike of a CE is 0", id="zero-strike"),
    pytest.param("strike_price", None, "strike_price", "the strike of a CE is missing", id="no-strike"),
    pytest.param("instrument_type", "FUT", "strike_price", "the strike of a FUT is 22600", id="future-with-strike"),
    pytest.param("lot_size", 0, "lot_size", "lot_size is 0", id="lot-size"),
    pytest.param("minimum_lot", -1, "minimum_lot", "minimum_lot is -1", id="minimum-lot"),
    pytest.param("tick_size", 0.0, "tick_size", "tick_size is 0", id="tick-size"),
    pytest.param("tick_size", None, "tick_size", "tick_size is missing", id="no-tick-size"),
    pytest.param("underlying_key", "BSE_INDEX|SENSEX", "underlying_key", "where NSE_INDEX|Nifty 50", id="underlying"),
]


@pytest.mark.parametrize(("column", "value", "rule", "detail"), FAULTS)
def test_each_fault_is_fatal_and_named(column: str, value: Any, rule: str, detail: str) -> None:
    """One wrong value breaks the list, names contract and rule, and is refused by the schema as well."""
    frame = chain()
    frame[column] = frame[column].astype(object)
    frame.loc[1, column] = value
    frame[column] = frame[column].infer_objects()
    outcome = check(frame)
    assert (outcome.passed, outcome.fatal) == (False, True)
    assert outcome.counts["broken"] == 1
    assert outcome.failing["rule"].tolist() == [rule]
    assert outcome.failing["instrument_key"].tolist() == [
        frame["instrument_key"][1] if column != "instrument_key" or value else None
    ]
    assert detail in outcome.failing["detail"][0]
    with pytest.raises(SchemaErrors):
        contract_schema(NIFTY, EXPIRY).validate(frame, lazy=True)


def test_one_contract_with_two_lot_sizes() -> None:
    """A key listed with two lot sizes is broken in both rows, with both rules named."""
    frame = chain()
    outcome = check(pd.concat([frame, frame.iloc[[4]].assign(lot_size=65)]))
    assert outcome.counts["broken"] == 2
    assert outcome.failing["rule"].tolist() == ["one_lot_size"] * 2
    assert "listed with lot size 65 and another one; the instrument key is" in outcome.failing["detail"][1]


def test_two_lot_sizes_in_a_chain_are_no_fault() -> None:
    """Contracts of one chain may differ in lot size: exchanges change it between listings."""
    frame = chain()
    frame.loc[0, ["lot_size", "minimum_lot"]] = 65
    assert check(frame).passed


def test_a_strike_listed_under_two_keys() -> None:
    """Type and strike are unique among options even when the keys differ."""
    frame = chain()
    frame.loc[3, "strike_price"] = 22600.0
    outcome = check(frame)
    assert outcome.failing["rule"].tolist() == ["unique_strike"] * 2
    assert outcome.failing["detail"][0] == "CE 22600 is listed more than once"


def test_two_futures_are_no_repeated_strike() -> None:
    """Futures have no strike, so that two of them repeat none."""
    second = {"instrument_key": "NSE_FO|64104|28-08-2025", "exchange_token": "64104"}
    assert check(pd.concat([chain(), chain().iloc[[4]].assign(**second)])).passed


def test_an_empty_list_passes_and_says_so() -> None:
    """No contract for a listed date is a finding, not a fault; untyped columns do not matter."""
    outcome = check(pd.DataFrame(columns=list(CONTRACT_COLUMNS)))
    assert (outcome.passed, outcome.fatal) == (True, False)
    assert outcome.counts["contracts"] == 0
    assert "no contract" in outcome.summary


def test_a_missing_column_is_refused() -> None:
    """A frame without one of the columns cannot be judged."""
    with pytest.raises(UnfitData, match="lot_size"):
        check(chain().drop(columns="lot_size"))


def test_exact_duplicates_are_dropped_before_the_check() -> None:
    """Equal rows (with their nulls) collapse; the rest passes."""
    frame = chain()
    kept, dropped = drop_exact_duplicates(pd.concat([frame, frame.iloc[[4, 0]]]))
    assert dropped == 2
    assert check(kept).passed
    pd.testing.assert_frame_equal(kept, frame)


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(6)))
def test_order_does_not_matter(order: list[int]) -> None:
    """The same contracts are broken in whatever order the list came."""
    frame = pd.concat([chain(), chain().iloc[[0]].assign(lot_size=0)])
    failing = check(frame.iloc[order]).failing.sort_values("detail", ignore_index=True)
    pd.testing.assert_frame_equal(failing, check(frame).failing.sort_values("detail", ignore_index=True))


@needs_realdata
def test_recorded_chain_passes() -> None:
    """The 194 options and the future recorded from Upstox are as specified, straight from their JSON."""
    names = (
        "expired_option_contract__NSE_INDEX_Nifty50__2025-08-28",
        "expired_future_contract__NSE_INDEX_Nifty50__2025-08-28",
    )
    rows = [
        row
        for name in names
        for row in json.loads((REALDATA / "upstox_recorded" / f"{name}.json").read_text(encoding="utf-8"))["data"]
    ]
    frame = pd.DataFrame(rows).assign(underlying="NIFTY", expiry=[date.fromisoformat(row["expiry"]) for row in rows])
    outcome = check(frame[list(CONTRACT_COLUMNS)])
    assert outcome.passed
    assert outcome.counts == {"contracts": 195, "options": 194, "futures": 1, "broken": 0}
