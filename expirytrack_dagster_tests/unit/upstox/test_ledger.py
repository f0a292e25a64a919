"""The rate ledger under a fake clock: no window is ever exceeded as the API counts, and nothing waits needlessly."""

from __future__ import annotations

import heapq
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from expirytrack_dagster.errors import StateLocked
from expirytrack_dagster.settings import RateLimit, load_settings
from expirytrack_dagster.state import StateDatabase
from expirytrack_dagster.upstox.breaker import Breaker
from expirytrack_dagster.upstox.calls import Call, Receipt
from expirytrack_dagster.upstox.clock import Uptime
from expirytrack_dagster.upstox.ledger import TRAVEL_SECONDS, RequestLedger, Wait, family_scope, open_ledger
from expirytrack_dagster_tests.engines import Engine, HostClock
from expirytrack_dagster_tests.statements import sql

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LIMITS = (RateLimit(1, 3), RateLimit(7, 8), RateLimit(30, 12))
CALL = Call("candles", "NSE_FO|1|28-08-2025", {"from": "2025-08-01"})
LEASE = 5.0
EPSILON = 5e-6
"""PostgreSQL's clock shows whole microseconds."""
NEVER = Breaker(failures=10**9)


class Request(NamedTuple):
    """One request of a simulation; all delays in seconds."""

    gap: float  # from the previous request's slot to asking for this one
    sending: float  # from the slot to the instant at which the API counts
    answering: float  # from that instant to the answer's arrival, or to the break
    fate: str  # answered, broken, killed
    jump: float  # by how much the wall clock is set back before asking
    restart: bool  # the process ends before asking and another one asks


@dataclass
class World:
    """A true time, a wall clock that may be wrong, the ledger, and the API's own count."""

    engine: Engine
    true: float = 1_000_000.0
    counted: list[float] = field(default_factory=list)
    pending: list[tuple[float, int, str]] = field(default_factory=list)
    bounds: dict[int, float] = field(default_factory=dict)  # as documented: answer's arrival, else end of the lease

    def __post_init__(self) -> None:
        """Open the ledger."""
        self.address = self.engine.fresh()
        self.clock = HostClock(self.engine)
        self.open()

    def open(self) -> None:
        """Open the ledger as a new process would, on a host whose clock is wrong by ten minutes."""
        self.clock.error = 600.0 if self.clock.error <= 0 else -600.0
        self.state = StateDatabase(self.address)
        self.ledger = RequestLedger(self.state, LIMITS, clock=self.clock, breaker=NEVER)

    def advance(self, until: float) -> None:
        """Let time pass; answers that arrive on the way are settled at their instant."""
        while self.pending and self.pending[0][0] <= until:
            arrival, request_id, fate = heapq.heappop(self.pending)
            self._move(arrival)
            now = self.wall()
            if fate == "answered":
                self.ledger.settle(request_id, Receipt("ok", counted_at=self.clock.now(), status=200))
                self.bounds[request_id] = now
            else:
                self.ledger.settle(request_id, Receipt("network_error"))
                self.bounds[request_id] = min(self.bounds[request_id], now + TRAVEL_SECONDS)
        self._move(until)

    def wall(self) -> float:
        """Return what the clock shows by which the ledger goes."""
        return self.clock.time

    def _move(self, until: float) -> None:
        self.clock.time += max(0.0, until - self.true)
        self.true = max(self.true, until)

    def is_full(self, at: float, seen: float) -> bool:
        """Say by a count of our own whether a window is full, if what is under way were answered at `seen`."""
        return any(
            sum(min(bound, seen) > at - limit.seconds for bound in self.bounds.values()) >= limit.requests
            for limit in LIMITS
        )

    def send(self, request: Request) -> None:
        """Put a granted request on its way to the API."""
        request_id = self.ledger.acquire(CALL, lease=LEASE)
        assert isinstance(request_id, int)
        self.bounds[request_id] = self.wall() + LEASE
        sent = min(request.sending, LEASE) if request.fate == "killed" else request.sending
        self.counted.append(self.true + sent)
        if request.fate != "killed":
            heapq.heappush(self.pending, (self.true + sent + request.answering, request_id, request.fate))

    def check_windows(self) -> None:
        """Count as a strict server does: any `requests` + 1 in a row span the window at least."""
        times = sorted(self.counted)
        for limit in LIMITS:
            for first, last in zip(times, times[limit.requests :], strict=False):
                assert last - first >= limit.seconds - EPSILON, f"{limit} exceeded"


SHARED = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
DELAY = st.sampled_from([0.0, 0.01, 0.1, 0.3, 0.9, 1.5])


