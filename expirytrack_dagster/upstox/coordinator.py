"""The one coordinator of a client's requests: who gets the next slot, and how many of a stage are under way at once.

Queueing, priorities, worker counts, and asking the ledger on behalf of all waiters belong here. Whether a slot is free
belongs to `ledger.py`, what is sent to `client.py`.

- Discovery goes before contracts, contracts before candles; within a stage, first come first served. A stage that was
  passed over `PATIENCE` times in a row while it could have gone is next, so nothing starves.
- Of all that wait for the same limits, one task asks the ledger and sleeps; the database is not polled by each.
- The ledger runs in a thread of its own: neither a lock that another process holds nor a checkpoint of SQLite keeps
  the event loop from reading answers.
"""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

from expirytrack_dagster.observe.metrics import metrics
from expirytrack_dagster.upstox.ledger import Wait

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from expirytrack_dagster.upstox.calls import Call, Endpoint, Receipt
    from expirytrack_dagster.upstox.clock import Clock
    from expirytrack_dagster.upstox.ledger import Ledger

PATIENCE = 10
T = TypeVar("T")


class Stage(IntEnum):
    """The stages of a collection, the most urgent first: each one is of no use before the one above it."""

    DISCOVERY = 0
    CONTRACTS = 1
    CANDLES = 2


_STAGES: dict[Endpoint, Stage] = {
    "profile": Stage.DISCOVERY,
    "expiries": Stage.DISCOVERY,
    "option_contracts": Stage.CONTRACTS,
    "future_contracts": Stage.CONTRACTS,
    "candles": Stage.CANDLES,
}


class Line(Generic[T]):
    """Those who wait for the same limits, by stage; decides who is next."""

    def __init__(self) -> None:
        """Begin with nobody."""
        self._waiting: dict[Stage, deque[T]] = {stage: deque() for stage in Stage}
        self._passed_over = dict.fromkeys(Stage, 0)

    def join(self, stage: Stage, waiter: T) -> None:
        """Add somebody behind all others of the stage."""
        self._waiting[stage].append(waiter)

    def leave(self, stage: Stage, waiter: T) -> None:
        """Remove somebody who no longer waits."""
        self._waiting[stage].remove(waiter)

    def clear(self) -> list[T]:
        """Remove and return everybody."""
        everybody = [waiter for waiting in self._waiting.values() for waiter in waiting]
        for waiting in self._waiting.values():
            waiting.clear()
        return everybody

    def next(self, has_room: Callable[[Stage], bool]) -> tuple[Stage, T] | None:
        """Return who is next among the stages that have room, without removing them; None if nobody can go."""
        able = self._able(has_room)
        if not able:
            return None
        impatient = [stage for stage in able if self._passed_over[stage] >= PATIENCE]
        stage = max(impatient, key=self._passed_over.__getitem__) if impatient else able[0]
        return stage, self._waiting[stage][0]

    def serve(self, stage: Stage, waiter: T, has_room: Callable[[Stage], bool]) -> None:
        """Remove somebody who got a slot, and count for the less urgent stages that they were passed over."""
        for other in self._able(has_room):
            if other > stage:
                self._passed_over[other] += 1
        self._passed_over[stage] = 0
        self.leave(stage, waiter)

    def _able(self, has_room: Callable[[Stage], bool]) -> list[Stage]:
        return [stage for stage, waiting in self._waiting.items() if waiting and has_room(stage)]


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    """One request that wants a slot; `slot` becomes its id in the ledger."""

    call: Call
    attempt: int
    slot: asyncio.Future[int]


