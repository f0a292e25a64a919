"""Expiries: every rule of `expiry_dates`, and the recorded list."""

from __future__ import annotations

import json
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandera.errors import SchemaErrors

from expirytrack_dagster.errors import UnfitData
from expirytrack_dagster.quality.expiries import EXPIRY_COLUMNS, EXPIRY_SCHEMA, check_expiries

REALDATA = Path(__file__).parents[4] / "shared" / "realdata"
needs_realdata = pytest.mark.skipif(not REALDATA.is_dir(), reason=f"real data are not at {REALDATA}")

DAYS = [date(2024, 10, 3), date(2024, 10, 10), date(2024, 10, 17)]


def expiries(days: list[Any]) -> pd.DataFrame:
    """Return the list as a frame of NIFTY."""
    return pd.DataFrame(
        {
            "underlying": pd.Series(["NIFTY"] * len(days), dtype="str"),
            "expiry": pd.Series(days, dtype=object),
            "underlying_key": pd.Series(["NSE_INDEX|Nifty 50"] * len(days), dtype="str"),
            "discovered_at": pd.Series([pd.Timestamp("2025-09-17", tz="UTC")] * len(days), dtype="datetime64[us, UTC]"),
        }
    )


def test_a_sound_list_passes() -> None:
    """Ascending dates pass, satisfy the schema and are counted."""
    outcome = check_expiries(expiries(DAYS))
    assert (outcome.name, outcome.passed, outcome.fatal) == ("expiry_dates", True, False)
    assert outcome.counts == {"expiries": 3, "broken": 0}
    EXPIRY_SCHEMA.validate(expiries(DAYS), lazy=True)


@pytest.mark.parametrize(
    ("days", "rule", "shown"),
    [
        pytest.param([DAYS[0], DAYS[0], DAYS[1]], "unique", "2024-10-03", id="twice"),
        pytest.param([DAYS[0], DAYS[2], DAYS[1]], "ascending", "2024-10-10", id="not-ascending"),
        pytest.param([DAYS[1], None, DAYS[0], DAYS[2]], "date", None, id="missing"),
        pytest.param([DAYS[0], "2024-10-10", DAYS[2]], "date", "2024-10-10", id="text"),
        pytest.param([DAYS[0], datetime(2024, 10, 10), DAYS[2]], "date", "2024-10-10 00:00:00", id="time"),  # noqa: DTZ001  as received
    ],
)
def test_each_fault_is_fatal_and_named(days: list[Any], rule: str, shown: str | None) -> None:
    """A wrong date breaks the list, is shown with its rule, and is refused by the schema as well."""
    outcome = check_expiries(expiries(days))
    assert (outcome.passed, outcome.fatal) == (False, True)
    assert (outcome.failing["expiry"][0], outcome.failing["rule"][0]) == (shown, rule)
    with pytest.raises(SchemaErrors):
        EXPIRY_SCHEMA.validate(expiries(days), lazy=True)


def test_a_missing_date_hides_no_disorder() -> None:
    """A date is compared with the last one before it that is present."""
    outcome = check_expiries(expiries([DAYS[1], None, DAYS[0]]))
    assert outcome.failing["rule"].tolist() == ["date", "ascending"]


def test_a_list_of_two_underlyings_is_fatal() -> None:
    """All rows are of the underlying of the first one."""
    frame = expiries(DAYS)
    frame.loc[2, "underlying_key"] = "BSE_INDEX|SENSEX"
    outcome = check_expiries(frame)
    assert outcome.fatal
    assert outcome.failing["rule"].tolist() == ["one_underlying"]


def test_a_wrong_column_type_is_fatal() -> None:
    """Discovery times without a time zone are a fault of the column, shown without a row."""
    frame = expiries(DAYS)
    outcome = check_expiries(frame.assign(discovered_at=frame["discovered_at"].dt.tz_localize(None)))
    assert outcome.fatal
    assert outcome.failing["rule"].tolist() == ["discovered_at"]


def test_an_empty_list_is_a_warning() -> None:
    """No expiry at all fails without being fatal, and says what to look at."""
    outcome = check_expiries(expiries([]))
    assert (outcome.passed, outcome.fatal) == (False, False)
    assert "No expiry is listed" in outcome.summary
    assert outcome.failing.empty


def test_a_missing_column_is_refused() -> None:
    """A frame without one of the columns cannot be judged."""
    with pytest.raises(UnfitData, match="discovered_at"):
        check_expiries(expiries(DAYS)[list(EXPIRY_COLUMNS)[:3]])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.dates(date(2024, 10, 1), date(2024, 10, 20)), min_size=1))
def test_only_a_strictly_ascending_list_passes(days: list[date]) -> None:
    """The check agrees with the plain definition."""
    assert check_expiries(expiries(days)).passed == (days == sorted(set(days)))


@needs_realdata
def test_recorded_list_passes() -> None:
    """The 51 expiries recorded from Upstox pass."""
    path = REALDATA / "upstox_recorded" / "expired_expiries__NSE_INDEX_Nifty50.json"
    days = json.loads(path.read_text(encoding="utf-8"))["data"]
    outcome = check_expiries(expiries([date.fromisoformat(day) for day in days]))
    assert outcome.passed
    assert outcome.counts["expiries"] == 51
