"""The coordinator: order, no starvation, worker counts, cancellation without loss, and one asker a scope."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expirytrack_dagster.errors import CircuitOpen, StateLocked
from expirytrack_dagster.settings import RateLimit
from expirytrack_dagster.state import StateDatabase
from expirytrack_dagster.upstox.calls import Call, Endpoint, Receipt
from expirytrack_dagster.upstox.coordinator import PATIENCE, Coordinator, Line, Stage
from expirytrack_dagster.upstox.ledger import RequestLedger, Wait, account_scope, family_scope
from expirytrack_dagster_tests.engines import Engine, HostClock
from expirytrack_dagster_tests.statements import sql

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

WORKERS = {Stage.DISCOVERY: 1, Stage.CONTRACTS: 5, Stage.CANDLES: 10}
ENDPOINTS: dict[Stage, Endpoint] = {
    Stage.DISCOVERY: "expiries",
    Stage.CONTRACTS: "option_contracts",
    Stage.CANDLES: "candles",
}


class SleepingClock(HostClock):
    """Moves only by sleeping, and lets everything that is ready run first."""

    def __init__(self, engine: Engine) -> None:
        """Begin with no sleeps."""
        super().__init__(engine, time=1_750_000_000.0)
        self.sleeps: list[float] = []

    async def sleep(self, seconds: float) -> None:
        """Move the time without waiting."""
        self.sleeps.append(seconds)
        for _ in range(20):
            await asyncio.sleep(0)
        await super().sleep(seconds)


@dataclass
class Counting(RequestLedger):
    """A real ledger that counts how often it is asked, and can be made to fail."""

    asked: int = 0
    error: Exception | None = None
    given_back: list[int] = field(default_factory=list)

    def __init__(self, *args: Any, **options: Any) -> None:
        """Build the real one."""
        super().__init__(*args, **options)
        self.asked, self.error, self.given_back = 0, None, []

    def acquire(self, call: Call, *, attempt: int = 1, lease: float = 60.0, run_id: str | None = None) -> int | Wait:
        """Count and pass on."""
        self.asked += 1
        if self.error:
            raise self.error
        return super().acquire(call, attempt=attempt, lease=lease, run_id=run_id)

    def give_back(self, request_id: int) -> None:
        """Remember and pass on."""
        self.given_back.append(request_id)
        super().give_back(request_id)


class Room:
    """A coordinator over a real ledger with a fake clock, and what went on in it."""

    def __init__(self, engine: Engine, limits: tuple[RateLimit, ...], scope_of: Callable[[Endpoint], str]) -> None:
        """Open the database."""
        self.clock = SleepingClock(engine)
        self.state = StateDatabase(engine.fresh())
        self.ledger = Counting(self.state, limits, clock=self.clock, scope_of=scope_of)
        self.served: list[str] = []
        self.under_way: Counter[Stage] = Counter()
        self.most: Counter[Stage] = Counter()

    async def request(self, stage: Stage, name: str = "", hold: int = 1) -> None:
        """Be one request."""
        async with self.coordinator.slot(Call(ENDPOINTS[stage], name), 1) as slot:
            self.served.append(name)
            self.under_way[stage] += 1
            self.most[stage] = max(self.most[stage], self.under_way[stage])
            for _ in range(hold):
                await asyncio.sleep(0.001)
            self.under_way[stage] -= 1
            await self.coordinator.settle(slot, Receipt("ok", counted_at=self.clock.now(), status=200))

    def run(self, script: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a script in a loop of its own."""

        async def main() -> None:
            self.coordinator = Coordinator(self.ledger, self.clock, WORKERS, lease=60, run_id=None)
            await script()
            await self.coordinator.close()

        asyncio.run(main())
        self.state.close()

    def rows(self) -> int:
        """Return the number of requests in the ledger."""
        return int(self.state.query(sql("SELECT count(*) FROM requests"))[0][0])


LATER = RateLimit(60, 1)
"""One request a minute: whoever comes first makes all others wait."""


def room(engine: Engine, *limits: RateLimit, scope_of: Callable[[Endpoint], str] = account_scope) -> Room:
    """Give a room with these limits."""
    return Room(engine, limits, scope_of)


def test_discovery_before_contracts_before_candles_each_in_order(engine: Engine) -> None:
    """Whatever the order of asking, the more urgent stage gets the next slot; equals keep their order."""
    here = room(engine, LATER)

    async def script() -> None:
        tasks = [asyncio.create_task(here.request(Stage.CANDLES, "first"))]
        await asyncio.sleep(0.05)
        for stage in (Stage.CANDLES, Stage.CONTRACTS, Stage.DISCOVERY, Stage.CONTRACTS, Stage.CANDLES):
            tasks.append(asyncio.create_task(here.request(stage, f"{stage.name} {len(tasks)}")))
        await asyncio.gather(*tasks)

    here.run(script)
    assert here.served == ["first", "DISCOVERY 3", "CONTRACTS 2", "CONTRACTS 4", "CANDLES 1", "CANDLES 5"]


@given(st.lists(st.sampled_from([*Stage, None]), max_size=300))
def test_no_stage_is_passed_over_for_long(steps: list[Stage | None]) -> None:
    """Joining in any order, a stage that waits is passed over a bounded number of times; equals in order."""
    line, number, passed_over = Line[tuple[Stage, int]](), 0, Counter[Stage]()
    waiting: dict[Stage, list[int]] = {stage: [] for stage in Stage}
    for step in [*steps, *[None] * len(steps)]:
        if step is not None:
            number += 1
            line.join(step, (step, number))
            waiting[step].append(number)
            continue
        chosen = line.next(lambda _: True)
        if chosen is None:
            assert not any(waiting.values())
            continue
        stage, (_, who) = chosen
        line.serve(*chosen, lambda _: True)
        assert waiting[stage].pop(0) == who
        passed_over[stage] = 0
        for other in Stage:
            if other != stage and waiting[other]:
                passed_over[other] += 1
                assert passed_over[other] <= PATIENCE + 2
            elif not waiting[other]:
                passed_over[other] = 0


