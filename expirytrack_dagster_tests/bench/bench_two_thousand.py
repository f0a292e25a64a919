"""How long 2,000 requests take at the account's limits, beside the least possible and beside pyrate-limiter.

Both clients have four processes with ten requests under way each, and fresh windows; the sandbox answers after 100 ms,
counting in the middle of them, and refuses what exceeds a window. Our client asks again what was refused, the peer has
nothing that would: its time is that of sending all requests once.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from expirytrack_dagster_tests.bench import peer
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

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from expirytrack_dagster_tests.bench.load import Share

_BAR = 1.02


def run(*, quick: bool) -> Iterator[Figure]:
    """Yield our time and the peer's; quick, everything is a fifth, the latency too."""
    limits, requests, latency = ("50/1,100/12,400/360", 400, 0.02) if quick else (TRUE_LIMITS, 2000, 0.1)
    floor = soonest(limits_of(limits), requests)
    scaled = "scaled down: " if quick else ""
    note = f"{scaled}{requests:,} requests at {limits}, {PROCESSES} processes, {latency * 1000:.0f} ms"
    for name, client in (("ours", ask_share), ("pyrate-limiter", peer.ask_share)):
        observed = _ask(client, limits, requests, latency, floor)
        seconds = observed.seconds + latency
        is_ours = client is ask_share
        complete = observed.answered >= requests and not observed.violations
        yield Figure(
            name=f"two_thousand, {name}",
            value=seconds,
            unit="s",
            beside=f"floor {floor:.1f} s; {observed.violations} violations, {observed.answered:,} answered;"
            f" {observed.windows}",
            ratio=seconds / floor,
            bar=f"<= {_BAR} x floor, 0 violations" if is_ours else "",
            passed=seconds <= _BAR * floor and complete if is_ours else None,
            note=note,
        )


def _ask(client: Callable[[Share], None], limits: str, requests: int, latency: float, floor: float) -> Seen:
    half = (latency / 2, latency / 2)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, sandbox(limits, half, half) as url:
        finish(start(client, split(url, Path(folder), limits, 0, requests)), within=2 * floor + 60)
        return seen(url)
