"""The ledger as a state machine: two processes, any order of requests, kills, cancellations, restarts and clock jumps.

A model in true time, which no clock jump touches, says after every step what the API has counted and whether the
windows and the bucket have room. The ledger only sees a wall clock that jumps and an uptime that does not; in
PostgreSQL the server's clock, and those of two hosts, which are wrong by minutes and jump.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from expirytrack_dagster.settings import RateLimit
from expirytrack_dagster.state import StateDatabase
from expirytrack_dagster.upstox.breaker import Breaker
from expirytrack_dagster.upstox.calls import Call, Receipt
from expirytrack_dagster.upstox.clock import Uptime
from expirytrack_dagster.upstox.ledger import TRAVEL_SECONDS, RequestLedger, Wait
from expirytrack_dagster_tests.engines import Engine, Files, Server

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMITS = (RateLimit(1, 4), RateLimit(7, 9), RateLimit(30, 14))
BURST, RATE = 2, 4.0
CALL = Call("candles", "NSE_FO|1|28-08-2025")
LEASE = 5.0
EPSILON = 1e-5
DELAYS = st.sampled_from([0.0, 0.01, 0.3, 0.9, 2.5])
JUMPS = st.sampled_from([-3600.0, -20.0, -1.5, 1.5, 20.0, 3600.0])


class BrokenClock:
    """A wall clock that is wrong by `error`, and an uptime that is right; the server's clock, if there is one, is."""

    def __init__(self, engine: Engine) -> None:
        """Begin without an error."""
        self.true = 1_000_000.0
        self.error = 0.0
        self._engine = engine
        engine.set_time(self.true)

    def now(self) -> float:
        """Return what the wall clock shows."""
        self._engine.set_time(self.true)
        return self.true + self.error

    async def sleep(self, seconds: float) -> None:
        """Move true time."""
        self.true += seconds

    def uptime(self) -> Uptime:
        """Return what nobody can set."""
        return Uptime("boot", self.true - 900_000.0)


@dataclass
class Host:
    """Another wall clock, wrong by so many seconds more."""

    clock: BrokenClock
    error: float

    def now(self) -> float:
        """Return what it shows."""
        return self.clock.now() + self.error

    async def sleep(self, seconds: float) -> None:
        """Move true time."""
        await self.clock.sleep(seconds)


@dataclass
class Sent:
    """A request under way: when it ends in true time, and how; `bound` is the latest time at which it can count."""

    slot: int
    bound: float
    ends: float
    fate: str


