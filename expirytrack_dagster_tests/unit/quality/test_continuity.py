"""Continuity: sessions, holes, breaks, thin chains and prints after the close, from data alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expirytrack_dagster.quality.continuity import ContinuityReport, assess_continuity, merge_minutes, minute_counts

REALDATA = Path(__file__).parents[4] / "shared" / "realdata"
needs_realdata = pytest.mark.skipif(not REALDATA.is_dir(), reason=f"real data are not at {REALDATA}")


def minutes(start: str, number: int, contracts: int = 12, traded: int | None = None, every: int = 1) -> pd.DataFrame:
    """Return `number` minutes of a chain from `start` (Indian time), one in `every`."""
    begin = pd.Timestamp(start, tz="Asia/Kolkata").tz_convert("UTC").as_unit("us")
    times = begin.to_datetime64() + np.arange(number) * np.timedelta64(every, "m")
    return pd.DataFrame(
        {
            "ts": pd.Series(times).dt.tz_localize("UTC"),
            "contracts": contracts,
            "traded": contracts if traded is None else traded,
        }
    )


def assess(*parts: pd.DataFrame) -> ContinuityReport:
    """Assess the parts as one chain, in an order that is not that of time."""
    return assess_continuity(pd.concat(parts).sample(frac=1, random_state=1))


def sessions(report: ContinuityReport) -> list[tuple[str, str, str, int, int]]:
    """Return day, first, last, minutes, missing of each session."""
    columns = ["day", "first", "last", "minutes", "missing"]
    return [tuple(row) for row in report.sessions[columns].to_numpy().tolist()]


def indian(times: pd.Series) -> list[str]:
    """Return instants as Indian clock times."""
    return [f"{time:%Y-%m-%d %H:%M}" for time in times.dt.tz_convert("Asia/Kolkata")]


def test_lengths_of_sessions_come_from_the_data() -> None:
    """Days of 375 and 385 bars, a Saturday and an evening of 60 bars come out as they are, with nothing missing."""
    report = assess(
        minutes("2026-07-31 09:15", 375),
        minutes("2026-08-03 09:15", 385),
        minutes("2026-08-08 11:00", 45),
        minutes("2026-11-08 18:15", 60),
    )
    assert sessions(report) == [
        ("2026-07-31", "09:15", "15:29", 375, 0),
        ("2026-08-03", "09:15", "15:39", 385, 0),
        ("2026-08-08", "11:00", "11:44", 45, 0),
        ("2026-11-08", "18:15", "19:14", 60, 0),
    ]
    assert report.counts["days"] == 4
    assert report.missing.empty
    assert report.breaks.empty
    assert report.outside.empty


def test_a_minute_missing_across_the_chain_is_found() -> None:
    """Exactly the removed minutes are missing; one contract less in a minute is not."""
    day = minutes("2025-08-01 09:15", 375)
    day.loc[100, ["contracts", "traded"]] = 1
    report = assess(day.drop(index=[7, 200, 201]))
    assert indian(report.missing["ts"]) == ["2025-08-01 09:22", "2025-08-01 12:35", "2025-08-01 12:36"]
    assert sessions(report) == [("2025-08-01", "09:15", "15:29", 375, 3)]
    assert report.missing["ts"].dtype == "datetime64[us, UTC]"
    assert report.counts["missing_minutes"] == 3
    assert "3 minutes of 1 session missing" in report.summary


def test_a_day_and_an_evening_are_two_sessions() -> None:
    """The silence between them is a break and no missing minutes."""
    report = assess(minutes("2025-10-21 09:15", 375), minutes("2025-10-21 18:15", 60))
    assert [row[1:3] for row in sessions(report)] == [("09:15", "15:29"), ("18:15", "19:14")]
    assert report.missing.empty
    assert report.breaks.to_numpy().tolist() == [["2025-10-21", "15:30", "18:14", 165]]


@pytest.mark.parametrize(("silent", "breaks", "missing"), [(29, 0, 29), (30, 1, 0)])
def test_half_an_hour_is_the_limit_of_a_hole(silent: int, breaks: int, missing: int) -> None:
    """A hole of 29 minutes is missing data, one of 30 minutes a break."""
    day = minutes("2025-08-01 09:15", 375)
    report = assess(day.drop(index=range(150, 150 + silent)))
    assert (len(report.breaks), len(report.missing)) == (breaks, missing)


def test_prints_after_the_close_are_outside() -> None:
    """A closing trade of a few contracts, zero-volume bars and one late block stay outside, and are kept."""
    report = assess(
        minutes("2021-06-14 09:15", 375),
        minutes("2021-06-14 15:30", 1, traded=4),
        minutes("2021-06-14 16:18", 3, traded=0, every=18),
        minutes("2021-06-14 18:00", 1, traded=12),
    )
    assert sessions(report) == [("2021-06-14", "09:15", "15:29", 375, 0)]
    assert report.breaks.empty
    assert indian(report.outside["ts"])[0] == "2021-06-14 15:30"
    assert report.outside["traded"].tolist() == [4, 0, 0, 0, 12]
    assert (report.counts["outside_minutes"], report.counts["outside_rows"]) == (5, 60)


def test_bars_between_two_sessions_do_not_join_them() -> None:
    """Zero-volume bars every twenty minutes between day and evening leave two sessions."""
    report = assess(
        minutes("2025-10-21 09:15", 375),
        minutes("2025-10-21 15:45", 7, traded=0, every=20),
        minutes("2025-10-21 18:15", 60),
    )
    assert len(report.sessions) == 2
    assert report.missing.empty
    assert report.counts["outside_rows"] == 84


def test_a_thin_chain_makes_no_false_sessions_and_no_false_alarm() -> None:
    """A few bars a day with hours between them are one session, whose silent minutes are quiet, not missing."""
    report = assess(*(minutes(f"2025-06-02 {at}", 1, contracts=1) for at in ("09:20", "10:40", "10:45", "14:10")))
    assert sessions(report) == [("2025-06-02", "09:20", "14:10", 291, 0)]
    assert report.missing.empty
    assert report.counts["quiet_minutes"] == 287
    assert "287 minutes silent in thin sessions" in report.summary


def test_a_lunch_dip_in_an_illiquid_chain_is_no_break() -> None:
    """A chain that trades every fourth minute may be silent for 35 minutes without ending its session."""
    report = assess(
        minutes("2025-06-02 09:15", 50, contracts=2, every=4), minutes("2025-06-02 13:10", 35, contracts=2, every=4)
    )
    assert len(report.sessions) == 1
    assert report.breaks.empty


def test_a_lunch_dip_in_volume_is_no_break() -> None:
    """An hour in which few contracts trade stays inside its session."""
    day = minutes("2025-08-01 09:15", 375)
    day.loc[180:240, "traded"] = 1
    assert sessions(assess(day)) == [("2025-08-01", "09:15", "15:29", 375, 0)]


def test_bars_stand_in_for_trades_on_a_day_without_volume() -> None:
    """A chain without any volume that day is judged by its bars."""
    report = assess(minutes("2025-08-01 09:15", 375, traded=0).drop(index=9))
    assert sessions(report) == [("2025-08-01", "09:15", "15:29", 375, 1)]


def test_days_are_indian_days() -> None:
    """An evening that crosses midnight in UTC stays one Indian day."""
    report = assess(minutes("2025-08-01 04:00", 120))
    assert sessions(report) == [("2025-08-01", "04:00", "05:59", 120, 0)]


def test_nothing_in_nothing_out() -> None:
    """A cell without candles has an empty report whose figures are zero."""
    report = assess_continuity(merge_minutes([]))
    assert set(report.counts.values()) == {0}
    assert report.sessions.empty
    assert report.missing["ts"].dtype == "datetime64[us, UTC]"


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30), st.integers(0, 2)), unique_by=lambda bar: bar[:2]),
    st.integers(0, 4),
)
def test_batches_add_up(bars: list[tuple[int, int, int]], cut: int) -> None:
    """Counting contracts batch by batch gives what counting them at once gives."""
    frame = pd.DataFrame(bars, columns=["contract", "minute", "volume"], dtype="int64")
    times = np.datetime64("2025-08-01T03:45", "us") + frame["minute"].to_numpy() * np.timedelta64(1, "m")
    frame["ts"] = pd.Series(times).dt.tz_localize("UTC")
    parts = [frame[frame["contract"] < cut], frame[frame["contract"] >= cut]]
    merged = merge_minutes(minute_counts(part) for part in parts)
    pd.testing.assert_frame_equal(merged, minute_counts(frame))
    assert merged["contracts"].sum() == len(frame)
    assert merged["traded"].sum() == (frame["volume"] > 0).sum()


def read_indian_csv(path: Path, time: str, volume: str) -> pd.DataFrame:
    """Return ts and volume of a file with Indian times."""
    frame = pd.read_csv(path)
    times = pd.to_datetime(frame[time])
    if times.dt.tz is None:
        times = times.dt.tz_localize("Asia/Kolkata")
    return pd.DataFrame({"ts": times.dt.tz_convert("UTC").dt.as_unit("us"), "volume": frame[volume]})


@needs_realdata
def test_real_chain_of_2021() -> None:
    """Twelve contracts over two days: 375 minutes each, and exactly the 60 rows after the close outside."""
    paths = sorted((REALDATA / "nifty_2021_06").glob("NIFTY21617*_minute.csv"))
    assert len(paths) == 12
    frames = [read_indian_csv(path, "TIME", "VOLUME") for path in paths]
    report = assess_continuity(merge_minutes(minute_counts(frame) for frame in frames))
    assert sessions(report) == [
        ("2021-06-11", "09:15", "15:29", 375, 0),
        ("2021-06-14", "09:15", "15:29", 375, 0),
    ]
    assert indian(report.outside["ts"]) == [f"2021-06-14 {at}" for at in ("15:30", "16:18", "16:39", "16:45", "16:54")]
    assert report.outside["traded"].tolist() == [4, 0, 0, 0, 0]
    assert report.counts["outside_rows"] == 60
    assert report.missing.empty


@needs_realdata
def test_real_option_of_2026() -> None:
    """One option of 2026-07-15: a complete session of 375 minutes."""
    frame = read_indian_csv(REALDATA / "upstox_2026_07_15" / "NSE_FO_57352_2026-07-15.csv", "ts", "volume")
    assert sessions(assess_continuity(minute_counts(frame))) == [("2026-07-15", "09:15", "15:29", 375, 0)]
