"""Whether the strict windows of the sandbox are ever exceeded by four processes, with and without `kill -9`.

The latency is random, up to 300 ms on each side of the counting instant, so the client never knows when the sandbox
counted. After the kill nobody knows either which of the requests under way were counted.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from expirytrack_dagster.state import StateDatabase
from expirytrack_dagster_tests.bench.figures import Figure
from expirytrack_dagster_tests.bench.load import (
    PROCESSES,
    TRUE_LIMITS,
    Seen,
    ask_share,
    finish,
    limits_of,
    sandbox,
    seen,
    soonest,
    split,
    start,
)
from expirytrack_dagster_tests.statements import sql

if TYPE_CHECKING:
    from collections.abc import Iterator

_LATENCY = (0.0, 0.3)
_KILL_AT = 0.3  # of the requests answered: in the middle of the first burst
_PATIENCE = 600.0


def run(*, quick: bool) -> Iterator[Figure]:
    """Yield the violations of an undisturbed run and of one whose processes are all killed."""
    limits, requests = ("50/1,200/6,800/20", 400) if quick else (TRUE_LIMITS, 1000)
    for killed in (False, True):
        observed = _ask(limits, requests, killed=killed)
        complete = observed.answered >= requests
        yield Figure(
            name="limits, all four killed" if killed else "limits",
            value=observed.violations,
            unit="violations",
            beside=observed.windows,
            bar="= 0",
            passed=observed.violations == 0 and complete,
            note=f"{PROCESSES} processes, {observed.answered:,} of {requests:,} requests answered in"
            f" {observed.seconds:.0f} s (floor without latency {soonest(limits_of(limits), requests):.0f} s)"
            f" at {limits}, 0 to 300 ms before and after counting",
        )


def _ask(limits: str, requests: int, *, killed: bool) -> Seen:
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        sandbox(limits, _LATENCY, _LATENCY) as url,
        StateDatabase(Path(folder) / "state.sqlite") as state,
    ):
        home, first, left = Path(folder), 0, requests
        if killed:
            processes = start(ask_share, split(url, home, limits, 0, requests))
            while (done := _answered(state)) < requests * _KILL_AT:
                if not all(process.is_alive() for process in processes):
                    raise RuntimeError("a client process ended before it was killed")
                time.sleep(0.05)
            for process in processes:
                process.kill()
            first, left = requests, requests - done  # other windows than before, which the cache may hold
        finish(start(ask_share, split(url, home, limits, first, left)), _PATIENCE)
        return seen(url)


def _answered(state: StateDatabase) -> int:
    """Return the requests whose answers the clients have; what was lost in a kill is asked again."""
    return int(state.query(sql("SELECT count(*) FROM requests WHERE outcome = 'ok'"))[0][0])
