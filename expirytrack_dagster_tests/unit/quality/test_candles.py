"""Candles: every rule, the split's arithmetic, independence of order, the outcomes, and real files."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandera.errors import SchemaErrors

from expirytrack_dagster.errors import UnfitData
from expirytrack_dagster.quality.candle_rules import CANDLE_COLUMNS, candle_rules, candle_schema
from expirytrack_dagster.quality.candles import Split, candle_outcomes, split_candles
from expirytrack_dagster.quality.continuity import assess_continuity, minute_counts
from expirytrack_dagster.quality.outcome import MAX_SHOWN

REALDATA = Path(__file__).parents[4] / "shared" / "realdata"
needs_realdata = pytest.mark.skipif(not REALDATA.is_dir(), reason=f"real data are not at {REALDATA}")

EXPIRY = date(2025, 8, 28)
A, B = "NSE_FO|64103|28-08-2025", "NSE_FO|71706|28-08-2025"
GOOD_BAR = {
    "instrument_key": A,
    "ts": "2025-08-28 10:03",
    "open": 101.0,
    "high": 104.0,
    "low": 100.0,
    "close": 103.0,
    "volume": 75,
    "open_interest": 1500,
}


def candles(*changes: dict[str, Any]) -> pd.DataFrame:
    """Return good bars with these changes, one a row; `ts` is Indian time."""
    frame = pd.DataFrame([GOOD_BAR | change for change in changes], columns=list(CANDLE_COLUMNS))
    times = pd.to_datetime(frame["ts"], format="ISO8601").dt.as_unit("us").dt.tz_localize("Asia/Kolkata")
    return frame.assign(ts=times.dt.tz_convert("UTC"))


def outcomes(split: Split, received: int, threshold: float = 0.5) -> list[Any]:
    """Judge one split as a whole cell."""
    continuity = assess_continuity(minute_counts(split.good))
    return candle_outcomes(split.bad, received, int(split.exact_duplicates.sum()), continuity, threshold)


FAULTS = [
    pytest.param({"high": 99.5}, "ohlc", "high 99.5 is below open 101", id="high-below-open"),
    pytest.param({"high": 102.5}, "ohlc", "high 102.5 is below close 103", id="high-below-close"),
    pytest.param({"low": 105.0}, "ohlc", "high 104 is below low 105", id="high-below-low"),
    pytest.param({"low": 101.55}, "ohlc", "low 101.55 is above open 101", id="low-above-open"),
    pytest.param({"close": 99.0}, "ohlc", "low 100 is above close 99", id="low-above-close"),
    pytest.param({"open": np.nan}, "ohlc", "open is missing", id="no-open"),
    pytest.param({"low": 0.0}, "ohlc", "low is 0", id="zero-price"),
    pytest.param({"low": -5.0}, "ohlc", "low is -5", id="negative-price"),
    pytest.param({"high": np.inf}, "ohlc", "high is inf", id="infinite-price"),
    pytest.param({"volume": -75}, "volume_and_open_interest", "volume is -75", id="negative-volume"),
    pytest.param({"volume": np.nan}, "volume_and_open_interest", "volume is missing", id="no-volume"),
    pytest.param({"volume": 7.5}, "volume_and_open_interest", "volume is 7.5", id="fractional-volume"),
    pytest.param({"volume": 1e19}, "volume_and_open_interest", "volume is 1e+19", id="overflowing-volume"),
    pytest.param({"open_interest": -1}, "volume_and_open_interest", "open_interest is -1", id="negative-interest"),
    pytest.param({"open_interest": np.nan}, "volume_and_open_interest", "open_interest is missing", id="no-interest"),
    pytest.param({"ts": None}, "timestamp_continuity", "timestamp is missing", id="no-time"),
    pytest.param(
        {"ts": "2025-08-28 10:03:20"},
        "timestamp_continuity",
        "bar starts at 10:03:20, not on the minute",
        id="off-the-minute",
    ),
    pytest.param(
        {"ts": "2025-08-28 10:03:00.000001"},
        "timestamp_continuity",
        "bar starts at 10:03:00.000001, not on the minute",
        id="a-microsecond-off",
    ),
    pytest.param(
        {"ts": "2025-08-29 00:00"},
        "timestamp_continuity",
        "bar of 2025-08-29 lies after the expiry 2025-08-28",
        id="after-expiry",
    ),
]


@pytest.mark.parametrize(("fault", "rule", "detail"), FAULTS)
def test_each_fault_is_quarantined_under_its_rule(fault: dict[str, Any], rule: str, detail: str) -> None:
    """One faulty bar among good ones goes to quarantine as received, and the schema refuses it as well."""
    frame = candles({}, {"instrument_key": B} | fault, {"ts": "2025-08-28 10:04"})
    split = split_candles(frame, EXPIRY)
    assert len(split.good) == 2
    assert split.bad["rule"].tolist() == [rule]
    assert detail in split.bad["detail"][0]
    pd.testing.assert_frame_equal(split.bad.drop(columns=["rule", "detail"]), frame.iloc[[1]].reset_index(drop=True))
    with pytest.raises(SchemaErrors):
        candle_schema(EXPIRY).validate(frame.iloc[[1]], lazy=True)


def test_good_bars_have_no_rule_about_hours() -> None:
    """The expiry's last minute in IST, a bar after the close, a Saturday and a flat zero-volume bar are good."""
    frame = candles(
        {"ts": "2025-08-28 23:59"},
        {"ts": "2025-08-28 16:54", "volume": 0, "open_interest": 0},
        {"ts": "2025-08-23 11:00", "open": 0.05, "high": 0.05, "low": 0.05, "close": 0.05},
    )
    split = split_candles(frame, EXPIRY)
    assert split.bad.empty
    assert split.good["ts"].is_monotonic_increasing
    assert len(split.good) == 3


