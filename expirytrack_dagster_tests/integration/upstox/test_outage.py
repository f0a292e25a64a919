"""The circuit breaker through the real client and a real server: a collection stops soon, and goes on afterwards."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from datetime import date
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from expirytrack_dagster.errors import CircuitOpen, ServerError
from expirytrack_dagster.sandbox.running import Running, running
from expirytrack_dagster.sandbox.switches import Fault
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket
from expirytrack_dagster.settings import Settings
from expirytrack_dagster.upstox.client import UpstoxClient
from expirytrack_dagster.upstox.ledger import open_ledger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EXPIRY, NIFTY = date(2025, 8, 28), "NSE_INDEX|Nifty 50"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Running]:
    """Serve a market without limits."""
    with running(SyntheticMarket(today=date(2025, 9, 15)), limits=()) as served:
        yield served


@pytest.fixture
def settings(tmp_path: Path, sandbox: Running) -> Settings:
    """Give settings under which the first opening lasts a tenth of a second."""
    sandbox.switch(faults=())
    return Settings(
        home=tmp_path,
        api_url=sandbox.url,
        access_token=SecretStr("token"),
        max_retries=0,
        breaker_pause=0.1,
        cache=False,
    )


async def ask(settings: Settings, keys: list[str]) -> list[object]:
    """Ask for a day of each contract, as many at once as the settings allow; errors are results."""
    async with UpstoxClient(settings, open_ledger(settings)) as client:
        asked = (client.get_historical_data(key, "1minute", EXPIRY, EXPIRY) for key in keys)
        return await asyncio.gather(*asked, return_exceptions=True)


async def contracts(settings: Settings) -> list[str]:
    """Return a few contracts of the expiry."""
    async with UpstoxClient(settings, open_ledger(settings)) as client:
        return [contract.instrument_key for contract in await client.get_option_contracts(NIFTY, EXPIRY)][:60]


def test_an_outage_stops_a_collection_soon_and_it_goes_on_afterwards(settings: Settings, sandbox: Running) -> None:
    """Sixty contracts against a dead server cost a dozen requests; when it is back, one request reopens the way."""
    keys = asyncio.run(contracts(settings))
    before = len(sandbox.requests())
    sandbox.switch(faults=(Fault(503, endpoints=("candles",)),))
    results = asyncio.run(ask(settings, keys))
    kinds = {type(result) for result in results}
    assert kinds == {ServerError, CircuitOpen}
    assert len(sandbox.requests()) - before <= settings.workers + 5
    ledger = open_ledger(settings)
    assert ledger.budget().circuit_state == "open"
    ended = subprocess.run(
        [sys.executable, "-m", "expirytrack_dagster", "status", "--json"],
        env={**os.environ, "EXPIRYTRACK_HOME": str(settings.home)},
        capture_output=True,
        check=True,
    )
    breaker = json.loads(ended.stdout)["breaker"]
    assert breaker["state"] in {"open", "half-open"}
    assert breaker["reason"] == "HTTP 503"
    sandbox.switch(faults=())
    assert all("HTTP 503" in str(result) for result in results if isinstance(result, CircuitOpen))
    asyncio.run(asyncio.sleep(ledger.budget().circuit_seconds))
    assert ledger.budget().circuit_state == "half-open"
    results = asyncio.run(ask(settings, keys))
    assert [result for result in results if isinstance(result, BaseException)] == []
    assert ledger.budget().circuit_state == "closed"


def test_a_short_outage_costs_nothing(settings: Settings, sandbox: Running) -> None:
    """Five connections that break at once open the circuit; it is waited out, and the retries bring every contract."""
    keys = asyncio.run(contracts(settings))
    sandbox.switch(faults=(Fault("reset", endpoints=("candles",), times=5),))
    results = asyncio.run(ask(settings.model_copy(update={"max_retries": 2}), keys))
    assert [result for result in results if isinstance(result, BaseException)] == []