def requests(jumps: st.SearchStrategy[float]) -> st.SearchStrategy[list[Request]]:
    """Draw sequences of requests with any mixture of latencies and fates."""
    fates = st.sampled_from(["answered", "answered", "answered", "broken", "killed"])
    one = st.builds(Request, st.sampled_from([0.0, 0.0, 0.05, 1.0, 6.0]), DELAY, DELAY, fates, jumps, st.booleans())
    return st.lists(one, min_size=5, max_size=40)


@SHARED
@given(sequence=requests(st.just(0.0)))
def test_no_window_is_exceeded_and_no_request_waits_needlessly(engine: Engine, sequence: list[Request]) -> None:
    """Whatever the latencies, breaks, kills, restarts, and clocks of hosts; waits are exact."""
    world = World(engine)
    with world.state:
        for request in sequence:
            world.advance(world.true + request.gap)
            if request.restart:
                world.state.close()
                world.open()
            while world.is_full(now := world.wall(), seen=math.inf):
                wait = world.ledger.acquire(CALL, lease=LEASE)
                assert isinstance(wait, Wait)
                assert wait.seconds > 0
                assert world.is_full(now + wait.seconds - EPSILON, seen=now)
                assert not world.is_full(now + wait.seconds + EPSILON, seen=now)
                world.advance(world.true + wait.seconds)
                if abs(world.wall() - now - wait.seconds) < EPSILON:
                    world.advance(world.true + EPSILON)  # rounding at the very edge of a window
            world.send(request)
        world.state.close()
        world.check_windows()


@SHARED
@given(sequence=requests(st.sampled_from([0.0, 0.0, 0.0, 0.4, 20.0, 3600.0])))
def test_clock_that_jumps_back_exceeds_nothing_and_blocks_for_one_window_at_most(
    engine: Engine, sequence: list[Request]
) -> None:
    """Rows left in the future count as of now."""
    world = World(engine)
    with world.state:
        for request in sequence:
            world.advance(world.true + request.gap)
            world.clock.time -= request.jump
            began = world.true
            while isinstance(slot := world.ledger.acquire(CALL, lease=LEASE), Wait):
                world.advance(world.true + slot.seconds + EPSILON)
            assert world.true - began <= LIMITS[-1].seconds + LEASE + 1
            world.bounds[slot] = world.wall() + LEASE
            sent = min(request.sending, LEASE)
            world.counted.append(world.true + sent)
            if request.fate != "killed":
                heapq.heappush(world.pending, (world.true + sent + request.answering, slot, request.fate))
        world.state.close()
        world.check_windows()


@pytest.fixture
def clock(engine: Engine) -> HostClock:
    """Give a clock, beside whose server another host's would be wrong."""
    return HostClock(engine, error=-600.0)


@pytest.fixture
def state(engine: Engine, clock: HostClock) -> Iterator[StateDatabase]:
    """Give an empty state database that goes by the clock."""
    del clock
    with StateDatabase(engine.fresh()) as database:
        yield database


@pytest.fixture
def ledger(state: StateDatabase, clock: HostClock) -> RequestLedger:
    """Give a ledger on an empty database."""
    return RequestLedger(state, LIMITS, clock=clock)


def refused(ledger: RequestLedger, clock: HostClock, retry_after: float | None = None) -> bool:
    """Send one request when the ledger allows it and have it refused."""
    while isinstance(slot := ledger.acquire(CALL), Wait):
        clock.time += slot.seconds
    ledger.settle(slot, Receipt("http_error", counted_at=clock.now(), status=429))
    return ledger.refuse(slot, retry_after, "429")


def test_row_records_what_was_asked_and_answered(ledger: RequestLedger, state: StateDatabase, clock: HostClock) -> None:
    """The audit row holds the call, the receipt and the latency."""
    slot = ledger.acquire(CALL, attempt=2, run_id="run")
    assert isinstance(slot, int)
    clock.time += 0.25
    ledger.settle(slot, Receipt("ok", counted_at=clock.now(), status=200, bytes=10, rows=3, first_ts=1, last_ts=2))
    row = state.query(
        sql(
            "SELECT scope, endpoint, target, params, attempt, run_id, status, bytes, rows,"
            " latency, outcome FROM requests"
        )
    )
    assert row == [
        ("account", "candles", CALL.target, '{"from":"2025-08-01"}', 2, "run", 200, 10, 3, pytest.approx(0.25), "ok")
    ]
    assert ledger.spent("run") == 1
    assert ledger.spent("other") == 0


def test_budget_tells_use_and_wait(ledger: RequestLedger, clock: HostClock) -> None:
    """Each window says how full it is and when the next slot comes."""
    for _ in range(3):
        slot = ledger.acquire(CALL)
        assert isinstance(slot, int)
        ledger.settle(slot, Receipt("ok", counted_at=clock.now()))
    clock.time += 0.25
    second, middle, longest = ledger.budget().windows
    assert (second.used, second.seconds_to_slot) == (3, 0.75)
    assert (middle.used, middle.seconds_to_slot) == (3, 0)
    assert longest.limit == LIMITS[-1]
    assert ledger.budget().cooldown_seconds == 0
    ledger.cool_down("account", 9, "asked to")
    assert (ledger.budget().cooldown_seconds, ledger.budget().cooldown_reason) == (9, "asked to")