def test_exact_duplicates_collapse_and_are_counted() -> None:
    """Equal rows leave one, also when they are faulty; contracts without any are counted as zero."""
    frame = candles(
        {}, {"instrument_key": B}, {}, {}, {"ts": "2025-08-28 10:04", "open": np.nan}, {"instrument_key": B}
    )
    frame = pd.concat([frame, frame.iloc[[4]]])
    split = split_candles(frame, EXPIRY)
    assert split.exact_duplicates.to_dict() == {A: 3, B: 1}
    assert (len(split.good), len(split.bad)) == (2, 1)


def test_every_version_of_a_conflict_is_quarantined() -> None:
    """Of rows A, B, A for one minute, A goes once and B once; a faulty version keeps the rule of its own fault."""
    split = split_candles(candles({}, {"volume": 150}, {}, {"volume": -75}, {"ts": "2025-08-28 10:04"}), EXPIRY)
    assert len(split.good) == 1
    assert split.exact_duplicates[A] == 1
    assert split.bad[["volume", "rule"]].to_numpy().tolist() == [
        [-75, "volume_and_open_interest"],
        [75, "duplicates"],
        [150, "duplicates"],
    ]
    assert split.bad["detail"][0] == ("volume is -75; another bar of the same contract and time has different values")


def test_time_comes_before_duplicates() -> None:
    """Two versions of a bar after the expiry are filed under timestamp_continuity."""
    split = split_candles(candles({"ts": "2025-08-29 10:03"}, {"ts": "2025-08-29 10:03", "volume": 0}), EXPIRY)
    assert split.bad["rule"].tolist() == ["timestamp_continuity"] * 2


def test_rows_without_a_time_are_not_the_same_bar() -> None:
    """Equal rows without a timestamp stay two pieces of evidence."""
    split = split_candles(candles({"ts": None}, {"ts": None}), EXPIRY)
    assert len(split.bad) == 2
    assert split.exact_duplicates[A] == 0
    assert split.bad["detail"].tolist() == ["timestamp is missing"] * 2


def test_good_rows_are_sorted_by_contract_and_time_whatever_the_categories() -> None:
    """Categories in another order than the alphabet do not change the order of the good rows."""
    frame = candles({"instrument_key": B}, {"ts": "2025-08-28 10:04"}, {})
    frame["instrument_key"] = pd.Categorical(frame["instrument_key"], categories=["unused", B, A])
    good = split_candles(frame, EXPIRY).good
    assert good["instrument_key"].tolist() == [A, A, B]
    assert good["ts"].iloc[0] < good["ts"].iloc[1]
    assert good["instrument_key"].dtype == "category"


