"""A cell: the order of asking, batches, resuming after any kind of end, and that nothing arrives in vain."""

from __future__ import annotations

import asyncio
import errno
import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from expirytrack_dagster.collect.cell import evidence_of, incomplete
from expirytrack_dagster.collect.questions import asking_order
from expirytrack_dagster.collect.states import ContractStatus, State, status_frame
from expirytrack_dagster.errors import (
    CircuitOpen,
    DiskFull,
    ExpiryTrackError,
    MalformedResponse,
    PlanRequired,
    RequestRefused,
    ServerError,
    TokenRejected,
)
from expirytrack_dagster_tests.statements import sql
from expirytrack_dagster_tests.unit.collect.cells import EXPIRY, MINUTES, NOW, staged_rows, states

if TYPE_CHECKING:
    from expirytrack_dagster_tests.unit.collect.cells import Cell


def test_the_most_traded_contracts_come_first() -> None:
    """The future first, then options from the middle strike outwards, calls and puts in the order listed."""
    frame = pd.DataFrame(
        {
            "instrument_key": ["c1", "p1", "c2", "p2", "c3", "p3", "f"],
            "strike_price": [100.0, 100.0, 150.0, 150.0, 200.0, 200.0, None],
        }
    )
    assert asking_order(frame) == ["f", "c2", "p2", "c1", "p1", "c3", "p3"]
    assert asking_order(frame.iloc[6:]) == ["f"]
    assert asking_order(frame.iloc[:0]) == []


def test_every_contract_is_asked_once_and_staged(cell: Cell) -> None:
    """Those compared with daily candles come first, both kinds from the middle strike outwards, each asked once.

    States carry counts and the first and last minute.
    """
    batches = cell.collect()
    assert len(cell.source.asked) == 5 * 2 + 1
    asked = cell.asked()
    middle = [cell.keys[number] for number in (2, 3, 1, 4, 5, 0)]
    assert asked == middle
    assert cell.followed.told == [("NIFTY 2025-08-28", 6), *(("advance", key) for key in middle), ("end", None)]
    assert staged_rows(batches) == dict.fromkeys(cell.keys, MINUTES)
    status = states(batches)[cell.keys[0]]
    opened = datetime(2025, 8, 28, 3, 45, tzinfo=UTC)
    assert status == ContractStatus(
        instrument_key=cell.keys[0],
        status=State.COMPLETE,
        checked_at=NOW,
        requests=1,
        received=MINUTES,
        candles=MINUTES,
        first_ts=opened,
        last_ts=opened + timedelta(minutes=MINUTES - 1),
    )


@pytest.mark.parametrize("workers", [1, 3, 50])
@pytest.mark.parametrize(("batch_rows", "files"), [(1, 6), (10, 3), (11, 2), (1000, 1)])
def test_batches_are_cut_by_rows(cell: Cell, workers: int, batch_rows: int, files: int) -> None:
    """A basket is staged as soon as it holds enough rows, and no row is lost between baskets."""
    batches = cell.collect(workers=workers, batch_rows=batch_rows)
    assert len(batches) == files if workers == 1 else len(batches) <= files
    assert staged_rows(batches) == dict.fromkeys(cell.keys, MINUTES)
    assert len(states(batches)) == 6


def test_sealed_contracts_are_not_asked(cell: Cell) -> None:
    """What the archive holds for good costs nothing; when that is all, not even a task is started."""
    cell.collect(sealed=cell.keys[:4])
    assert sorted(cell.asked()) == cell.keys[4:]
    cell.staging.clear()
    assert cell.collect(sealed=cell.keys) == []
    assert cell.asked() == []


def test_each_kind_of_answer_gives_its_state(cell: Cell) -> None:
    """Complete, proven empty, partial, refused and failed stand side by side in one cell; malformed is never empty."""
    complete, empty, daily, refused, failed, malformed = cell.keys
    cell.source.days = {complete: [EXPIRY]}
    cell.source.daily = {daily: [EXPIRY]}
    cell.source.faults = {
        refused: RequestRefused("no", status=400, code="UDAPI100011"),
        failed: ServerError("500", status=500),
        malformed: MalformedResponse("another shape"),
    }
    found = states(cell.collect(workers=3, odd=[malformed]))
    assert {key: (str(status.status), status.error_code) for key, status in found.items()} == {
        complete: ("complete", None),
        empty: ("empty_proven", None),
        daily: ("partial", None),
        refused: ("refused", "UDAPI100011"),
        failed: ("failed", "ServerError"),
        malformed: ("failed", "MalformedResponse"),
    }
    cell.asked()
    cell.source.faults.clear()
    again = states(cell.collect())
    assert sorted(cell.asked()) == [daily, refused, failed, malformed]
    assert len(again) == 6


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("error", [TokenRejected("dead"), PlanRequired("no plan"), CircuitOpen("open")], ids=str)
def test_a_critical_error_keeps_what_arrived(cell: Cell, workers: int, error: ExpiryTrackError) -> None:
    """A token that dies in the middle ends the work with that error; the next run asks only for the rest."""
    cell.source.fault = lambda *_: error if cell.minutes_asked() > 3 else None
    with pytest.raises(type(error)):
        cell.collect(workers=workers)
    assert cell.followed.told[-1] == ("end", None)
    arrived = staged_rows(cell.staging.batches())
    assert len(arrived) == 3
    cell.asked()
    cell.source.fault = lambda *_: None
    batches = cell.collect(workers=workers)
    assert set(cell.asked()) == set(cell.keys) - set(arrived)
    assert staged_rows(batches) == dict.fromkeys(cell.keys, MINUTES)


