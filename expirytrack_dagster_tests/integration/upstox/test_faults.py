"""Every fault of the API, from the real HTTP client against the sandbox up to the state of the contract that was asked.

For each: the type of the error or a recovered request, the ledger's rows, and no contract taken for empty or whole.
What is sent, paused and retried in detail is in `test_client.py`.
"""

from __future__ import annotations

import asyncio
from datetime import date
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

from expirytrack_dagster.collect.contract import DAYS, MINUTES, Answer, Inquiry
from expirytrack_dagster.collect.states import State
from expirytrack_dagster.collect.windows import Windows
from expirytrack_dagster.errors import (
    EdgeBlocked,
    ExpiryTrackError,
    MalformedResponse,
    NetworkError,
    RateLimited,
    ServerError,
    TokenRejected,
    TruncatedResponse,
)
from expirytrack_dagster.sandbox.running import Running, running
from expirytrack_dagster.sandbox.switches import Fault, Kind
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket
from expirytrack_dagster.settings import Settings
from expirytrack_dagster.state import StateDatabase
from expirytrack_dagster.upstox.calls import Call
from expirytrack_dagster.upstox.client import UpstoxClient
from expirytrack_dagster.upstox.ledger import RequestLedger
from expirytrack_dagster_tests.statements import sql

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

TODAY, EXPIRY, NIFTY = date(2025, 9, 15), date(2025, 8, 28), "NSE_INDEX|Nifty 50"


class FakeClock:
    """Moves only by sleeping."""

    def __init__(self) -> None:
        """Begin with no sleeps."""
        self.time = 1_757_900_000.0

    def now(self) -> float:
        """Return the time shown."""
        return self.time

    async def sleep(self, seconds: float) -> None:
        """Move the time without waiting."""
        self.time += seconds
        await asyncio.sleep(0)


class Setup:
    """A sandbox without limits, and what a client of it needs."""

    def __init__(self, folder: Path, sandbox: Running) -> None:
        """Point the settings to the sandbox."""
        self.sandbox = sandbox
        self.state = StateDatabase(folder / "state.sqlite")
        self.settings = Settings(
            home=folder, api_url=sandbox.url, access_token=SecretStr("token"), timeout=20, max_retries=1
        )

    def run(self, script: Callable[[UpstoxClient], Awaitable[Any]], *, fresh: bool = False, **overrides: object) -> Any:
        """Run a script with a client of its own."""

        async def main() -> Any:
            settings, clock = self.settings.model_copy(update=overrides), FakeClock()
            ledger = RequestLedger(self.state, settings.rate_limits, clock=clock)
            async with UpstoxClient(settings, ledger, clock=clock, run_id="run", fresh=fresh) as client:
                return await script(client)

        return asyncio.run(main())

    def inquire(self, key: str, **overrides: object) -> Answer:
        """Ask one contract until its state is known."""

        async def script(client: UpstoxClient) -> Answer:
            minutes, days = (Windows(self.state, 1830, interval) for interval in (MINUTES, DAYS))
            inquiry = Inquiry(client, key, EXPIRY, minutes, days, odd=True)  # else a wrong shape has no state
            answer = await inquiry.ask()
            return answer if answer.state else await inquiry.prove_empty()

        answer = self.run(script, fresh=False, **overrides)
        assert isinstance(answer, Answer)
        return answer

    def rows(self) -> list[tuple[Any, ...]]:
        """Return try, status and outcome of every request."""
        return self.state.query(sql("SELECT attempt, status, outcome FROM requests ORDER BY id"))


@pytest.fixture(scope="module")
def market() -> SyntheticMarket:
    """Build the market once."""
    return SyntheticMarket(strikes=1, days=2, today=TODAY)


