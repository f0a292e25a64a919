"""The validation report: every number in it is the verdict's, short enough to read, and on disk whole or not at all."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from expirytrack_dagster.collect.report import CellReport
from expirytrack_dagster.collect.verdict import CellVerdict
from expirytrack_dagster.errors import StorageError
from expirytrack_dagster.quality.outcome import CheckOutcome

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime(2025, 9, 1, 10, tzinfo=UTC)
SESSIONS = pd.DataFrame(
    [("2025-08-20", "09:15", "15:29", 375, 0, 0), ("2025-08-21", "09:15", "15:29", 375, 2, 0)],
    columns=["day", "first", "last", "minutes", "missing", "quiet"],
)


def outcome(name: str, *, failing: int = 0, fatal: bool = False) -> CheckOutcome:
    """Return the outcome of a check that found so many rows."""
    rows = pd.DataFrame(
        {
            "instrument_key": ["NSE_FO|1|21-08-2025"] * failing,
            "detail": [f"high {number} is below low" for number in range(failing)],
            "close": [float("nan")] * failing,
            "volume": pd.Series(range(failing), dtype="int64"),
        }
    )
    return CheckOutcome(name, failing == 0, fatal, f"{failing} rows broke this rule.", {"quarantined": failing}, rows)


def report(*outcomes: CheckOutcome, sessions: pd.DataFrame = SESSIONS, **numbers: Any) -> CellReport:
    """Return the report on a cell of 1,234 rows; `numbers` override."""
    known = {
        "rows_received": 1_234,
        "dagster/partition_row_count": 1_200,
        "quarantined": 0,
        "exact_duplicates": 30,
        "discarded_in_review": 4,
        "minutes_missing_across_chain": 0,
        "compared_with_days": 8,
        "agreed_with_days_percent": 87.5,
        "completeness_percent": 100.0,
        "contracts": 14,
        "complete": 12,
        "empty_proven": 2,
        "partial": 0,
        "refused": 0,
        "failed": 0,
        "unasked": 0,
    }
    unfit = next((found for found in outcomes if found.fatal and not found.passed), None)
    verdict = CellVerdict(list(outcomes), unfit, pd.DataFrame(), {**known, **numbers}, sessions)
    return CellReport("NIFTY", "2025-08-21", "run-1", NOW, verdict)


def test_a_sound_cell_needs_a_screen_and_nothing_to_do() -> None:
    """Rows and contracts as sums, sessions by length, one line a check, no examples."""
    lines = report(outcome("ohlc"), outcome("duplicates"), sessions=SESSIONS.iloc[:1]).as_markdown().splitlines()
    assert lines == [
        "### NIFTY 2025-08-21",
        "",
        "**Rows** 1,234 received = 1,200 candles + 0 in quarantine + 30 exact duplicates + 4 discarded in review",
        "",
        "**Contracts** 14 listed = 12 complete + 2 empty proven",
        "",
        "**Proof by daily candles** 8 contracts compared, 87.5 % agree",
        "",
        "**Sessions** 1 from 2025-08-20 to 2025-08-20: 1 of 375 minutes",
        "",
        "|  | check | what was found |",
        "| --- | --- | --- |",
        "| pass | `ohlc` | 0 rows broke this rule. |",
        "| pass | `duplicates` | 0 rows broke this rule. |",
        "",
        "**What to do** Nothing.",
    ]


def test_a_failed_check_shows_three_examples_and_a_command() -> None:
    """Three rows of many, bars in instrument keys escaped, and how to look at all of them."""
    text = report(outcome("ohlc", failing=8), quarantined=8).as_markdown()
    assert "| warning | `ohlc` | 8 rows broke this rule. |" in text
    assert "| NSE_FO\\|1\\|21-08-2025 | high 2 is below low |  | 2 |" in text
    assert "high 3 is below low" not in text
    assert "`expirytrack quarantine list NIFTY --expiry 2025-08-21`, then release or discard them." in text


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        (
            {"completeness_percent": 99.5},
            "Contracts are missing: run `expirytrack collect NIFTY --expiry 2025-08-21`, only",
        ),
        ({"minutes_missing_across_chain": 2}, "Minutes are missing across the chain"),
        ({"quarantined": 1}, "Look at the rows in quarantine"),
    ],
)
def test_each_fault_has_something_to_do(numbers: dict[str, Any], words: str) -> None:
    """What is wrong comes with the one command that helps."""
    (sentence,) = report(**numbers).todo
    assert sentence.startswith(words)


def test_a_cell_that_was_not_written_says_so_first() -> None:
    """The report on a refused cell names the check that refused it."""
    refused = report(outcome("ohlc", failing=9, fatal=True), quarantined=9, completeness_percent=50.0)
    assert refused.todo[0].startswith("The cell was not written (ohlc): run")
    assert "| **FAIL** | `ohlc` |" in refused.as_markdown()
    assert refused.as_json()["fit"] is False


def test_missing_minutes_are_named_by_day() -> None:
    """Sessions are counted by length; those with missing minutes are named, and none at all is said."""
    assert "2 of 375 minutes; minutes missing across the chain on 2025-08-21 (2)" in report().as_markdown()
    assert "**Sessions** none: no contract traded" in report(sessions=SESSIONS.iloc[:0]).as_markdown()
    odd = pd.concat([SESSIONS.assign(minutes=length, missing=0) for length in (375, 385, 60, 100)])
    assert (
        "2 of 385 minutes, 2 of 375 minutes, 2 of 100 minutes and 1 other length" in report(sessions=odd).as_markdown()
    )


def test_the_file_holds_the_same_for_programs(tmp_path: Path) -> None:
    """Strict JSON (no NaN), sums that add up, at most three examples, and a report on the same cell replaces it."""
    written = report(outcome("ohlc", failing=8), quarantined=0)
    for _ in range(2):
        path = written.save(tmp_path)
    assert path == tmp_path / "NIFTY" / "2025-08-21.json"
    assert list(path.parent.iterdir()) == [path]

    def refuse(constant: str) -> float:
        raise AssertionError(constant)

    stored = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    assert stored == written.as_json()
    rows = stored["rows"]
    assert rows.pop("received") == sum(rows.values())
    assert sum(stored["states"].values()) == stored["contracts"]
    (check,) = stored["checks"]
    assert [example["volume"] for example in check["examples"]] == [0, 1, 2]
    assert check["examples"][0]["close"] is None
    assert stored["judged_at"] == "2025-09-01T10:00:00+00:00"


def test_a_folder_that_cannot_be_written_is_an_error_of_the_tree(tmp_path: Path) -> None:
    """One sentence with the path, no traceback of the operating system."""
    (tmp_path / "NIFTY").write_text("a file where a folder should be", encoding="utf-8")
    with pytest.raises(StorageError, match=r"Cannot write .*2025-08-21\.json"):
        report().save(tmp_path)
