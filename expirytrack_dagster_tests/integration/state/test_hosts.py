"""Eight processes on two hosts whose clocks are twenty minutes apart share one account's limits through PostgreSQL."""

from __future__ import annotations

import statistics

import pytest
from sqlalchemy import func, select

from expirytrack_dagster.settings import RateLimit
from expirytrack_dagster.state import StateDatabase
from expirytrack_dagster.state.tables import requests
from expirytrack_dagster.state_address import StateAddress
from expirytrack_dagster_tests.asking import on, results
from expirytrack_dagster_tests.hosts import NETWORK, SERVER, two_hosts, why_not
from expirytrack_dagster_tests.postgres import postgres_server, programs

LIMITS = "40/0.5,100/2"
ASKED = 25


@pytest.mark.timeout(120)
def test_no_window_is_exceeded_by_hosts_whose_clocks_disagree() -> None:
    """Counted in true time as a strict server would; every request is one settled row."""
    if (reason := why_not()) or programs() is None:
        pytest.skip(reason or "PostgreSQL is not installed on this machine")
    with two_hosts() as hosts, postgres_server(SERVER, NETWORK) as server:
        address = server.create("shared")
        processes = [on(hosts[n % 2], address, LIMITS, ASKED, 0.03, 600.0 - 1200.0 * (n % 2)) for n in range(8)]
        counted, costs = results(processes, 90)
        with StateDatabase(StateAddress("postgresql", address)) as state:
            rows = state.query(select(func.count(), func.count(requests.c.outcome)).select_from(requests))
    assert rows == [(8 * ASKED, 8 * ASKED)]
    assert len(counted) == 8 * ASKED
    for limit in (RateLimit(0.5, 40), RateLimit(2, 100)):
        spans = [last - first for first, last in zip(counted, counted[limit.requests :], strict=False)]
        assert min(spans) >= limit.seconds, str(limit)
    print(f"ledger on two hosts: median {statistics.median(costs) * 1e3:.3f} ms")  # noqa: T201 -- for whoever looks
