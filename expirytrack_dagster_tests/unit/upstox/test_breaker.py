"""The circuit breaker: what opens it, who may try, what closes it, for all processes that share the database."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from expirytrack_dagster.errors import CircuitOpen
from expirytrack_dagster.settings import RateLimit
from expirytrack_dagster.state import StateDatabase
from expirytrack_dagster.upstox.breaker import LONGEST_PAUSE, PROBE_POLL, Breaker, Circuit, is_healthy
from expirytrack_dagster.upstox.calls import Call, Receipt
from expirytrack_dagster.upstox.ledger import RequestLedger, Wait, family_scope
from expirytrack_dagster_tests.engines import Engine, HostClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CALL = Call("candles", "NSE_FO|1|28-08-2025")
DOWN = Receipt("http_error", counted_at=1.0, status=503)
OK = Receipt("ok", counted_at=1.0, status=200)
SLOW_DOWN = Receipt("http_error", counted_at=1.0, status=429)
LEASE = 30.0


@pytest.fixture
def clock(engine: Engine) -> HostClock:
    """Give a clock, beside whose server another host's would be wrong."""
    return HostClock(engine, time=1_750_000_000.0, error=600.0)


@pytest.fixture
def process(engine: Engine, clock: HostClock) -> Iterator[Callable[[], RequestLedger]]:
    """Give a way to start processes of the same account."""
    states, address = [], engine.fresh()

    def start() -> RequestLedger:
        states.append(StateDatabase(address))
        return RequestLedger(states[-1], (RateLimit(1, 1000),), clock=clock)

    yield start
    for state in states:
        state.close()


def take(ledger: RequestLedger, attempt: int = 1) -> int:
    """Take a slot that must be free."""
    slot = ledger.acquire(CALL, attempt=attempt, lease=LEASE)
    assert isinstance(slot, int)
    return slot


def fail(ledger: RequestLedger, times: int, receipt: Receipt = DOWN, attempt: int = 1) -> None:
    """Have requests fail one after another."""
    for _ in range(times):
        ledger.settle(take(ledger, attempt), receipt)


@pytest.mark.parametrize(
    ("receipt", "healthy"),
    [(OK, True), (DOWN, False), (Receipt("network_error"), False), (Receipt("malformed", 1.0, 200), False),
     (Receipt("http_error", 1.0, 400, "UDAPI100011"), True), (Receipt("http_error", 1.0, 401, "UDAPI100050"), True),
     (Receipt("http_error", 1.0, 403, "CLOUDFLARE1010"), False), (Receipt("http_error", 1.0, 200, "WEB_PAGE"), False),
     (Receipt("http_error", 1.0, 403, "CLOUDFLARE1015"), None), (SLOW_DOWN, None), (Receipt("abandoned"), None)],
)  # fmt: skip
def test_what_says_that_the_api_works(receipt: Receipt, healthy: bool | None) -> None:  # noqa: FBT001  a table
    """Failures are the network's, the server's and the edge's; a refusal of one request is a sign of life."""
    assert is_healthy(receipt) is healthy


def test_five_in_a_row_open_it_for_every_process(process: Callable[[], RequestLedger], clock: HostClock) -> None:
    """A success in between starts the count anew; the first opening is a wait for all."""
    one, other = process(), process()
    fail(one, 4)
    one.settle(take(other), OK)
    fail(one, 2)
    fail(other, 3)
    for ledger in (one, other, process()):
        wait = ledger.acquire(CALL)
        assert isinstance(wait, Wait)
        assert (wait.seconds, "HTTP 503" in wait.reason) == (5, True)
    budget = one.budget()
    assert (budget.circuit_state, budget.circuit_seconds, budget.circuit.failures) == ("open", 5, 5)
    clock.time += 5
    assert one.budget().circuit_state == "half-open"


def test_retries_of_one_call_do_not_open_it(process: Callable[[], RequestLedger]) -> None:
    """Two broken contracts with three retries each are eight failures in a row, but no outage."""
    ledger = process()
    for _ in range(2):
        fail(ledger, 1)
        for attempt in (2, 3, 4):
            fail(ledger, 1, attempt=attempt)
    assert ledger.budget().circuit_state == "closed"