def test_stages_keep_to_their_workers(engine: Engine) -> None:
    """One discovery, five contracts and ten candles at once, and all of them at the same time; nothing is left over."""
    here = room(engine)

    async def script() -> None:
        await asyncio.gather(*(here.request(stage, hold=20) for stage in Stage for _ in range(40)))

    here.run(script)
    assert here.most == WORKERS
    assert here.rows() == 120


def test_families_share_the_workers_of_a_stage(engine: Engine) -> None:
    """Profile and expiries have limits of their own there, but discovery is still one request at a time."""
    here = room(engine, scope_of=family_scope)

    async def script() -> None:
        async with here.coordinator.slot(Call("profile"), 1):
            task = asyncio.create_task(here.request(Stage.DISCOVERY, "expiries"))
            await asyncio.sleep(0.05)
            assert here.served == []
        await task

    here.run(script)
    assert here.served == ["expiries"]


def test_one_of_many_waiters_asks_the_ledger(engine: Engine) -> None:
    """Fifty requests that wait for the same window cost one question a slot and one a wait."""
    here = room(engine, RateLimit(60, 10))

    async def script() -> None:
        await asyncio.gather(*(here.request(Stage.CANDLES) for _ in range(50)))

    here.run(script)
    assert here.rows() == 50
    assert here.ledger.asked <= 50 + len(here.clock.sleeps)
    assert here.coordinator.waited == pytest.approx(sum(here.clock.sleeps))


@pytest.mark.parametrize("turns", range(12))
def test_cancelled_waiter_loses_no_slot_and_stops_nobody(engine: Engine, turns: int) -> None:
    """Cancelled at any turn of the loop, before, while or after the ledger is asked: the others are served."""
    here = room(engine, RateLimit(60, 3))

    async def script() -> None:
        tasks = [asyncio.create_task(here.request(Stage.CANDLES, str(number))) for number in range(4)]
        for _ in range(turns):
            await asyncio.sleep(0 if turns % 2 else 0.0003)
        for task in tasks[:2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await here.request(Stage.CANDLES, "last")

    here.run(script)
    assert here.served[-3:] == ["2", "3", "last"]
    assert here.rows() == len(here.served)
    for slot in here.ledger.given_back:
        assert here.state.query(sql("SELECT outcome FROM requests WHERE id = ?", slot)) in ([], [("ok",)])


def test_slot_granted_in_the_turn_of_the_cancellation_is_given_back(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The narrowest moment: the slot is given, and before its waiter runs again it is cancelled."""
    here = room(engine, RateLimit(60, 1))
    serve = Line.serve

    async def script() -> None:
        task = asyncio.create_task(here.request(Stage.CANDLES, "cancelled"))

        def serve_and_cancel(*arguments: Any) -> None:
            serve(*arguments)
            asyncio.get_running_loop().call_soon(task.cancel)  # before the callbacks of the slot that comes next

        monkeypatch.setattr(Line, "serve", serve_and_cancel)
        with pytest.raises(asyncio.CancelledError):
            await task
        monkeypatch.undo()
        assert len(here.ledger.given_back) == 1
        await here.request(Stage.CANDLES, "other")

    here.run(script)
    assert here.served == ["other"]
    assert here.clock.sleeps == []


def test_closing_gives_back_what_was_granted_in_the_last_moment(engine: Engine) -> None:
    """A client that ends while its ledger is being asked leaves no row of a request that was never sent."""
    here = room(engine)

    async def script() -> None:
        task = asyncio.create_task(here.request(Stage.CANDLES))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await here.coordinator.close()
        with pytest.raises(asyncio.CancelledError):
            await task

    here.run(script)
    assert here.rows() == 0


@pytest.mark.parametrize("error", [CircuitOpen("Nothing is sent."), StateLocked("Held.")])
def test_everybody_who_waits_hears_of_an_error_at_once(engine: Engine, error: Exception) -> None:
    """A dozen waiters, one question: all raise, none asks by itself; later requests are served again."""
    here = room(engine, LATER)

    async def script() -> None:
        here.ledger.error = error
        results = await asyncio.gather(*(here.request(Stage.CANDLES) for _ in range(12)), return_exceptions=True)
        assert [type(result) for result in results] == [type(error)] * 12
        assert here.ledger.asked == 1
        here.ledger.error = None
        await here.request(Stage.CANDLES, "later")

    here.run(script)
    assert here.served == ["later"]


def test_locked_database_does_not_stall_the_event_loop(engine: Engine) -> None:
    """While another program holds the lock for 0.3 s, the loop goes on turning and the request is served after it."""
    here = room(engine)
    gaps: list[float] = []

    async def heartbeat() -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.005)
            gaps.append(time.perf_counter() - began)

    async def script() -> None:
        beating = asyncio.create_task(heartbeat())
        with StateDatabase(here.state.address).transaction():
            task = asyncio.create_task(here.request(Stage.CANDLES, "patient"))
            await asyncio.sleep(0.3)
            assert here.served == []
        await task
        beating.cancel()

    here.run(script)
    assert here.served == ["patient"]
    assert max(gaps) < 0.15, "the loop stood still"