def test_nulls_elsewhere_leave_whole_numbers() -> None:
    """Volume and open interest received as float64 become int64 in good rows and stay as received in bad ones."""
    split = split_candles(candles({"volume": np.nan}, {"instrument_key": B, "open_interest": 1500.0}), EXPIRY)
    assert split.good.dtypes[["volume", "open_interest"]].tolist() == ["int64", "int64"]
    assert split.bad["volume"].dtype == "float64"


def test_empty_batch() -> None:
    """No rows in, no rows out, with the columns kept."""
    split = split_candles(candles({}).iloc[:0], EXPIRY)
    assert split.good.empty
    assert list(split.good.columns) == list(CANDLE_COLUMNS)
    assert list(split.bad.columns) == [*CANDLE_COLUMNS, "rule", "detail"]
    assert split.exact_duplicates.empty


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(lambda frame: frame.drop(columns="low"), "low are missing", id="missing-column"),
        pytest.param(lambda frame: frame.assign(extra=1), "extra are unknown", id="unknown-column"),
        pytest.param(lambda frame: frame.assign(ts=frame["ts"].dt.as_unit("ns")), "ts is", id="nanoseconds"),
        pytest.param(lambda frame: frame.assign(open="1.0"), "open must be", id="text-price"),
        pytest.param(lambda frame: frame.assign(instrument_key=None), "name no contract", id="no-contract"),
    ],
)
def test_a_frame_of_another_shape_is_refused(change: Any, words: str) -> None:
    """What the rules would misread is refused with a sentence."""
    with pytest.raises(UnfitData, match=words):
        split_candles(change(candles({})), EXPIRY)


prices = st.sampled_from([100.0, 101.0, 102.5, 103.0]) | st.sampled_from([0.0, -1.0, np.nan, np.inf])
quantities = st.sampled_from([0.0, 75.0, 150.0]) | st.sampled_from([-75.0, np.nan, 0.5])
instants = st.sampled_from(
    ["2025-08-28 10:03", "2025-08-28 10:04", "2025-08-27 09:15", "2025-08-29 10:00", "2025-08-28 10:03:20", None]
)
bars = st.fixed_dictionaries(
    {"instrument_key": st.sampled_from([A, B])},
    optional={
        "ts": instants,
        "open": prices,
        "high": prices,
        "low": prices,
        "close": prices,
        "volume": quantities,
        "open_interest": quantities,
    },
)


