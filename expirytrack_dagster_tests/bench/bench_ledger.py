"""What taking and settling a slot costs while four processes do little else, beside pyrate-limiter's acquire.

The windows hold as many requests as the true ones but are a thousandth as wide, and full of old rows: so every query
reads as far back as it would at work, and nobody ever has to wait. The peer has no answer to book: its figure is the
acquire alone.

The same in PostgreSQL, on a machine where root may make two hosts: eight processes that together ask faster than the
account may, and whose clocks disagree.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pyrate_limiter import Limiter

from expirytrack_dagster.settings import load_settings
from expirytrack_dagster.upstox.calls import Call, Receipt
from expirytrack_dagster.upstox.ledger import Wait, open_ledger
from expirytrack_dagster_tests.asking import on, results
from expirytrack_dagster_tests.bench.figures import Figure
from expirytrack_dagster_tests.bench.load import PROCESSES, limits_of, together
from expirytrack_dagster_tests.bench.peer import open_bucket
from expirytrack_dagster_tests.hosts import NETWORK, SERVER, two_hosts, why_not
from expirytrack_dagster_tests.postgres import postgres_server, programs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_LIMITS = "50/0.001,500/0.01,2000/0.1"
_OLD_ROWS = 2500
_BAR = 1.0
_PAUSE = 0.004
_FAST = "250/1,2500/60,100000/1800"
"""Five times the account's requests a second, so that nobody waits."""
_BAR_OF_HOSTS = 3.0
_APART = 0.1  # seconds at most between a request's slot and its counting, and from there to its answer


def run(*, quick: bool) -> Iterator[Figure]:
    """Yield the median and the 95th percentile of both, in ms."""
    rounds, count = (1, 250) if quick else (5, 500)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        for costs in (our_costs, peer_costs):
            costs(home, _OLD_ROWS)
        measured = [(_measure(our_costs, home, count), _measure(peer_costs, home, count)) for _ in range(rounds)]
    ours, theirs = (_spread([cost for part in parts for cost in part]) for parts in zip(*measured, strict=True))
    for name, index in (("median", 0), ("95 %", 1)):
        is_median = index == 0
        yield Figure(
            name=f"ledger, acquire and settle, {name}",
            value=ours[index],
            unit="ms",
            beside=f"pyrate-limiter's acquire {theirs[index]:.3f} ms",
            ratio=ours[index] / theirs[index],
            bar=f"<= {_BAR:g} ms" if is_median else "",
            passed=ours[index] <= _BAR if is_median else None,
            note=f"{PROCESSES} processes, {rounds * count:,} requests each, 0 to {_PAUSE * 1000:.0f} ms between them",
        )

    if why_not() is None and programs() is not None:
        yield _on_two_hosts(100 if quick else 500)


def _on_two_hosts(count: int) -> Figure:
    """Measure eight processes on two hosts that share a ledger in PostgreSQL, and count in true time what they sent."""
    with two_hosts() as hosts, postgres_server(SERVER, NETWORK) as server:
        address = server.create("shared")
        errors = (600.0, -600.0)
        processes = [on(hosts[n % 2], address, _FAST, count, _APART, errors[n % 2]) for n in range(8)]
        counted, costs = results(processes, 600)
    median, most = _spread(costs)
    too_many = sum(
        last - first < limit.seconds
        for limit in limits_of(_FAST)
        for first, last in zip(counted, counted[limit.requests :], strict=False)
    )
    return Figure(
        name="ledger in PostgreSQL, acquire and settle, median",
        value=median,
        unit="ms",
        bar=f"<= {_BAR_OF_HOSTS:g} ms and no window exceeded",
        passed=median <= _BAR_OF_HOSTS and not too_many,
        note=f"8 processes on 2 hosts whose clocks are 20 minutes apart, {8 * count:,} requests, "
        f"{len(counted) / (counted[-1] - counted[0]):.0f} a second, windows exceeded {too_many} times, "
        f"95 % {most:.2f} ms",
    )


def _measure(costs: Callable[[Path, int], list[float]], home: Path, count: int) -> list[float]:
    """Return the costs of all processes, in seconds."""
    with together(PROCESSES) as pool:
        return [cost for part in pool.map(costs, [home] * PROCESSES, [count] * PROCESSES) for cost in part]


def _spread(costs: list[float]) -> tuple[float, float]:
    """Return the median and the 95th percentile in ms."""
    return statistics.median(costs) * 1000, statistics.quantiles(costs, n=20)[-1] * 1000


def our_costs(home: Path, count: int) -> list[float]:
    """Return the seconds that each of so many slots cost; the pauses between them do not count."""
    call = Call("candles", "NSE_FO|1|28-08-2025")
    costs: list[float] = []
    ledger = open_ledger(load_settings(home=home, rate_limits=_LIMITS))
    while len(costs) < count:
        began = time.perf_counter()
        slot = ledger.acquire(call, lease=60.0)
        cost = time.perf_counter() - began
        if not isinstance(slot, Wait):
            _pause()
            began = time.perf_counter()
            ledger.settle(slot, Receipt("ok", counted_at=time.time(), status=200))
            costs.append(cost + time.perf_counter() - began)
        _pause()
    return costs


def peer_costs(home: Path, count: int) -> list[float]:
    """Return the seconds that each of so many permits of the peer cost."""
    costs: list[float] = []
    with Limiter(open_bucket(home, _LIMITS)) as limiter:
        while len(costs) < count:
            began = time.perf_counter()
            limiter.try_acquire("upstox")  # its other form, blocking=False, does not work with a lock file
            costs.append(time.perf_counter() - began)
            _pause()
    return costs


def _pause() -> None:
    time.sleep(random.uniform(0, _PAUSE / 2))  # noqa: S311 - no secret is made of it
