"""The judgement of a cell: every listed contract in one state, and archived with fresh evidence as one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expirytrack_dagster.collect.staging import SCHEMA, Batch, CellStaging
from expirytrack_dagster.collect.states import ContractStatus, State, status_frame
from expirytrack_dagster.collect.verdict import CellVerdict, check_completeness, judge_cell

if TYPE_CHECKING:
    from pathlib import Path

OPEN = datetime(2025, 8, 28, 3, 45, tzinfo=UTC)
ROWS = 60


def status(
    key: str, state: State, candles: int = 0, quarantined: int = 0, duplicates: int = 0, *, agrees: bool | None = None
) -> ContractStatus:
    """Return the state of a contract."""
    return ContractStatus(
        instrument_key=key,
        status=state,
        checked_at=OPEN,
        received=candles + quarantined + duplicates,
        candles=candles,
        quarantined=quarantined,
        duplicates=duplicates,
        agrees=agrees,
    )


def rows(key: str, first: int, last: int, rule: str | None = None) -> pd.DataFrame:
    """Return the minutes of a contract between two minutes of the session, the last one excluded."""
    size = last - first
    frame = pd.DataFrame(
        {
            "instrument_key": pd.Series([key] * size, dtype="str"),
            "ts": pd.Series([OPEN + timedelta(minutes=m) for m in range(first, last)], dtype="datetime64[us, UTC]"),
            **{name: [10.0] * size for name in ("open", "high", "low", "close")},
            "volume": pd.Series([75] * size, dtype="int64"),
            "open_interest": pd.Series([750] * size, dtype="int64"),
        }
    )
    return frame if rule is None else frame.assign(rule=rule, detail="high below low")


def minutes(first: int, last: int) -> pd.DataFrame:
    """Return minutes as the archive counts them."""
    ts = pd.Series([OPEN + timedelta(minutes=m) for m in range(first, last)], dtype="datetime64[us, UTC]")
    return pd.DataFrame({"ts": ts, "contracts": 1, "traded": 1})


def judge(
    listed: list[str],
    batches: list[Batch],
    archived: list[ContractStatus],
    archived_minutes: pd.DataFrame,
    archived_bad: pd.DataFrame | None = None,
    threshold: float = 0.5,
) -> CellVerdict:
    """Judge with an archive of these."""
    return judge_cell(
        listed=listed,
        batches=batches,
        archived=status_frame(archived),
        archived_bad=rows("none", 0, 0, "ohlc") if archived_bad is None else archived_bad,
        archived_minutes=archived_minutes,
        threshold=threshold,
    )


def test_archived_and_fresh_evidence_are_one(tmp_path: Path) -> None:
    """The half in the archive and the half just staged make one session without a gap, and numbers are sums."""
    staging = CellStaging(tmp_path)
    half = ROWS // 2
    staging.write(
        rows("b", half, ROWS),
        rows("b", 0, 2, "ohlc"),
        [
            status("b", State.COMPLETE, candles=half, quarantined=2, duplicates=1, agrees=False),
            status("c", State.EMPTY_PROVEN, agrees=True),
        ],
    )
    old = [status("a", State.COMPLETE, candles=half, quarantined=1, agrees=True)]
    verdict = judge(["a", "b", "c"], staging.batches(), old, minutes(0, half), rows("a", 0, 1, "ohlc"))
    outcomes = {outcome.name: outcome for outcome in verdict.outcomes}
    assert list(outcomes) == ["ohlc", "volume_and_open_interest", "duplicates", "timestamp_continuity", "completeness"]
    assert outcomes["timestamp_continuity"].passed
    assert outcomes["completeness"].passed
    assert outcomes["ohlc"].counts["quarantined"] == len(outcomes["ohlc"].failing) == 3
    assert verdict.unfit is None
    numbers = verdict.numbers
    assert numbers["dagster/partition_row_count"] == ROWS
    assert (numbers["rows_received"], numbers["quarantined"], numbers["exact_duplicates"]) == (ROWS + 4, 3, 1)
    assert (numbers["sessions"], numbers["minutes_missing_across_chain"]) == (1, 0)
    assert (numbers["contracts"], numbers["complete"], numbers["empty_proven"]) == (3, 2, 1)
    assert (numbers["compared_with_days"], numbers["agreed_with_days_percent"]) == (3, 66.67)
    assert verdict.fresh_statuses["instrument_key"].tolist() == ["b", "c"]


def test_a_minute_that_nobody_traded_is_missing(tmp_path: Path) -> None:
    """A hole across archive and fresh rows is found, although each side alone could not know."""
    staging = CellStaging(tmp_path)
    for key in "bcdefg":
        staging.write(
            pd.concat([rows(key, 0, 100), rows(key, 103, 200)]), rows(key, 0, 0, "x"), [status(key, State.COMPLETE)]
        )
    verdict = judge(["a", *"bcdefg"], staging.batches(), [status("a", State.COMPLETE)], minutes(0, 101))
    assert verdict.numbers["minutes_missing_across_chain"] == 2
    failed = [outcome.name for outcome in verdict.outcomes if not outcome.passed]
    assert failed == ["timestamp_continuity"]
    assert verdict.unfit is None


def test_too_many_bad_rows_make_the_cell_unfit(tmp_path: Path) -> None:
    """Above the threshold the reason is given, and it is the check whose rows are bad."""
    staging = CellStaging(tmp_path)
    staging.write(
        rows("a", 0, 10), rows("a", 10, 20, "ohlc"), [status("a", State.COMPLETE, candles=10, quarantined=10)]
    )
    assert judge(["a"], staging.batches(), [], minutes(0, 0)).unfit is None
    unfit = judge(["a"], staging.batches(), [], minutes(0, 0), threshold=0.4).unfit
    assert unfit is not None
    assert unfit.name == "ohlc"


def test_nothing_staged_and_nothing_archived() -> None:
    """A cell of which nothing is known yet is judged without an error: all of it is unasked."""
    verdict = judge(["a", "b"], [], [], minutes(0, 0))
    assert verdict.numbers["unasked"] == 2
    assert verdict.numbers["completeness_percent"] == 0
    assert not verdict.outcomes[-1].passed


def test_incompleteness_names_contracts_and_reasons() -> None:
    """The table shows the unfinished contracts with state, code and message; the sentence counts and advises."""
    statuses = status_frame(
        [
            status("a", State.COMPLETE),
            ContractStatus(
                instrument_key="b", status=State.REFUSED, checked_at=OPEN, error_code="UDAPI100011", message="unknown"
            ),
            status("elsewhere", State.FAILED),
        ]
    )
    outcome = check_completeness(["a", "b", "c"], statuses)
    assert not outcome.passed
    assert outcome.summary.startswith("2 of 3 contracts are not complete yet: collect the cell again")
    assert outcome.failing.to_numpy().tolist() == [["b", "refused", "UDAPI100011", "unknown"]]
    assert outcome.counts["completeness_percent"] == pytest.approx(33.33)


def test_an_empty_cell_lacks_nothing() -> None:
    """A cell without listed contracts passes and says so."""
    outcome = check_completeness([], status_frame([]))
    assert outcome.passed
    assert "no contract" in outcome.summary
    assert outcome.counts["completeness_percent"] == 100


@given(states=st.lists(st.sampled_from([*State, None]), max_size=40), strangers=st.integers(0, 3))
def test_listed_is_always_the_sum_of_the_states(states: list[State | None], strangers: int) -> None:
    """Whatever became of the contracts, listed = the five states and unasked; withdrawn contracts do not count."""
    listed = [f"k{number}" for number in range(len(states))]
    known = [status(key, state) for key, state in zip(listed, states, strict=True) if state is not None]
    known += [status(f"withdrawn{number}", State.FAILED) for number in range(strangers)]
    outcome = check_completeness(listed, status_frame(known))
    assert outcome.counts["contracts"] == len(listed)
    assert sum(outcome.counts[name] for name in (*map(str, State), "unasked")) == len(listed)
    assert outcome.counts["unasked"] == states.count(None)
    assert outcome.passed == all(state in {State.COMPLETE, State.EMPTY_PROVEN} for state in states)


def test_the_staged_columns_are_those_of_the_schema() -> None:
    """The rows of these tests have the columns that staging writes."""
    assert list(rows("a", 0, 1, "ohlc").columns) == SCHEMA.names