def test_cancelling_keeps_what_arrived_once(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is cancelled while a batch is being staged stages every answer exactly once."""
    late = cell.source.get_historical_data

    async def slow(*request: Any) -> Any:
        if "1minute" in request and cell.minutes_asked() >= 4:
            await asyncio.sleep(0)  # lets the stage under way begin
            raise TokenRejected("dead")
        return await late(*request)

    monkeypatch.setattr(cell.source, "get_historical_data", slow)
    for _ in range(3):
        with pytest.raises(TokenRejected):
            cell.collect(workers=6, batch_rows=1)
        counts = staged_rows(cell.staging.batches())
        assert set(counts.values()) == {MINUTES}
        assert len(counts) == 4
        cell.source.asked.clear()
        cell.staging.clear()


def test_a_damaged_batch_is_asked_again(cell: Cell) -> None:
    """Contracts whose staged file was damaged are asked again, and no others."""
    batches = cell.collect(batch_rows=10)
    hurt = batches[1]
    hurt.path.write_bytes(hurt.path.read_bytes()[:-7])
    cell.asked()
    assert staged_rows(cell.collect()) == dict.fromkeys(cell.keys, MINUTES)
    assert set(cell.asked()) == {status.instrument_key for status in hurt.statuses}


def test_a_partial_contract_is_replaced_not_added_to(cell: Cell) -> None:
    """Rows of an unfinished contract that is asked again take the place of the earlier ones."""
    first = cell.keys[0]
    cell.source.days[first] = [EXPIRY, EXPIRY - timedelta(days=40)]
    refusal = RequestRefused("no", status=400, code="UDAPI100011")
    cell.source.fault = lambda key, _interval, last: refusal if key == first and last < EXPIRY else None
    with cell.state.transaction() as connection:
        connection.execute(sql("INSERT INTO learned VALUES ('window_days/1minute', '5', 0)"))
    assert states(cell.collect())[first].status == "partial"
    cell.source.fault = lambda *_: None
    with cell.state.transaction() as connection:
        connection.execute(sql("DELETE FROM learned"))
    batches = cell.collect()
    assert states(batches)[first].status == "complete"
    assert staged_rows(batches)[first] == 2 * MINUTES


def test_a_full_disk_is_told_and_loses_nothing_staged(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk fills up, the error says so, no half file stands, and the next run goes on from there."""
    real, calls = os.fsync, []

    def fills_up(file: int) -> None:
        calls.append(file)
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fills_up)
        with pytest.raises(DiskFull):
            cell.collect(batch_rows=1)
    assert len(staged_rows(cell.staging.batches())) == 2
    assert not list(cell.staging.folder.glob("*.part"))
    cell.asked()
    assert staged_rows(cell.collect(batch_rows=1)) == dict.fromkeys(cell.keys, MINUTES)
    assert len(cell.asked()) == 4


def test_bad_and_repeated_rows_are_counted(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows received = candles + quarantined + duplicates, in the states and in the evidence."""
    first, second = cell.keys[:2]
    late = cell.source.get_historical_data

    async def spoilt(expired_key: str, *request: Any) -> Any:
        candles = await late(expired_key, *request)
        if "1minute" not in request:
            return candles
        if expired_key == first:  # every row twice
            return type(candles)(candles.table.take([*range(MINUTES), *range(MINUTES)]), 0, 1)
        if expired_key == second:  # no high is the highest
            return type(candles)(candles.table.set_column(2, "high", [[1.0] * MINUTES]), 0, 1)
        return candles

    monkeypatch.setattr(cell.source, "get_historical_data", spoilt)
    batches = cell.collect()
    found = states(batches)
    assert (found[first].candles, found[first].quarantined, found[first].duplicates) == (MINUTES, 0, MINUTES)
    assert (found[second].candles, found[second].quarantined, found[second].first_ts) == (0, MINUTES, None)
    assert found[second].status == "complete", "days with rows in quarantine need not agree with their daily candles"
    evidence = evidence_of(batches)
    assert (evidence.received, evidence.duplicates, len(evidence.bad)) == (7 * MINUTES, MINUTES, MINUTES)
    assert evidence.minutes["contracts"].tolist() == [5] * MINUTES


def test_evidence_of_nothing() -> None:
    """No batch gives empty evidence with its columns."""
    evidence = evidence_of([])
    assert (len(evidence.bad), len(evidence.minutes), evidence.received) == (0, 0, 0)
    assert list(evidence.minutes.columns) == ["ts", "contracts", "traded"]


def test_unfinished_states_are_those_that_are_not_final() -> None:
    """Only complete and proven empty are left out."""
    frame = status_frame([ContractStatus(instrument_key=state, status=state, checked_at=NOW) for state in State])
    assert incomplete(frame)["instrument_key"].tolist() == ["partial", "refused", "failed"]
