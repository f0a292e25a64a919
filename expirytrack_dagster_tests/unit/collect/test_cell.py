"""A cell: the order of asking, batches, resuming after any kind of end, and that nothing arrives in vain."""

from __future__ import annotations

import asyncio
import errno
import os
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from expirytrack_dagster.collect.cell import CellRequest, asking_order, collect_cell, evidence_of, incomplete
from expirytrack_dagster.collect.contract import DAYS
from expirytrack_dagster.collect.staging import Batch, CellStaging
from expirytrack_dagster.collect.states import ContractStatus, State, status_frame
from expirytrack_dagster.collect.windows import Windows
from expirytrack_dagster.errors import (
    DiskFull,
    ExpiryTrackError,
    MalformedResponse,
    PlanRequired,
    RequestRefused,
    ServerError,
    TokenRejected,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from expirytrack_dagster.collect.contract import Answer
    from expirytrack_dagster.state import StateDatabase
    from expirytrack_dagster_tests.unit.collect.conftest import Source

EXPIRY = date(2025, 8, 28)
NOW = datetime(2025, 9, 1, 12, tzinfo=UTC)
MINUTES = 5


@dataclass
class Followed:
    """Remembers what was told of the progress."""

    told: list[tuple[str, Any]] = field(default_factory=list)

    def begin(self, label: str, total: int) -> None:
        """Remember the beginning."""
        self.told.append((label, total))

    def advance(self, answer: Answer) -> None:
        """Remember the contract."""
        self.told.append(("advance", answer.instrument_key))

    def end(self) -> None:
        """Remember the end."""
        self.told.append(("end", None))


def keys_of(size: int) -> list[str]:
    """Return the keys of a chain of this size."""
    return [f"NSE_FO|{35_000 + number}|28-08-2025" for number in range(size)]


@dataclass
class Cell:
    """A chain over a source, collected into one folder as often as a test likes."""

    source: Source
    state: StateDatabase
    staging: CellStaging
    size: int = 6
    followed: Followed = field(default_factory=Followed)

    def __post_init__(self) -> None:
        """Let every contract have traded on its last day."""
        self.keys = keys_of(self.size)
        self.source.minutes = MINUTES
        self.source.days = {key: [EXPIRY] for key in self.keys}

    def collect(self, *, sealed: Sequence[str] = (), workers: int = 1, batch_rows: int = 100_000) -> list[Batch]:
        """Run once."""
        strikes = pd.Series([24_000.0 + 50 * number for number in range(self.size)])
        request = CellRequest(
            label="NIFTY 2025-08-28",
            contracts=pd.DataFrame({"instrument_key": self.keys, "strike_price": strikes}),
            expiry=EXPIRY,
            sealed=sealed,
            minutes=Windows(self.state, 1830),
            days=Windows(self.state, 1830, DAYS),
            workers=workers,
            batch_rows=batch_rows,
        )
        return asyncio.run(collect_cell(self.source, request, self.staging, self.followed, now=lambda: NOW))

    def asked(self) -> list[str]:
        """Return the contracts asked since the last call, in order, each once."""
        keys = list(dict.fromkeys(key for key, *_ in self.source.asked))
        self.source.asked.clear()
        return keys


@pytest.fixture
def cell(source: Source, state: StateDatabase, tmp_path: Path) -> Cell:
    """Give six contracts that traded for five minutes each."""
    return Cell(source, state, CellStaging(tmp_path / "staging"))


def states(batches: Sequence[Batch]) -> dict[str, ContractStatus]:
    """Return the staged states by contract; each contract must have one."""
    found = [status for batch in batches for status in batch.statuses]
    assert len({status.instrument_key for status in found}) == len(found)
    return {status.instrument_key: status for status in found}


def staged_rows(batches: Sequence[Batch]) -> dict[str, int]:
    """Return the number of staged rows by contract."""
    columns = [pq.read_table(batch.path, columns=["instrument_key"]).to_pandas() for batch in batches]
    return pd.concat(columns)["instrument_key"].value_counts().to_dict() if columns else {}


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
    """All contracts in the order of asking, one request each; states carry counts and the first and last minute."""
    batches = cell.collect()
    asked = cell.asked()
    middle = [cell.keys[number] for number in (2, 3, 1, 4, 0, 5)]
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
        candles=MINUTES,
        first_ts=opened,
        last_ts=opened + timedelta(minutes=MINUTES - 1),
    )


@pytest.mark.parametrize("workers", [1, 3, 50])
@pytest.mark.parametrize(("batch_rows", "files"), [(1, 6), (10, 3), (11, 2), (1000, 1)])
def test_batches_are_cut_by_rows(cell: Cell, workers: int, batch_rows: int, files: int) -> None:
    """A basket is staged as soon as it holds enough rows, and no row is lost between baskets."""
    batches = cell.collect(workers=workers, batch_rows=batch_rows)
    assert len(batches) == files
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
    found = states(cell.collect(workers=3))
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
@pytest.mark.parametrize("error", [TokenRejected("dead"), PlanRequired("no plan")], ids=str)
def test_a_critical_error_keeps_what_arrived(cell: Cell, workers: int, error: ExpiryTrackError) -> None:
    """A token that dies in the middle ends the work with that error; the next run asks only for the rest."""
    cell.source.fault = lambda *_: error if len(cell.source.asked) > 3 else None
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


def test_cancelling_keeps_what_arrived_once(cell: Cell) -> None:
    """A run that is cancelled while a batch is being staged stages every answer exactly once."""
    late = cell.source.get_historical_data

    async def slow(*request: Any) -> Any:
        if len(cell.source.asked) >= 4:
            await asyncio.sleep(0)  # lets the stage under way begin
            raise TokenRejected("dead")
        return await late(*request)

    cell.source.get_historical_data = slow  # type: ignore[method-assign] # the API that dies at the fifth request
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
    cell.state.transaction().__enter__().execute("INSERT INTO learned VALUES ('window_days/1minute', '1', 0)")
    cell.state.close()
    with cell.state.transaction() as connection:
        connection.execute("INSERT OR REPLACE INTO learned VALUES ('window_days/1minute', '5', 0)")
    assert states(cell.collect())[first].status == "partial"
    cell.source.fault = lambda *_: None
    with cell.state.transaction() as connection:
        connection.execute("DELETE FROM learned")
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


def test_bad_and_repeated_rows_are_counted(cell: Cell) -> None:
    """Rows received = candles + quarantined + duplicates, in the states and in the evidence."""
    first, second = cell.keys[:2]
    late = cell.source.get_historical_data

    async def spoilt(expired_key: str, *request: Any) -> Any:
        candles = await late(expired_key, *request)
        if expired_key == first:  # every row twice
            return type(candles)(candles.table.take([*range(MINUTES), *range(MINUTES)]), 0, 1)
        if expired_key == second:  # no high is the highest
            return type(candles)(candles.table.set_column(2, "high", [[1.0] * MINUTES]), 0, 1)
        return candles

    cell.source.get_historical_data = spoilt  # type: ignore[method-assign] # an API with faults in its data
    batches = cell.collect()
    found = states(batches)
    assert (found[first].candles, found[first].quarantined, found[first].duplicates) == (MINUTES, 0, MINUTES)
    assert (found[second].candles, found[second].quarantined, found[second].first_ts) == (0, MINUTES, None)
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