@pytest.fixture(scope="module")
def key(market: SyntheticMarket) -> str:
    """Return a contract that traded."""
    rows = market.option_contracts(NIFTY, EXPIRY) or []
    return str(rows[len(rows) // 2]["instrument_key"])


@pytest.fixture
def setup(tmp_path: Path, market: SyntheticMarket) -> Iterator[Setup]:
    """Give a sandbox and a client's surroundings."""
    with running(market, limits=()) as sandbox:
        made = Setup(tmp_path, sandbox)
        yield made
        made.state.close()


FAULTS: list[tuple[Kind, type[ExpiryTrackError], int | None, str, bool]] = [
    (500, ServerError, 500, "http_error", True),
    (503, ServerError, 503, "http_error", True),
    (423, ServerError, 423, "http_error", True),
    (429, RateLimited, 429, "http_error", True),
    ("cloudflare_1015", EdgeBlocked, 429, "http_error", True),
    ("cloudflare_1010", EdgeBlocked, 403, "http_error", False),
    ("html", EdgeBlocked, 200, "http_error", True),
    ("truncate", TruncatedResponse, 200, "malformed", True),
    ("wrong_shape", MalformedResponse, 200, "malformed", False),
    ("reset", NetworkError, None, "network_error", True),
]
"""Kind, the error when it lasts, status and outcome in the ledger, and whether a single one is recovered from."""


@pytest.mark.parametrize(("kind", "error", "status", "outcome", "passes"), FAULTS, ids=lambda value: str(value)[:20])
def test_fault_that_lasts(
    setup: Setup, key: str, kind: Kind, error: type[ExpiryTrackError], status: int | None, outcome: str, *, passes: bool
) -> None:
    """The contract has failed with the error's name, and every request has a settled row that says why."""
    setup.sandbox.switch(faults=(Fault(kind),))
    answer = setup.inquire(key)
    assert (answer.state, answer.error_code, answer.rows) == (State.FAILED, error.__name__, 0)
    rows = setup.rows()
    assert len(rows) == len(setup.sandbox.requests())
    assert {row[1:] for row in rows} == {(status, outcome)}
    assert len(rows) >= (2 if passes else 1)


@pytest.mark.parametrize(("kind", "error", "status", "outcome", "passes"), FAULTS, ids=lambda value: str(value)[:20])
def test_fault_that_passes(
    setup: Setup, key: str, kind: Kind, error: type[ExpiryTrackError], status: int | None, outcome: str, *, passes: bool
) -> None:
    """Once bad, then good: the same call recovers where it may; else the next one finds the contract whole."""
    whole = setup.inquire(key, cache=False)
    before = len(setup.rows())
    setup.sandbox.switch(faults=(Fault(kind, times=1),))
    answer = setup.inquire(key)
    if not passes:
        assert (answer.state, answer.error_code) == (State.FAILED, error.__name__)
        answer = setup.inquire(key)
    assert (answer.state, answer.rows) == (State.COMPLETE, whole.rows)
    rows = setup.rows()[before:]
    assert rows[0] == (1, status, outcome)
    assert rows[-1][1:] == (200, "ok")
    assert len(rows) == 2
    assert len(setup.rows()) == len(setup.sandbox.requests())


def test_answer_slower_than_the_timeout(setup: Setup, key: str) -> None:
    """Two tries, two rows without a status, and the sentence names the setting."""
    setup.sandbox.switch(delay_after=(0.4, 0.4))
    answer = setup.inquire(key, timeout=0.1)
    assert (answer.state, answer.error_code) == (State.FAILED, "NetworkError")
    assert "EXPIRYTRACK_TIMEOUT" in str(answer.message)
    assert setup.rows() == [(1, None, "network_error"), (2, None, "network_error")]


def test_token_that_dies_in_the_middle_stops_everything(setup: Setup, key: str) -> None:
    """What was answered counts; the next request says that the token is dead, once; the contract has no state."""
    setup.sandbox.switch(token_life=1)
    assert setup.run(lambda client: client.get_expiries(NIFTY))
    with pytest.raises(TokenRejected):
        setup.inquire(key)
    assert setup.rows() == [(1, 200, "ok"), (1, 401, "http_error")]


def test_kept_answer_costs_nothing(setup: Setup, key: str) -> None:
    """Asked again, by another client, without a token: the same candles, no request, no row."""
    first = setup.inquire(key)
    spent = len(setup.rows())
    again = setup.inquire(key, access_token=None)
    assert (again.state, again.tables) == (State.COMPLETE, first.tables)
    assert len(setup.rows()) == len(setup.sandbox.requests()) == spent


def test_refetch_asks_and_replaces(setup: Setup, key: str) -> None:
    """A fresh client asks in spite of a kept answer, and what it gets is what is kept from then on."""

    def ask(client: UpstoxClient) -> Awaitable[Any]:
        return client.get_historical_data(key, MINUTES, date(2025, 8, 1), EXPIRY)

    first = setup.run(ask)
    setup.sandbox.switch(newest_days=1)
    assert setup.run(ask).table == first.table
    fresh = setup.run(ask, fresh=True)
    assert 0 < fresh.table.num_rows < first.table.num_rows
    kept = setup.run(ask)
    assert (kept.table, kept.attempts) == (fresh.table, 0)
    assert len(setup.rows()) == 2


@pytest.mark.parametrize("kind", ["empty", "wrong_shape", "truncate", "html", 500])
def test_nothing_but_well_formed_rows_is_kept(setup: Setup, key: str, kind: Kind) -> None:
    """After an empty or a bad answer the API is asked again."""
    setup.sandbox.switch(faults=(Fault(kind),))
    bad = setup.inquire(key, max_retries=0)
    assert bad.state is (State.EMPTY_PROVEN if kind == "empty" else State.FAILED)
    setup.sandbox.switch(faults=())
    assert setup.inquire(key).state is State.COMPLETE


def test_what_an_older_version_kept_is_judged_again(setup: Setup) -> None:
    """A kept answer that cannot be read any more is asked for, not raised."""
    setup.run(lambda client: client.get_expiries(NIFTY))
    url = f"{setup.settings.api_url}/v2/expired-instruments/expiries?instrument_key=NSE_INDEX%7CNifty%2050"

    async def spoil(client: UpstoxClient) -> None:
        assert client._cache is not None  # noqa: SLF001  put there what no answer can put there
        client._cache.put(Call("expiries", NIFTY), url, b'{"status":"success"}', rows=1)  # noqa: SLF001  as above

    setup.run(spoil)
    assert EXPIRY in setup.run(lambda client: client.get_expiries(NIFTY))
    assert len(setup.rows()) == 2