class LedgerMachine(RuleBasedStateMachine):
    """Steps of two processes, the API, and somebody who sets the clock."""

    errors = (0.0, 0.0)

    @initialize()
    def begin(self) -> None:
        """Start both processes on an empty database."""
        self.folder = tempfile.TemporaryDirectory()
        engine = self.engine()
        self.clock = BrokenClock(engine)
        self.hosts = [Host(self.clock, error) for error in self.errors]
        address = engine.fresh()
        self.states = [StateDatabase(address) for _ in range(2)]
        self.ledgers = [self.ledger(process) for process in range(2)]
        self.sent: list[Sent] = []
        self.counted: list[float] = []
        self.tokens, self.tokens_at = float(BURST), self.clock.true

    def engine(self) -> Engine:
        """Say where the database is."""
        return Files(Path(self.folder.name))

    def ledger(self, process: int) -> RequestLedger:
        """Make the ledger of a process."""
        state, clock = self.states[process], self.hosts[process]
        uptime = None if state.has_clock else self.clock.uptime
        return RequestLedger(state, LIMITS, clock=clock, uptime=uptime, burst=BURST, breaker=Breaker(failures=10**9))

    def has_room(self, at: float) -> bool:
        """Say by the model whether a request may go at a true time, if what is under way is answered now."""
        now = self.clock.true
        windows = all(
            sum(min(sent.bound, now) > at - limit.seconds for sent in self.sent) < limit.requests for limit in LIMITS
        )
        return windows and self.tokens + (at - self.tokens_at) * RATE >= 1

    @rule(seconds=st.sampled_from([0.05, 0.25, 1.0, 6.0, 29.0]))
    def time_passes(self, seconds: float) -> None:
        """Let answers arrive, each at its instant."""
        until = self.clock.true + seconds
        for sent in sorted((s for s in self.sent if s.fate != "done" and s.ends <= until), key=lambda s: s.ends):
            self.clock.true = max(self.clock.true, sent.ends)
            ok = sent.fate == "answered"
            process = sent.slot % 2
            receipt = Receipt("ok", counted_at=self.hosts[process].now()) if ok else Receipt("network_error")
            self.ledgers[process].settle(sent.slot, receipt)
            sent.bound = self.clock.true if ok else min(sent.bound, self.clock.true + TRAVEL_SECONDS)
            sent.fate = "done"
        self.clock.true = until

    @rule(process=st.integers(0, 1), sending=DELAYS, answering=DELAYS,
          fate=st.sampled_from(["answered", "answered", "broken", "killed", "given back"]))  # fmt: skip
    def ask(self, process: int, sending: float, answering: float, fate: str) -> None:
        """Ask for a slot: given if and only if there is room; a wait is exact."""
        now = self.clock.true
        slot = self.ledgers[process].acquire(CALL, lease=LEASE)
        if isinstance(slot, Wait):
            assert slot.seconds > 0
            assert not self.has_room(now - EPSILON), "waits although there is room"
            assert self.has_room(now + slot.seconds + EPSILON), "the wait is too short"
            assert not self.has_room(now + slot.seconds - EPSILON), "the wait is too long"
            return
        assert self.has_room(now + EPSILON), "a slot without room"
        if fate == "given back":
            self.ledgers[process].give_back(slot)
            return
        self.tokens = min(BURST, self.tokens + (now - self.tokens_at) * RATE) - 1
        self.tokens_at = now
        counted = now + min(sending, LEASE)
        self.counted.append(counted)
        ends = float("inf") if fate == "killed" else counted + answering
        self.sent.append(Sent(slot, now + LEASE, ends, fate))

    @rule(seconds=JUMPS)
    def clock_jumps(self, seconds: float) -> None:
        """Set the wall clock."""
        self.clock.error += seconds

    @rule(process=st.integers(0, 1))
    def process_restarts(self, process: int) -> None:
        """End a process and start another one in its place."""
        self.states[process].close()
        self.ledgers[process] = self.ledger(process)

    @invariant()
    def no_window_is_exceeded(self) -> None:
        """Count as a strict server does: any `requests` + 1 in a row span the window at least."""
        times = sorted(self.counted)
        for limit in LIMITS:
            for first, last in zip(times, times[limit.requests :], strict=False):
                assert last - first >= limit.seconds - EPSILON, f"{limit} exceeded"

    def teardown(self) -> None:
        """Close the database."""
        for state in self.states:
            state.close()
        self.folder.cleanup()


_SERVERS: list[Server] = []


class HostsMachine(LedgerMachine):
    """The same with two hosts that share a server, and whose clocks are twenty minutes apart."""

    errors = (600.0, -600.0)

    def engine(self) -> Engine:
        """Say where the database is."""
        return _SERVERS[-1]


@pytest.fixture
def server(postgres: str) -> Iterator[None]:
    """Give the machine of hosts a server."""
    _SERVERS.append(Server(postgres))
    yield
    _SERVERS.pop().close()


HostsMachine.TestCase.settings = settings(max_examples=12, stateful_step_count=40, deadline=None)
TestHostsMachine = pytest.mark.usefixtures("server")(pytest.mark.timeout(60)(HostsMachine.TestCase))
LedgerMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=50, deadline=None)
TestLedgerMachine = pytest.mark.timeout(60)(LedgerMachine.TestCase)
