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
from expirytrack_dagster.collect.proof import dead_wings, disagreements
from expirytrack_dagster.collect.questions import UNPROVEN, questions
from expirytrack_dagster.collect.staging import SCHEMA, Batch, CellStaging, rows_of
from expirytrack_dagster.collect.states import SEALED, ContractStatus, State
from expirytrack_dagster.errors import MalformedResponse
from expirytrack_dagster.ist import IST
from expirytrack_dagster.observe.logs import about
from expirytrack_dagster.quality.candles import Split, split_candles
from expirytrack_dagster.quality.continuity import merge_minutes, minute_counts

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence
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
    """What to collect and how.

    Of what the archive holds, `sealed` names the contracts whose state is final, `traded` those of them that have
    candles, `partial` those found partial, `odd` those once answered in another shape than the documented one, and
    `oldest` is the day of the oldest candle. `proof_share` is the share of contracts, 0 to 1, whose minutes are
    compared with daily candles beyond need.
    """

    label: str
    contracts: pd.DataFrame
    expiry: date
    sealed: Collection[str]
    traded: Collection[str]
    partial: Collection[str]
    odd: Collection[str]
    oldest: date | None
    proof_share: float
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
        CriticalError: of the token, the plan, the storage or an answer's shape; the work stopped early, what had
            arrived is staged.
        CircuitOpen, StateBusy, VaultBusy: likewise, because nothing can be asked for a while.
    """
    staged = [status for batch in staging.batches() for status in batch.statuses]
    asked = questions(
        request.contracts, final=request.sealed, partial=request.partial, staged=staged, share=request.proof_share
    )
    compared, kept = asked.compared, asked.kept
    odd = {*request.odd, *(s.instrument_key for s in staged if s.error_code == MalformedResponse.__name__)}
    keys = sorted(asked.keys, key=odd.__contains__)  # odd ones last: they keep no other contract from being asked
    staging.forget(set(keys))
    basket = _Basket(request.expiry, staging, now, kept)
    for day in [request.oldest, *(s.first_ts and s.first_ts.astimezone(IST).date() for s in staged)]:
        if day:
            request.minutes.seen(day)
            request.days.seen(day)

    def inquiry(key: str) -> Inquiry:
        spent = kept[key].requests if key in kept else 0
        return Inquiry(
            source,
            key,
            request.expiry,
            request.minutes,
            request.days,
            reconcile=key in compared,
            odd=key in odd,
            requests=spent,
        )

    async def told(key: str, asking: Callable[[Inquiry], Awaitable[Answer]]) -> Answer:
        """Keep in mind which contract was answered in another shape, also when that ends the work."""
        inquired = inquiry(key)
        with about(contract=key):
            try:
                return await asking(inquired)
            except MalformedResponse as error:
                basket.add(Answer.failed(key, error, inquired.requests))
                raise

    async def ask(key: str) -> None:
        answer = await told(key, Inquiry.ask)
        basket.add(answer)  # at once: a worker may be stopped while it waits
        progress.advance(answer)
        await basket.stage_when(request.batch_rows if answer.rows else 0)

    async def prove(key: str) -> None:
        basket.add(await told(key, Inquiry.prove_empty))
        await basket.stage_when(0)

    progress.begin(request.label, len(keys))
    try:
        # What the API does with wide windows shows by daily candles: the first contract that has them finds it out
        # alone, so that the others need not, and those without them come last.
        first = [key for key in keys if key in compared and key not in odd]
        await _all(ask, first[:1], request.workers)
        await _all(ask, first[1:], request.workers)
        await _all(ask, [key for key in keys if key not in first], request.workers)
        await _prove_empties(request, basket, prove)
    finally:
        basket.stage()
        progress.end()
    return staging.batches()


async def _all(work: Callable[[str], Awaitable[None]], keys: Sequence[str], workers: int) -> None:
    """Do the work for every key, some at once; the first error stops all and is raised as it is."""
    waiting = iter(keys)

    async def worker() -> None:
        for key in waiting:
            await work(key)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(workers, len(keys))):
                group.create_task(worker())
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def _prove_empties(request: CellRequest, basket: _Basket, prove: Callable[[str], Awaitable[None]]) -> None:
    """Settle the contracts without minutes: by daily candles, or because they lie in a dead wing.

    When any contract of the cell has daily candles and no minutes, the lack of minutes proves nothing in this cell, and
    the wings are asked as well. A share of them has been: see `to_reconcile`.
    """
    basket.stage()
    empty = {s.instrument_key: s for s in basket.statuses.values() if s.error_code == UNPROVEN}
    quiet = {s.instrument_key for s in basket.statuses.values() if s.status == State.EMPTY_PROVEN} | empty.keys()
    quiet |= set(request.sealed) - set(request.traded)
    traded = {s.instrument_key for s in basket.statuses.values() if s.received} | set(request.traded)
    unknown = set(request.contracts["instrument_key"]) - quiet - traded
    dead = dead_wings(request.contracts, traded, unknown) & empty.keys()
    await _all(prove, [key for key in empty if key not in dead], request.workers)
    basket.stage()
    if any(s.status == State.PARTIAL and not (s.received or s.error_code) for s in basket.statuses.values()):
        await _all(prove, [key for key in empty if key in dead], request.workers)
        return
    for key in dead:
        basket.add(
            Answer(key, State.EMPTY_PROVEN, requests=empty[key].requests, message="No strike farther out ever traded.")
        )


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
        received=sum(s.received for s in statuses),
        duplicates=sum(s.duplicates for s in statuses),
    )


@dataclass(slots=True)
class _Basket:
    """Answers that wait to be validated and staged together; `statuses` are those on disk.

    Staging happens in a thread while answers go on arriving, and once more at the end, perhaps with that thread still
    under way: `_shelf` keeps an answer from being lost or taken twice, `_turn` lets one staging end before the next.
    """

    expiry: date
    staging: CellStaging
    now: Callable[[], datetime]
    statuses: dict[str, ContractStatus]
    answers: list[Answer] = field(default_factory=list)
    rows: int = 0
    _shelf: threading.Lock = field(default_factory=threading.Lock)
    _turn: threading.Lock = field(default_factory=threading.Lock)
    _gate: asyncio.Lock = field(default_factory=asyncio.Lock)

    def add(self, answer: Answer) -> None:
        with self._shelf:
            self.answers.append(answer)
            self.rows += answer.rows

    async def stage_when(self, rows: int) -> None:
        """Stage when so many rows have gathered; whoever comes meanwhile waits, so that memory stays flat.

        With zero rows at once, for an answer without any: no cache keeps it, so a killed run would ask it again.
        """
        if self.rows >= rows:
            async with self._gate:
                if self.rows >= rows:
                    await asyncio.to_thread(self.stage)

    def stage(self) -> None:
        with self._turn:
            with self._shelf:
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
            _reconcile(answer, split)
            candles, first, last = good.get(key, (0, None, None))
            statuses.append(
                ContractStatus(
                    instrument_key=key,
                    status=answer.state or State.PARTIAL,
                    checked_at=self.now(),
                    requests=answer.requests,
                    received=answer.rows,
                    candles=candles,
                    quarantined=int(bad.get(key, 0)),
                    duplicates=int(duplicates.get(key, 0)),
                    first_ts=first,
                    last_ts=last,
                    error_code=answer.error_code if answer.state else UNPROVEN,
                    message=answer.message if answer.state else "The API has no minutes; the proof is outstanding.",
                    agrees=answer.agrees,
                )
            )
        self.staging.write(split.good, split.bad, statuses)
        self.statuses |= {status.instrument_key: status for status in statuses}


def _reconcile(answer: Answer, split: Split) -> None:
    """Compare a complete contract's sound minutes with its daily candles, and name the days that disagree."""
    if answer.days is None or answer.state is not State.COMPLETE:
        return
    minutes = split.good[split.good["instrument_key"] == answer.instrument_key]
    bad = split.bad.loc[split.bad["instrument_key"] == answer.instrument_key, "ts"].dropna()
    days = disagreements(minutes, answer.days, set(bad.dt.tz_convert(IST).dt.date))
    answer.agrees = not days
    if days:
        answer.state = State.PARTIAL
        named = ", ".join(days[:5]) + (f" and {len(days) - 5} more" if len(days) > 5 else "")  # noqa: PLR2004 -- shown
        answer.message = f"Minutes and daily candles disagree on {named}: collect the contract again later."


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
