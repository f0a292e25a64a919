"""Whether one client process keeps up with the per-second limit when every answer has 7,500 candles.

The server, in a process of its own, sends bodies made in advance after a fixed latency. A slot is taken for the width
of its window and the latency, so the limiter allows `50 / (1 s + latency)` a second; the client is to be no slower, and
what it waits for is to be the limiter.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import uvicorn

from expirytrack_dagster.sandbox.running import address, listen
from expirytrack_dagster.upstox.client import UpstoxClient
from expirytrack_dagster.upstox.ledger import open_ledger
from expirytrack_dagster_tests.bench.bodies import CANDLES, bodies
from expirytrack_dagster_tests.bench.figures import Figure
from expirytrack_dagster_tests.bench.load import Share, contract, in_parallel, limits_of, together, window

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Iterator, Sequence

_LIMITS = "50/1"
_LATENCY = 0.05
_BAR = 0.95


@dataclass(frozen=True, slots=True)
class Kept:
    """How the client kept up: seconds in all, those spent waiting for slots, and those of a processor.

    `busy` is the share of the whole machine that all programs used meanwhile, `size` the mean size of a body.
    """

    seconds: float
    waited: float
    processor: float
    busy: float
    size: float


def run(*, quick: bool) -> Iterator[Figure]:
    """Yield the rate that one client reaches with the default settings, and without the answer cache."""
    requests = 250 if quick else 1000
    answers = [body for _, body in bodies()]
    (limit,) = limits_of(_LIMITS)
    allowed = limit.requests / (limit.seconds + _LATENCY)
    for cache in (True, False):
        with (
            tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
            _serving(answers) as url,
            together(1) as pool,
        ):
            share = Share(contract(), url, Path(folder), _LIMITS, 0, requests, cache)
            kept = pool.submit(ask, share).result()
        rate = requests / kept.seconds
        yield Figure(
            name="end_to_end" if cache else "end_to_end, without the cache",
            value=rate,
            unit="answers/s",
            beside=f"the limiter allows {allowed:.1f}/s",
            ratio=rate / allowed,
            bar=f"ratio >= {_BAR}" if cache else "",
            passed=rate >= _BAR * allowed if cache else None,
            note=f"{requests:,} answers of {CANDLES:,} candles ({kept.size / 1e6:.2f} MB),"
            f" {_LATENCY * 1000:.0f} ms latency; {kept.waited / kept.seconds:.0%} of the time waiting for a slot,"
            f" {kept.processor / kept.seconds:.0%} of one processor, {rate * CANDLES / 1e6:.2f} M rows/s;"
            f" {kept.busy:.0%} of the machine busy",
        )


def ask(share: Share) -> Kept:
    """Ask a share with one client, alone in its process."""
    return asyncio.run(_ask(share))


async def _ask(share: Share) -> Kept:
    settings = share.settings
    sizes: list[int] = []
    async with UpstoxClient(settings, open_ledger(settings)) as client:

        async def get(number: int) -> None:
            candles = await client.get_historical_data(share.key, "1minute", *window(number))
            if candles.table.num_rows != CANDLES:
                raise AssertionError("an answer lost candles on its way")
            sizes.append(candles.bytes)

        psutil.cpu_percent()  # begins to count
        began, processor = time.perf_counter(), time.process_time()
        await in_parallel(range(share.count), get, settings.workers)
        seconds, processor = time.perf_counter() - began, time.process_time() - processor
        return Kept(seconds, client.waited, processor, psutil.cpu_percent() / 100, sum(sizes) / len(sizes))


@contextmanager
def _serving(answers: Sequence[bytes]) -> Iterator[str]:
    """Serve the bodies, one after the other whatever is asked, and yield the address."""
    listening = listen("127.0.0.1", 0)
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(listening, answers), daemon=True)
    server.start()
    try:
        httpx.get(address(listening), timeout=60, trust_env=False)  # its start is not measured
        yield address(listening)
    finally:
        server.terminate()
        server.join()
        listening.close()


def serve(listening: socket.socket, answers: Sequence[bytes]) -> None:
    """Answer for ever; the target of a process."""
    turn = itertools.cycle(answers)

    async def app(scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[..., Any]) -> None:
        del scope, receive
        body = next(turn)
        await asyncio.sleep(_LATENCY)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    config = uvicorn.Config(app, lifespan="off", log_level="critical", access_log=False)
    uvicorn.Server(config).run(sockets=[listening])
