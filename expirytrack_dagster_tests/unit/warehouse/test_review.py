"""Reviews of the quarantine: rows move or go in one transaction with their counts, their seal and a note."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from expirytrack_dagster.errors import StorageError
from expirytrack_dagster.verification import verify_archive
from expirytrack_dagster.warehouse.review import Selection, chosen, review
from expirytrack_dagster_tests.unit.conftest import EMPTY, EXPIRY, SmallArchive, keys, stored_as

if TYPE_CHECKING:
    from pathlib import Path

A, B, C = keys()
IN_A_LAKE_TOO = pytest.mark.parametrize("archive", ["duckdb", "sqlite", "ducklake:sqlite"], indirect=True)
COUNTS = (
    "SELECT candles, quarantined, discarded, received, last_ts FROM contract_status WHERE instrument_key LIKE '%40001%'"
)
EVERYTHING = Selection("NIFTY")


@pytest.fixture(params=["duckdb", "sqlite"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> SmallArchive:
    """Give the small archive in each kind of store: nothing else changes and removes rows in so many ways."""
    return stored_as(request.param, request, tmp_path)


def everything(archive: SmallArchive) -> list[object]:
    """Return all that a review could change."""
    tables = ("candles", "quarantine", "contract_status", "cell_seals", "reviews")
    return [archive.rows(f"SELECT * FROM {table} ORDER BY ALL") for table in tables]  # noqa: S608 -- constants


def proven(archive: SmallArchive) -> bool:
    """Say whether the archive contradicts itself nowhere."""
    return verify_archive(archive.warehouse, archive.staging).proven


def plant(archive: SmallArchive, change: str) -> None:
    """Add a copy of the good one of the two quarantined rows, changed, and count it."""
    archive.run(
        f"INSERT INTO main.quarantine SELECT * REPLACE ({change}) FROM quarantine WHERE close IS NOT NULL",  # noqa: S608 -- constants
        "UPDATE main.contract_status SET quarantined = 3, received = 63 WHERE quarantined = 2",
    )


@pytest.mark.parametrize(
    ("selection", "rows"),
    [
        (Selection(), 2),
        (EVERYTHING, 2),
        (Selection("NIFTY", EXPIRY, "ohlc", A), 2),
        (Selection("BANKNIFTY"), 0),
        (Selection("NIFTY", EMPTY), 0),
        (Selection("NIFTY", rule="duplicates"), 0),
        (Selection("NIFTY", instrument_key=B), 0),
    ],
    ids=str,
)
def test_rows_are_chosen_by_what_is_given(archive: SmallArchive, selection: Selection, rows: int) -> None:
    """Each given part narrows the choice; what is not given chooses everything."""
    assert len(chosen(archive.warehouse, selection)) == rows


@IN_A_LAKE_TOO
def test_release_moves_a_row_in_order_and_leaves_what_cannot_stand_in_candles(archive: SmallArchive) -> None:
    """The whole row is a candle of its contract, the row without a close stays; counts, seal and note say so."""
    released = review(archive.warehouse, EVERYTHING, "release", "me")
    assert released["ts"].dt.strftime("%H:%M").tolist() == ["04:45"]
    stored = archive.rows(f"SELECT ts FROM candles WHERE instrument_key = '{A}'")  # noqa: S608 -- constants
    assert len(stored) == 61
    assert stored == sorted(stored)
    ((candles, quarantined, discarded, received, last),) = archive.rows(COUNTS)
    assert (candles, quarantined, discarded, received, last) == (61, 1, 0, 62, stored[-1][0])
    assert archive.rows("SELECT obstacle FROM (SELECT count(*) AS obstacle FROM quarantine)") == [(1,)]
    assert archive.rows("SELECT reviewer, action, rule, run_id, rows, first_ts FROM reviews") == [
        ("me", "release", "ohlc", "run-1", 1, stored[-1][0])
    ]
    assert proven(archive)


@IN_A_LAKE_TOO
def test_discard_removes_rows_and_keeps_their_count(archive: SmallArchive) -> None:
    """What was received stays accounted for: the rows are counted as discarded, whatever is wrong with them."""
    assert len(review(archive.warehouse, EVERYTHING, "discard", "me")) == 2
    assert archive.rows(COUNTS)[0][:4] == (60, 0, 2, 62)
    assert archive.rows("SELECT count(*) FROM quarantine") == [(0,)]
    assert archive.rows("SELECT action, rows FROM reviews") == [("discard", 2)]
    assert proven(archive)


@pytest.mark.parametrize(
    ("change", "obstacle"),
    [
        ("ts - INTERVAL 5 MINUTE AS ts", "candles has its minute already"),
        ("7 AS open", "several chosen rows claim its minute"),
        ("ts + INTERVAL 30 SECOND AS ts", "it is not on the minute"),
        ("ts + INTERVAL 1 DAY AS ts", "it lies after the expiry"),
        ("NULL AS ts", "a value is missing"),
        ("'NSE_FO|7|21-08-2025' AS instrument_key", "its contract has no state"),
    ],
)
def test_what_candles_promises_is_not_given_up(archive: SmallArchive, change: str, obstacle: str) -> None:
    """A row that would break the promise is named with the reason, and stays in quarantine."""
    plant(archive, change)
    assert obstacle in set(chosen(archive.warehouse, EVERYTHING)["obstacle"].dropna())
    released = review(archive.warehouse, EVERYTHING, "release", "me")
    assert len(released) == (0 if "claim" in obstacle else 1)
    assert archive.rows("SELECT count(*) - count(DISTINCT (instrument_key, ts)) FROM candles") == [(0,)]
    assert archive.rows("SELECT count(*) FROM quarantine") == [(3 - len(released),)]


def test_the_choice_between_two_versions_is_made_by_discarding_one(archive: SmallArchive) -> None:
    """Two rows of a minute cannot both be released; when one is gone, the other can."""
    plant(archive, "'duplicates' AS rule, 7 AS open")
    review(archive.warehouse, Selection("NIFTY", rule="duplicates"), "discard", "me")
    assert len(review(archive.warehouse, EVERYTHING, "release", "me")) == 1
    assert archive.rows(COUNTS)[0][:4] == (61, 1, 1, 63)
    assert proven(archive)


@pytest.mark.parametrize("action", ["release", "discard"])
def test_nothing_chosen_changes_nothing(archive: SmallArchive, action: str) -> None:
    """An empty choice writes no row, not even a note."""
    before = everything(archive)
    assert review(archive.warehouse, Selection("NIFTY", EMPTY), action, "me").empty  # type: ignore[arg-type] # parametrized
    assert everything(archive) == before


def test_a_damaged_cell_is_not_sealed_anew(archive: SmallArchive) -> None:
    """A review would renew the seal over rows that nobody wrote: it is refused, and nothing changes."""
    archive.run("UPDATE main.candles SET close = 1 WHERE volume = 75")
    before = everything(archive)
    with pytest.raises(StorageError, match="not those that were sealed, so nothing was changed"):
        review(archive.warehouse, EVERYTHING, "release", "me")
    assert everything(archive) == before


@IN_A_LAKE_TOO
def test_a_failure_in_the_middle_changes_nothing(archive: SmallArchive) -> None:
    """The note is written last; when it is refused, the rows are where they were."""
    before = everything(archive)
    with pytest.raises(StorageError) as caught:
        review(archive.warehouse, EVERYTHING, "burn", "me")  # type: ignore[arg-type] # the table refuses it
    assert "constraint" in str(caught.value).lower()
    assert everything(archive) == before
