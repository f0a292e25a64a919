"""The candles of one cell (an underlying at an expiry): from a list of contracts to staged batches.

Some requests are under way at once; their answers gather in a basket, and a full basket is validated and staged while
the next answers arrive, so that memory does not grow with the cell. Whatever ends the work early, answers that have
arrived are staged first. One contract is `contract.py`, the files are `staging.py`, the rules are `quality/`.
"""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa

from expirytrack_dagster.collect.contract import Answer, CandleSource, Inquiry
from expirytrack_dagster.collect.staging import SCHEMA, Batch, CellStaging, rows_of
from expirytrack_dagster.collect.states import SEALED, ContractStatus
from expirytrack_dagster.quality.candles import split_candles
from expirytrack_dagster.quality.continuity import merge_minutes, minute_counts

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from datetime import date

    from expirytrack_dagster.collect.progress import Progress
    from expirytrack_dagster.collect.windows import Windows

_NO_ROWS = pa.schema(
    [
        ("ts", pa.timestamp("us", tz="UTC")),
        *((name, pa.float64()) for name in ("open", "high", "low", "close")),
        ("volume", pa.int64()),
        ("open_interest", pa.int64()),
    ]
).empty_table()


@dataclass(frozen=True, slots=True, kw_only=True)
class CellRequest:
    """What to collect and how: `sealed` names contracts whose candles the archive holds for good."""

    label: str
    contracts: pd.DataFrame
    expiry: date
    sealed: Collection[str]
    minutes: Windows
    days: Windows
    workers: int
    batch_rows: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a set of staged batches proves, for the checks.

    `minutes` has one row a minute of the chain (ts, contracts, traded), `bad` the rows for quarantine.
    """

    minutes: pd.DataFrame
    bad: pd.DataFrame
    received: int
    duplicates: int


async def collect_cell(
    source: CandleSource,
    request: CellRequest,
    staging: CellStaging,
    progress: Progress,
    now: Callable[[], datetime] = lambda: datetime.now(tz=UTC),
) -> list[Batch]:
    """Ask for every contract of the cell that is not sealed, and return all that is staged.

    Raises:
        CriticalError: of the token, the plan or the storage; the work stopped early, what had arrived is staged.
    """
    staged = staging.batches()
    settled = {s.instrument_key for batch in staged for s in batch.statuses if s.status in SEALED}
    keys = [key for key in asking_order(request.contracts) if key not in request.sealed and key not in settled]
    staging.forget(set(keys))
    basket = _Basket(request.expiry, staging, now)
    waiting = iter(keys)
    gate = asyncio.Lock()

    async def work() -> None:
        for key in waiting:
            answer = await Inquiry(source, key, request.expiry, request.minutes, request.days).ask()
            async with gate:
                basket.add(answer)
                progress.advance(answer)
                if basket.rows >= request.batch_rows:
                    await asyncio.to_thread(basket.stage)

    progress.begin(request.label, len(keys))
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(request.workers, len(keys))):
                group.create_task(work())
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    finally:
        basket.stage()
        progress.end()
    return staging.batches()


def asking_order(contracts: pd.DataFrame) -> list[str]:
    """Return the keys, the most useful first: the future, then options from the middle strike outwards.

    A run that is stopped early leaves the strikes that traded most, not all strikes of one side.
    """
    middle = contracts["strike_price"].median()
    distance = (contracts["strike_price"] - middle).abs().fillna(-1.0)
    return [str(key) for key in contracts.loc[distance.sort_values(kind="stable").index, "instrument_key"]]


def evidence_of(batches: Sequence[Batch]) -> Evidence:
    """Read back what was staged, one file at a time."""
    columns = ["instrument_key", "ts", "open", "high", "low", "close", "volume", "open_interest", "rule", "detail"]
    minutes, bad = [], []
    for frame in rows_of(batches, columns):
        broken = frame["rule"].notna()
        minutes.append(minute_counts(frame.loc[~broken, ["instrument_key", "ts", "volume"]]))
        bad.append(frame[broken])
    statuses = [status for batch in batches for status in batch.statuses]
    return Evidence(
        minutes=merge_minutes(minutes),
        bad=pd.concat(bad, ignore_index=True) if bad else SCHEMA.empty_table().to_pandas()[columns],
        received=sum(s.candles + s.quarantined + s.duplicates for s in statuses),
        duplicates=sum(s.duplicates for s in statuses),
    )


@dataclass(slots=True)
class _Basket:
    """Answers that wait to be validated and staged together.

    Staging happens in a thread, and once more at the end; the lock keeps an answer from being staged twice when the
    work is stopped while that thread is under way.
    """

    expiry: date
    staging: CellStaging
    now: Callable[[], datetime]
    answers: list[Answer] = field(default_factory=list)
    rows: int = 0
    turn: threading.Lock = field(default_factory=threading.Lock)

    def add(self, answer: Answer) -> None:
        self.answers.append(answer)
        self.rows += answer.rows

    def stage(self) -> None:
        with self.turn:
            answers, self.answers, self.rows = self.answers, [], 0
            if answers:
                self._write(answers)

    def _write(self, answers: Sequence[Answer]) -> None:
        split = split_candles(_frame(answers), self.expiry)
        spans = split.good.groupby("instrument_key", observed=True)["ts"].agg(["size", "min", "max"])
        good = {
            str(key): (int(size), first.to_pydatetime(), last.to_pydatetime())
            for key, size, first, last in spans.itertuples(name=None)
        }
        bad = split.bad["instrument_key"].value_counts().to_dict()
        duplicates = split.exact_duplicates.to_dict()
        statuses = []
        for answer in answers:
            key = answer.instrument_key
            candles, first, last = good.get(key, (0, None, None))
            statuses.append(
                ContractStatus(
                    instrument_key=key,
                    status=answer.state,
                    checked_at=self.now(),
                    requests=answer.requests,
                    candles=candles,
                    quarantined=int(bad.get(key, 0)),
                    duplicates=int(duplicates.get(key, 0)),
                    first_ts=first,
                    last_ts=last,
                    error_code=answer.error_code,
                    message=answer.message,
                )
            )
        self.staging.write(split.good, split.bad, statuses)


def _frame(answers: Sequence[Answer]) -> pd.DataFrame:
    """Join the tables of many contracts, their keys as a categorical column (one code a row, not one string)."""
    keys = [answer.instrument_key for answer in answers]
    codes = np.repeat(np.arange(len(answers), dtype=np.int32), [answer.rows for answer in answers])
    tables = [table for answer in answers for table in answer.tables] or [_NO_ROWS]
    frame: pd.DataFrame = pa.concat_tables(tables).to_pandas()
    labels = pd.Categorical.from_codes(codes, categories=pd.Index(keys, dtype="str"))
    return frame.assign(instrument_key=labels)


def incomplete(statuses: pd.DataFrame) -> pd.DataFrame:
    """Return the contracts that are not final."""
    return statuses[~statuses["status"].isin([str(state) for state in SEALED])]
