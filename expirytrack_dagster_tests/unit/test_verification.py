"""What `verify` makes of the answers: how bad each is, what to do, sessions, leftovers, damaged files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import pytest

from expirytrack_dagster.collect.staging import CellStaging
from expirytrack_dagster.collect.states import State
from expirytrack_dagster.errors import ConfigurationError, DatabaseCorrupt
from expirytrack_dagster.verification import MEANINGS, Severity, Verification, verify_archive, verify_cell
from expirytrack_dagster.warehouse import verify as questions
from expirytrack_dagster.warehouse.connection import Warehouse
from expirytrack_dagster_tests.unit.conftest import EMPTY, EXPIRY, bars, keys, status

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime
    from pathlib import Path

    from expirytrack_dagster_tests.unit.conftest import SmallArchive


def check(archive: SmallArchive, symbol: str | None = None) -> Verification:
    """Prove the archive."""
    return verify_archive(archive.warehouse, archive.staging, symbol)


def test_every_question_has_a_meaning() -> None:
    """No kind of fact comes without a severity and an advice, and no meaning without a question."""
    assert set(MEANINGS) == {*questions._QUESTIONS, "missing_minutes", "staged"}  # noqa: SLF001 -- the list of kinds
    for meaning in MEANINGS.values():
        assert meaning.advice.format(symbol="NIFTY", expiry="2025-08-21").startswith(
            ("Run", "Restore", "Nothing to do")
        )


def test_a_sound_archive_is_proven(archive: SmallArchive) -> None:
    """The summary says what was looked at; a date that nobody collected is a note."""
    result = check(archive)
    assert result.proven
    assert [(finding.kind, finding.severity) for finding in result.findings] == [("uncollected", Severity.NOTE)]
    assert result.summary == (
        "Proven: every listed contract is accounted for and every row is where the books say "
        "(2 of 3 listed cells sealed, 3 contracts, 120 candles, 2 rows in quarantine)."
    )
    assert verify_cell(archive.warehouse, "NIFTY", EXPIRY).findings == []
    assert verify_cell(archive.warehouse, "NIFTY", EMPTY).proven


def test_the_worst_comes_first_and_says_what_to_do(archive: SmallArchive) -> None:
    """Contradictions before gaps before notes, each with its cell, its number and a command."""
    archive.run(
        "UPDATE contract_status SET status = 'partial', message = 'cut off' WHERE status = 'empty_proven'",
        "UPDATE candles SET close = 1 WHERE volume = 75",
        "DELETE FROM quarantine",
    )
    result = check(archive)
    assert not result.proven
    assert [finding.kind for finding in result.findings] == ["quarantine_counts", "seal", "unfinished", "uncollected"]
    first, _, gap, _ = result.findings
    assert (first.underlying, first.expiry, first.count) == ("NIFTY", "2025-08-21", 1)
    assert "NSE_FO|40001|21-08-2025 has 0 rows in quarantine, its state counts 2" in first.found
    assert first.advice == "Run: expirytrack collect NIFTY --expiry 2025-08-21 --refetch"
    assert gap.found == ("1 contract partial, refused or failed, such as NSE_FO|40003|21-08-2025 partial: cut off")
    assert result.summary.startswith("Not proven: 2 contradictions and 1 gap (2 of 3 listed cells sealed")


def test_a_minute_missing_across_the_chain_is_a_warning(archive: SmallArchive) -> None:
    """It is named in Indian time and leaves the archive proven: the source may not have it."""
    a, b, _ = keys()
    archive.store(
        [
            status(key, State.COMPLETE, received=59, candles=59, first_ts=first, last_ts=last)
            for key, first, last in ((key, *_span(bars(key, 0, 60))) for key in (a, b))
        ],
        _joined(bars(key, *span) for key in (a, b) for span in ((0, 30), (31, 60))),
        bars(a, 0, 0),
    )
    result = check(archive)
    assert result.proven
    (finding,) = [finding for finding in result.findings if finding.severity is Severity.WARNING]
    assert finding.found == "1 minute missing across the chain, such as 2025-08-21 09:45 IST"


def test_staged_batches_are_a_warning(archive: SmallArchive) -> None:
    """What a stopped run left is named with its cell; with a symbol, only that symbol's."""
    a = keys()[0]
    for day in ("2025-08-21", "2025-09-04"):
        CellStaging(archive.staging / "NIFTY" / day).write(bars(a, 0, 2), bars(a, 0, 0), [])
    CellStaging(archive.staging / "SENSEX" / "2025-08-26").write(bars(a, 0, 2), bars(a, 0, 0), [])
    staged = [(f.underlying, f.expiry) for f in check(archive).findings if f.kind == "staged"]
    assert staged == [("NIFTY", "2025-08-21"), ("NIFTY", "2025-09-04"), ("SENSEX", "2025-08-26")]
    assert len([f for f in check(archive, "NIFTY").findings if f.kind == "staged"]) == 2


def test_progress_counts_candles(archive: SmallArchive) -> None:
    """Cell by cell, up to all of them."""
    archive.run("INSERT INTO candles SELECT * EXCLUDE (ts) REPLACE (DATE '2025-08-28' AS expiry) FROM candles LIMIT 20")
    told: list[tuple[int, int]] = []
    verify_archive(archive.warehouse, archive.staging, progress=lambda done, total: told.append((done, total)))
    assert told == [(120, 140), (140, 140)]


def test_an_empty_home_and_an_unknown_symbol(tmp_path: Path, archive: SmallArchive) -> None:
    """Nothing collected is nothing to prove; a symbol that the archive does not know is a mistake."""
    assert verify_archive(Warehouse(tmp_path / "new.duckdb"), tmp_path).proven
    with pytest.raises(ConfigurationError, match="nothing of SENSEX: it holds NIFTY"):
        check(archive, "SENSEX")


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.95])
def test_a_truncated_file_is_called_damaged_and_left_as_it_is(archive: SmallArchive, share: float) -> None:
    """Wherever it ends, one sentence says that the file is damaged, and not a byte is changed."""
    file = archive.warehouse.database
    with file.open("r+b") as opened:
        opened.truncate(max(1, int(file.stat().st_size * share)))
    before = file.read_bytes()
    with pytest.raises(DatabaseCorrupt, match="is damaged and was left as it is"):
        check(archive)
    assert file.read_bytes() == before


@pytest.mark.parametrize("table", ["candles", "contracts", "quarantine", "contract_status", "expiries"])
def test_a_file_overwritten_in_the_middle_is_called_damaged(archive: SmallArchive, table: str) -> None:
    """A block of any table that cannot be read is met, although the file opens."""
    file, block = archive.warehouse.database, 262_144
    ((number,),) = archive.rows(
        f"SELECT max(block_id) FROM pragma_storage_info('{table}') WHERE block_id >= 0"  # noqa: S608 -- constants
    )
    with file.open("r+b") as opened:
        opened.seek(3 * 4096 + number * block + 12)
        opened.write(b"\x55" * 16)
    before = file.read_bytes()
    with pytest.raises(DatabaseCorrupt, match="is damaged and was left as it is"):
        check(archive)
    assert file.read_bytes() == before


def _span(frame: pd.DataFrame) -> tuple[datetime, datetime]:
    return frame["ts"].min().to_pydatetime(), frame["ts"].max().to_pydatetime()


def _joined(frames: Iterable[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(frames, ignore_index=True)