def test_refusals_and_cancellations_neither_open_nor_close(process: Callable[[], RequestLedger]) -> None:
    """429 and cancelled requests leave the count where it is."""
    ledger = process()
    fail(ledger, 4)
    fail(ledger, 10, Receipt("abandoned"))
    fail(ledger, 10, SLOW_DOWN)
    assert ledger.budget().circuit_state == "closed"
    fail(ledger, 1)
    assert ledger.budget().circuit_state == "open"


def test_one_request_of_all_processes_tries(process: Callable[[], RequestLedger], clock: HostClock) -> None:
    """The others wait for its answer; its success lets everybody go on."""
    one, other = process(), process()
    late = take(one)
    fail(one, 5)
    clock.time += 5
    probe = take(one)
    assert [ledger.acquire(CALL) for ledger in (one, other)] == [Wait(PROBE_POLL, "answers failed (HTTP 503)")] * 2
    other.settle(late, OK)  # sent before it opened: says nothing about now
    assert isinstance(other.acquire(CALL), Wait)
    one.settle(probe, OK)
    assert isinstance(other.acquire(CALL), int)
    assert one.budget().circuit == Circuit()


def test_failed_probes_open_it_for_longer_and_stop_everybody(
    process: Callable[[], RequestLedger], clock: HostClock
) -> None:
    """After the first opening calls raise at once, with the time of day; openings double up to ten minutes."""
    one, other = process(), process()
    fail(one, 5)
    pauses = []
    for _ in range(10):
        clock.time += one.budget().circuit_seconds
        fail(other, 1)
        pauses.append(one.budget().circuit_seconds)
        with pytest.raises(CircuitOpen, match=r"until \d\d:\d\d:\d\d IST.*HTTP 503.*again then\.$"):
            one.acquire(CALL)
        assert one.is_closed_to_all()
    assert pauses == [10, 20, 40, 80, 160, 320, 600, 600, 600, 600]
    clock.time += 600
    one.settle(take(one), OK)
    assert not one.is_closed_to_all()
    fail(one, 5)
    assert one.budget().circuit_seconds == 5


def test_killed_probe_gives_way_when_its_lease_ends(process: Callable[[], RequestLedger], clock: HostClock) -> None:
    """Nobody waits for an answer that cannot come any more."""
    one, other = process(), process()
    fail(one, 5)
    clock.time += 5
    take(one)
    clock.time += LEASE - 0.2
    wait = other.acquire(CALL)
    assert isinstance(wait, Wait)
    assert wait.seconds == pytest.approx(0.2)
    clock.time += wait.seconds + 0.001
    probe = take(other)
    assert isinstance(one.acquire(CALL), Wait)
    other.settle(probe, OK)
    take(one)


@pytest.mark.parametrize("end", ["given back", "cancelled", "429"])
def test_probe_that_learns_nothing_leaves_it_to_another(
    process: Callable[[], RequestLedger], clock: HostClock, end: str
) -> None:
    """A probe without a verdict neither closes nor reopens the circuit."""
    one, other = process(), process()
    fail(one, 5)
    clock.time += 5
    probe = take(one)
    if end == "given back":
        one.give_back(probe)
    else:
        one.settle(probe, Receipt("abandoned") if end == "cancelled" else SLOW_DOWN)
    assert one.budget().circuit_state == "half-open"
    other.settle(take(other), OK)
    assert one.budget().circuit_state == "closed"


def test_jump_of_the_clock_does_not_lock_everybody_out(process: Callable[[], RequestLedger], clock: HostClock) -> None:
    """Set back by a day, the circuit is open for its longest pause at most."""
    ledger = process()
    fail(ledger, 5)
    clock.time -= 86_400
    wait = ledger.acquire(CALL)
    assert isinstance(wait, Wait)
    assert wait.seconds <= LONGEST_PAUSE


def test_families_fail_by_themselves(engine: Engine, clock: HostClock) -> None:
    """With the family scope, failing candles do not stop discovery; numbers are settings."""
    with StateDatabase(engine.fresh()) as state:
        ledger = RequestLedger(state, (), clock=clock, scope_of=family_scope, breaker=Breaker(failures=2, pause=7))
        fail(ledger, 2)
        assert ledger.acquire(CALL) == Wait(7, "answers failed (HTTP 503)")
        assert isinstance(ledger.acquire(Call("expiries", "NSE_INDEX|Nifty 50")), int)