class Coordinator:
    """Gives the slots of a ledger to the requests of one client; belongs to one event loop.

    Args:
        ledger: The ledger that all processes of the account share.
        clock: Sleeps while no slot is free.
        workers: Requests of each stage that may be under way at once.
        lease: Seconds after which a request cannot be under way any more.
        run_id: The run that pays.

    Attributes:
        waited: Seconds during which the limits held requests back.
    """

    def __init__(
        self, ledger: Ledger, clock: Clock, workers: Mapping[Stage, int], *, lease: float, run_id: str | None
    ) -> None:
        """Keep the parts; the thread begins with the first request."""
        self._ledger = ledger
        self._clock = clock
        self._free = dict(workers)
        self._lease = lease
        self._run_id = run_id
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")
        self._lines: dict[str, Line[_Waiter]] = {}
        self._serving: dict[str, asyncio.Task[None]] = {}
        self.waited = 0.0

    async def close(self) -> None:
        """End the waiting; slots that nobody took are given back."""
        for task in list(self._serving.values()):
            task.cancel()
        await asyncio.gather(*self._serving.values(), return_exceptions=True)
        self._thread.shutdown()

    @asynccontextmanager
    async def slot(self, call: Call, attempt: int) -> AsyncIterator[int]:
        """Wait for a slot and give its id; the stage's place is kept until the block ends.

        Raises:
            CircuitOpen: nobody asks the API for a while.
            StateBusy, StorageError: the ledger cannot be asked.
        """
        stage, scope = _STAGES[call.endpoint], self._ledger.scope_of(call.endpoint)
        line = self._lines.setdefault(scope, Line())
        waiter = _Waiter(call, attempt, asyncio.get_running_loop().create_future())
        line.join(stage, waiter)
        self._serve(scope)
        waiting = metrics().queue_length.labels(stage.name.lower())
        waiting.inc()
        try:
            request_id = await waiter.slot
        except asyncio.CancelledError:
            if waiter.slot.cancelled():
                line.leave(stage, waiter)
            elif waiter.slot.exception() is None:  # granted in the same turn of the loop that brought the cancellation
                await self._in_thread(partial(self._ledger.give_back, waiter.slot.result()))
                self._end(stage)
            raise
        finally:
            waiting.dec()
        try:
            with metrics().active_workers.labels(stage.name.lower()).track_inprogress():
                yield request_id
        finally:
            self._end(stage)

    async def settle(self, request_id: int, receipt: Receipt) -> None:
        """Record what became of a request, even if the caller is cancelled meanwhile."""
        await self._in_thread(partial(self._ledger.settle, request_id, receipt))

    async def give_back(self, request_id: int) -> None:
        """Undo the taking of a slot for which nothing was sent."""
        await self._in_thread(partial(self._ledger.give_back, request_id))

    async def refuse(self, request_id: int, retry_after: float | None, reason: str) -> bool:
        """Pause every process after a refusal; False when pausing has been tried for long enough."""
        return await self._in_thread(partial(self._ledger.refuse, request_id, retry_after, reason))

    def _end(self, stage: Stage) -> None:
        self._free[stage] += 1
        for scope in self._lines:
            self._serve(scope)

    def _has_room(self, stage: Stage) -> bool:
        return self._free[stage] > 0

    def _serve(self, scope: str) -> None:
        """Have one task, and no more, ask for the scope's waiters as long as any of them can go."""
        if scope not in self._serving and self._lines[scope].next(self._has_room) is not None:
            self._serving[scope] = asyncio.create_task(self._serve_all(scope), name=f"slots of {scope}")

    async def _serve_all(self, scope: str) -> None:
        line = self._lines[scope]
        try:
            while (chosen := line.next(self._has_room)) is not None:
                stage, waiter = chosen
                self._free[stage] -= 1  # before the ledger is asked: another scope may serve the same stage
                taken = False
                try:
                    slot = await self._acquire(waiter)
                    taken = isinstance(slot, int) and not waiter.slot.done()
                finally:
                    self._free[stage] += 1
                if isinstance(slot, Wait):
                    self.waited += slot.seconds
                    await self._clock.sleep(slot.seconds)
                elif taken:
                    line.serve(stage, waiter, self._has_room)
                    self._free[stage] -= 1
                    waiter.slot.set_result(slot)
                else:  # cancelled while the ledger was asked
                    await self._in_thread(partial(self._ledger.give_back, slot))
        except Exception as error:  # noqa: BLE001 -- whatever it is, those who wait must hear of it
            for waiter in line.clear():
                if not waiter.slot.done():
                    waiter.slot.set_exception(error)
        finally:
            del self._serving[scope]

    async def _acquire(self, waiter: _Waiter) -> int | Wait:
        ask = partial(self._ledger.acquire, waiter.call, attempt=waiter.attempt, lease=self._lease, run_id=self._run_id)
        asked = asyncio.get_running_loop().run_in_executor(self._thread, ask)
        try:
            return await asyncio.shield(asked)
        except asyncio.CancelledError:
            if isinstance(slot := await asked, int):
                await self._in_thread(partial(self._ledger.give_back, slot))
            raise

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Run a short piece of ledger work to its end, whatever happens to the caller."""
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, work))
