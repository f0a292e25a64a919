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
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn

from expirytrack_dagster.sandbox.running import address, listen
from expirytrack_dagster.upstox.client import UpstoxClient
from expirytrack_dagster.upstox.ledger import open_ledger
from expirytrack_dagster_tests.bench.bodies import CANDLES, bodies
from expirytrack_dagster_tests.bench.figures import Figure
from expirytrack_dagster_tests.bench.load import EXPIRY, Share, contract, in_parallel, limits_of, together

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Iterator, Sequence

_LIMITS = "50/1"
_LATENCY = 0.05
_BAR = 0.95


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
            share = Share(url, Path(folder), _LIMITS, 0, requests, cache)
            seconds, waited, processor, size = pool.submit(ask, share).result()
        rate = requests / seconds
        yield Figure(
            name="end_to_end" if cache else "end_to_end, without the cache",
            value=rate,
            unit="answers/s",
            beside=f"the limiter allows {allowed:.1f}/s",
            ratio=rate / allowed,
            bar=f"ratio >= {_BAR}" if cache else "",
            passed=rate >= _BAR * allowed if cache else None,
            note=f"{requests:,} answers of {CANDLES:,} candles ({size / 1e6:.2f} MB), {_LATENCY * 1000:.0f} ms latency;"
            f" {waited / seconds:.0%} of the time waiting for a slot, {processor / seconds:.0%} of one processor,"
            f" {rate * CANDLES / 1e6:.2f} M rows/s",
        )


def ask(share: Share) -> tuple[float, float, float, float]:
    """Return the seconds taken, those spent waiting for slots, processor seconds, and the mean size of a body."""
    return asyncio.run(_ask(share))


async def _ask(share: Share) -> tuple[float, float, float, float]:
    settings, key = share.settings, contract()
    sizes: list[int] = []
    async with UpstoxClient(settings, open_ledger(settings)) as client:

        async def get(number: int) -> None:
            first = EXPIRY - timedelta(days=number)
            candles = await client.get_historical_data(key, "1minute", first, EXPIRY)
            if candles.table.num_rows != CANDLES:
                raise AssertionError("an answer lost candles on its way")
            sizes.append(candles.bytes)

        began, processor = time.perf_counter(), time.process_time()
        await in_parallel(range(share.count), get, settings.workers)
        seconds, processor = time.perf_counter() - began, time.process_time() - processor
        return seconds, client.waited, processor, sum(sizes) / len(sizes)


@contextmanager
def _serving(answers: Sequence[bytes]) -> Iterator[str]:
    """Serve the bodies, one after the other whatever is asked, and yield the address."""
    listening = listen("127.0.0.1", 0)
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(listening, answers), daemon=True)
    server.start()
    try:
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