@settings(max_examples=25, deadline=None)
@given(st.lists(bars, min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_split_of_any_batch(changes: list[dict[str, Any]], random: Any) -> None:
    """Rows are conserved, good rows pass the schema, bad rows each fail it, and the order received is irrelevant."""
    frame = candles(*changes)
    split = split_candles(frame, EXPIRY)
    assert len(frame) == len(split.good) + len(split.bad) + split.exact_duplicates.sum()

    schema = candle_schema(EXPIRY)
    schema.validate(split.good, lazy=True)
    received = split.bad[list(CANDLE_COLUMNS)]
    holds = {rule.statement: rule.holds(received) for rule in candle_rules(EXPIRY)}
    conflicts = split_candles(frame[frame["ts"].notna()], EXPIRY).bad
    for position in range(len(received)):
        alone = received.iloc[[position]]
        if split.bad["rule"][position] == "duplicates":  # fails beside its other versions only
            same = (conflicts["instrument_key"] == alone["instrument_key"].item()) & (
                conflicts["ts"] == alone["ts"].item()
            )
            alone = conflicts.loc[same, list(CANDLE_COLUMNS)]
            assert len(alone) > 1
        assert not all(kept[position] for kept in holds.values())
        with pytest.raises(SchemaErrors):
            schema.validate(alone, lazy=True)

    shuffled = random.sample(range(len(frame)), len(frame))
    again = split_candles(frame.iloc[shuffled], EXPIRY)
    pd.testing.assert_frame_equal(split.good, again.good)
    pd.testing.assert_frame_equal(split.bad, again.bad)
    pd.testing.assert_series_equal(split.exact_duplicates, again.exact_duplicates)


def test_outcomes_of_planted_faults() -> None:
    """Each fault fails its own check as a warning, with readable rows; exact duplicates alone fail nothing."""
    minutes = [{"ts": f"2025-08-28 10:{minute:02}", "instrument_key": key} for minute in range(40) for key in (A, B)]
    frame = candles(*minutes, minutes[0], {"ts": "2025-08-28 10:50", "high": 1.0}, {"ts": "2025-08-28 10:51:07"})
    ohlc, volume, duplicates, continuity = outcomes(split_candles(frame, EXPIRY), len(frame))
    assert [ohlc.name, volume.name, duplicates.name, continuity.name] == [
        "ohlc",
        "volume_and_open_interest",
        "duplicates",
        "timestamp_continuity",
    ]
    assert [ohlc.passed, volume.passed, duplicates.passed, continuity.passed] == [False, True, True, False]
    assert not any(outcome.fatal for outcome in (ohlc, volume, duplicates, continuity))
    assert ohlc.counts == {"received": 83, "quarantined": 1}
    assert duplicates.counts == {"received": 83, "quarantined": 0, "exact_duplicates": 1}
    assert "1 exact duplicate" in duplicates.summary
    assert ohlc.failing.loc[0, "time"] == "2025-08-28 10:50:00 IST"
    assert ohlc.failing.loc[0, "high"] == 1.0
    assert volume.failing.empty
    json.dumps([outcome.failing.to_dict("records") for outcome in (ohlc, continuity)], allow_nan=False)


def test_a_minute_missing_across_the_chain_is_a_warning() -> None:
    """One minute that no contract has fails timestamp_continuity alone and names the minute."""
    frame = candles(*({"ts": f"2025-08-28 10:{minute:02}"} for minute in range(40) if minute != 17))
    results = outcomes(split_candles(frame, EXPIRY), len(frame))
    assert [outcome.passed for outcome in results] == [True, True, True, False]
    assert not results[3].fatal
    assert results[3].counts["missing_minutes"] == 1
    assert results[3].failing["time"].tolist() == ["2025-08-28 10:17:00 IST"]
    assert "1 minute of 1 session missing" in results[3].summary


def test_outcomes_are_fatal_above_the_threshold_only() -> None:
    """Half of the rows bad is allowed at 0.5, one more is not; the table stays short."""
    bad = [{"ts": f"2025-08-27 10:00:{second:02}"} for second in range(1, 60)]
    good = [{"ts": f"2025-08-28 10:{minute:02}"} for minute in range(59)]
    at_limit = outcomes(split_candles(candles(*good, *bad), EXPIRY), 118)
    assert not any(outcome.fatal for outcome in at_limit)
    above = outcomes(split_candles(candles(*good[:-1], *bad), EXPIRY), 117)
    assert [outcome.fatal for outcome in above] == [False, False, False, True]
    assert len(above[3].failing) == MAX_SHOWN
    assert "not written" in above[3].summary


def test_outcomes_of_an_empty_cell() -> None:
    """A cell without any candle passes every check."""
    results = outcomes(split_candles(candles({}).iloc[:0], EXPIRY), 0)
    assert all(outcome.passed and not outcome.fatal for outcome in results)


@needs_realdata
def test_recorded_future_is_all_good() -> None:
    """The 375 candles recorded from Upstox, newest first, come out ascending and unchanged."""
    name = "expired_historical_candle__NSE_FO_64103_28-08-2025__1minute.json"
    recorded = json.loads((REALDATA / "upstox_recorded" / name).read_text(encoding="utf-8"))["data"]["candles"]
    frame = pd.DataFrame(recorded, columns=list(CANDLE_COLUMNS)[1:])
    frame.insert(0, "instrument_key", A)
    frame["ts"] = pd.to_datetime(frame["ts"], utc=True).dt.as_unit("us")
    frame = frame.astype(dict.fromkeys(("open", "high", "low", "close"), "float64"))
    split = split_candles(frame, EXPIRY)
    assert split.bad.empty
    pd.testing.assert_frame_equal(split.good, frame[::-1].reset_index(drop=True))
    assert all(outcome.passed for outcome in outcomes(split, len(frame)))
