"""Coverage: every minute of a session is traded, without a trade or missing, for each contract and day."""

from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from expirytrack_dagster.quality.continuity import assess_continuity, merge_minutes, minute_counts
from expirytrack_dagster.quality.coverage import assess_coverage, count_trades, spans

CONTRACTS = pd.DataFrame(
    {
        "instrument_key": ["put", "call", "future", "silent"],
        "instrument_type": ["PE", "CE", "FUT", "CE"],
        "strike_price": [100.0, 100.0, np.nan, 50.0],
    }
)


def bars(key: str, start: str, number: int, every: int = 1, volume: int = 75) -> pd.DataFrame:
    """Return bars of a contract from `start` (Indian time), one in so many minutes."""
    begin = pd.Timestamp(start, tz="Asia/Kolkata").tz_convert("UTC").to_datetime64()
    ts = pd.Series(begin.astype("datetime64[us]") + np.arange(number) * np.timedelta64(every, "m"))
    return pd.DataFrame({"instrument_key": key, "ts": ts.dt.tz_localize("UTC"), "volume": volume})


def sessions(*parts: pd.DataFrame) -> pd.DataFrame:
    """Return the sessions of these bars."""
    return assess_continuity(merge_minutes([minute_counts(part) for part in parts])).sessions


def test_a_day_in_full() -> None:
    """The future traded always but for one minute, a call every third, a put was only quoted, one contract never."""
    future = bars("future", "2025-08-21 09:15", 375).drop(index=100)
    call = bars("call", "2025-08-21 09:15", 125, every=3)
    call = call[call["ts"] != bars("x", "2025-08-21 10:55", 1)["ts"].iloc[0]]
    put = bars("put", "2025-08-21 11:00", 10, volume=0)
    late = bars("call", "2025-08-21 16:00", 2)
    found = sessions(future, call, put, late)
    coverage = assess_coverage(CONTRACTS, [count_trades(pd.concat([future, call, put, late]), found)], found)
    columns = ["instrument_key", "minutes", "traded", "no_trade", "missing", "outside"]
    assert coverage.days[columns].to_numpy().tolist() == [
        ["future", 375, 374, 0, 1, 0],
        ["silent", 375, 0, 374, 1, 0],
        ["call", 375, 125, 249, 1, 2],
        ["put", 375, 0, 374, 1, 0],
    ]
    assert set(coverage.days["day"]) == {date(2025, 8, 21)}
    assert coverage.counts == {
        "contract_minutes": 1_500,
        "contract_minutes_traded": 499,
        "contract_minutes_missing": 4,
        "coverage_percent": 33.27,
    }


def test_two_sessions_of_a_day() -> None:
    """A day and its evening count together, and what lies between them lies outside."""
    day, evening = bars("future", "2025-10-21 09:15", 375), bars("future", "2025-10-21 18:15", 60)
    stray = bars("call", "2025-10-21 17:00", 1)
    found = sessions(day, evening)
    assert len(spans(found)) == 2
    coverage = assess_coverage(CONTRACTS, [count_trades(pd.concat([day, evening, stray]), found)], found)
    columns = ["instrument_key", "minutes", "traded", "outside"]
    found_rows = coverage.days[columns].to_numpy().tolist()
    assert ["future", 435, 435, 0] in found_rows
    assert ["call", 435, 0, 1] in found_rows


def test_nothing_traded() -> None:
    """A cell without a bar has contracts and no day."""
    nothing = bars("call", "2025-08-21 09:15", 0)
    found = sessions(nothing)
    coverage = assess_coverage(CONTRACTS, [count_trades(nothing, found)], found)
    assert coverage.days.empty
    assert coverage.counts["coverage_percent"] == 0.0


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1_000), parts=st.integers(1, 4), days=st.integers(1, 3))
def test_every_minute_has_one_reason(seed: int, parts: int, days: int) -> None:
    """However contracts are spread over batches, traded + no trade + missing = the sessions' minutes."""
    random = np.random.default_rng(seed)
    frames = [
        bars(key, f"2025-08-{18 + day} 09:15", 375)
        for day in range(days)
        for key in ("future", "call", "put")
        if key == "future" or random.random() < 0.8
    ]
    frames = [
        frame[random.random(len(frame)) < (0.99 if frame["instrument_key"].iloc[0] == "future" else 0.3)]
        for frame in frames
    ]
    frame = pd.concat(frames, ignore_index=True)
    found = sessions(frame)
    by_contract = [group for _, group in frame.groupby("instrument_key")]
    batches = [pd.concat(by_contract[part::parts]) for part in range(parts) if by_contract[part::parts]]
    coverage = assess_coverage(CONTRACTS, [count_trades(batch, found) for batch in batches], found)
    reasons = coverage.days[["traded", "no_trade", "missing"]].to_numpy()
    assert coverage.days["minutes"].tolist() == reasons.sum(axis=1).tolist()
    assert reasons.min() >= 0
    assert coverage.days["traded"].sum() + coverage.days["outside"].sum() == len(frame)
    assert len(coverage.days) == len(CONTRACTS) * frame["ts"].dt.date.nunique()