def test_cool_down_stops_every_process_and_never_gets_shorter(
    ledger: RequestLedger, state: StateDatabase, clock: HostClock
) -> None:
    """Another ledger on the same file waits too, for the longer of two pauses."""
    ledger.cool_down("account", 60, "long")
    ledger.cool_down("account", 1, "short")
    other = RequestLedger(StateDatabase(state.address), LIMITS, clock=clock)
    assert other.acquire(CALL) == Wait(60, "long")
    clock.time -= 3600  # a pause set in the future lasts no longer than it was meant to
    assert other.acquire(CALL) == Wait(60, "long")
    clock.time += 60
    assert isinstance(other.acquire(CALL), int)


def test_refusals_in_a_row_wait_out_ever_longer_windows(ledger: RequestLedger, clock: HostClock) -> None:
    """1, 7 and 30 s, then it is given up; a request that gets through starts anew."""
    pauses = []
    for _ in LIMITS:
        assert refused(ledger, clock)
        pauses.append(ledger.budget().cooldown_seconds)
    assert pauses == [pytest.approx(limit.seconds) for limit in LIMITS]
    assert not refused(ledger, clock)
    clock.time += 100
    slot = ledger.acquire(CALL)
    assert isinstance(slot, int)
    ledger.settle(slot, Receipt("ok", counted_at=clock.now(), status=200))
    assert refused(ledger, clock)
    assert ledger.budget().cooldown_seconds == pytest.approx(1)


def test_requests_refused_together_make_one_pause(ledger: RequestLedger, clock: HostClock) -> None:
    """Three requests under way at the first refusal do not lengthen the pause, even if answered after it."""
    slots = [ledger.acquire(CALL) for _ in range(3)]
    for slot in slots:
        assert isinstance(slot, int)
        ledger.settle(slot, Receipt("http_error", counted_at=clock.now(), status=429))
        assert ledger.refuse(slot, None, "429")
        clock.time += 0.7
    assert ledger.budget().cooldown_seconds == 0
    assert refused(ledger, clock)
    assert ledger.budget().cooldown_seconds == pytest.approx(7)


def test_retry_after_is_honoured(ledger: RequestLedger, clock: HostClock) -> None:
    """The server's wish replaces our guess; one longer than the longest window is not waited for."""
    assert refused(ledger, clock, retry_after=12)
    assert ledger.budget().cooldown_seconds == pytest.approx(12)
    assert not refused(ledger, clock, retry_after=86_400)
    assert ledger.budget().cooldown_seconds == pytest.approx(86_400)


def test_jump_back_does_not_hide_refusals(ledger: RequestLedger, clock: HostClock) -> None:
    """Refusals in a row are told by order, not by time."""
    slot = ledger.acquire(CALL)
    assert isinstance(slot, int)
    ledger.settle(slot, Receipt("ok", counted_at=clock.now(), status=200))
    clock.time -= 3600
    assert [refused(ledger, clock) for _ in range(4)] == [True, True, True, False]


def test_accounts_have_limits_of_their_own(tmp_path: Path) -> None:
    """Two names never share a window; a name keeps its window whatever token it has, and in whatever process."""
    limits = "1/60"

    def ledger(account: str, **others: str) -> RequestLedger:
        return open_ledger(load_settings(home=tmp_path, account=account, rate_limits=limits, **others))

    assert isinstance(ledger("default").acquire(CALL), int)
    assert isinstance(ledger("second").acquire(CALL), int)
    for account in ("default", "second"):
        assert isinstance(ledger(account, access_token="of the next day").acquire(CALL), Wait)
        assert isinstance(ledger(account, rate_scope="family").acquire(CALL), int)
    assert ledger("default").all_scopes() == ("account",)
    assert ledger("second").all_scopes() == ("account of second",)
    assert "contracts of second" in ledger("second", rate_scope="family").all_scopes()


def test_families_have_limits_of_their_own(state: StateDatabase, clock: HostClock) -> None:
    """With the family scope, contracts of both kinds share windows that candles do not touch."""
    ledger = RequestLedger(state, (RateLimit(1, 1),), clock=clock, scope_of=family_scope)
    assert isinstance(ledger.acquire(CALL), int)
    assert isinstance(ledger.acquire(Call("option_contracts", "k")), int)
    assert isinstance(ledger.acquire(Call("future_contracts", "k")), Wait)
    assert isinstance(ledger.acquire(CALL), Wait)


def test_no_windows_means_no_waiting(state: StateDatabase, clock: HostClock) -> None:
    """Without limits everything is granted."""
    ledger = RequestLedger(state, (), clock=clock)
    assert all(isinstance(ledger.acquire(CALL), int) for _ in range(100))


def test_slot_given_back_leaves_no_trace(state: StateDatabase, clock: HostClock) -> None:
    """Nothing was sent, so neither the windows, nor the bucket, nor the audit know of it."""
    ledger = RequestLedger(state, (RateLimit(1, 2),), clock=clock, burst=1)
    for _ in range(5):
        slot = ledger.acquire(CALL, run_id="run")
        assert isinstance(slot, int)
        ledger.give_back(slot)
        ledger.give_back(slot)
    assert ledger.spent("run") == 0
    assert isinstance(ledger.acquire(CALL), int)
    assert ledger.acquire(CALL) == Wait(pytest.approx(1 / 2), "2/1 is paced")  # type: ignore[arg-type]  # as equal


def test_requests_are_paced_by_all_processes_together(state: StateDatabase, clock: HostClock) -> None:
    """Five at once, then one every 20 ms, however many ledgers share the database; a pause refills the bucket."""
    limits = (RateLimit(1, 50), RateLimit(60, 500))
    ledgers = [RequestLedger(StateDatabase(state.address), limits, clock=clock, burst=5) for _ in range(3)]
    times = []
    for number in range(25):
        ledger = ledgers[number % 3]
        while isinstance(slot := ledger.acquire(CALL), Wait):
            clock.time += slot.seconds
        times.append(clock.time)
    assert times[4] == times[0]
    assert times[24] - times[4] == pytest.approx(20 * 0.02)
    clock.time += 10
    assert all(isinstance(ledgers[0].acquire(CALL), int) for _ in range(5))
    assert isinstance(ledgers[1].acquire(CALL), Wait)
    clock.time -= 3600  # nobody knows of the jump: the bucket counts as empty, not as a debt of an hour
    wait = ledgers[0].acquire(CALL)
    assert isinstance(wait, Wait)
    assert wait.reason == "500/60 is used up" or wait.seconds <= 0.02 + EPSILON


def test_after_a_loss_all_windows_are_full(tmp_path: Path, clock: HostClock) -> None:
    """A database that replaced a damaged one gives no slot before the longest window has passed, and status says so."""
    path = tmp_path / "state.sqlite"
    path.write_bytes(b"damaged " * 1000)
    clock.time = time.time()
    with StateDatabase(path) as state:
        ledger = RequestLedger(state, LIMITS, clock=clock)
        assert ledger.budget().cooldown_seconds == pytest.approx(30, abs=5)
        wait = ledger.acquire(CALL)
        assert isinstance(wait, Wait)
        assert wait.seconds == pytest.approx(30, abs=5)
        assert "damaged" in wait.reason
        assert ledger.budget().cooldown_seconds == pytest.approx(wait.seconds)
        clock.time += wait.seconds + EPSILON
        assert isinstance(ledger.acquire(CALL), int)


def test_locked_database_is_named_within_its_timeout(state: StateDatabase, clock: HostClock) -> None:
    """A ledger that cannot get the lock raises StateLocked with one sentence, and changes nothing."""
    with StateDatabase(state.address, timeout=0.05) as impatient:
        waiting = RequestLedger(impatient, LIMITS, clock=clock)
        with state.transaction(), pytest.raises(StateLocked, match=r" 0\.05 s: try again\.$"):
            waiting.acquire(CALL)
    assert state.query(sql("SELECT count(*) FROM requests")) == [(0,)]


def test_settling_after_the_database_was_replaced_is_harmless(ledger: RequestLedger) -> None:
    """A request whose row was lost is settled and refused without an error: the new database pauses all anyway."""
    ledger.settle(4711, Receipt("ok", counted_at=1.0))
    assert ledger.refuse(4711, None, "429")


def test_new_boot_believes_the_wall_clock(state: StateDatabase, clock: HostClock) -> None:
    """Uptimes of two boots say nothing about each other: the night between them counts as time that passed."""
    up = Uptime("monday", 50_000.0)
    ledger = RequestLedger(state, (RateLimit(60, 1),), clock=clock, uptime=lambda: up)
    assert isinstance(ledger.acquire(CALL), int)
    clock.time += 30_000
    up = Uptime("tuesday", 100.0)
    slot = ledger.acquire(CALL)
    assert isinstance(slot, int)
    ledger.settle(slot, Receipt("ok", counted_at=clock.now()))
    clock.time += 10 + 3_600  # ten seconds pass, and the clock is set
    up = Uptime("tuesday", 110.0)
    wait = ledger.acquire(CALL)
    assert isinstance(wait, Wait)
    assert wait.seconds == pytest.approx(50)
