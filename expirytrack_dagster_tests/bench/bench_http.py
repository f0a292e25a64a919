"""HTTP/2 beside HTTP/1.1 at the per-second limit: what 1.7 MB answers over TLS cost the client, and how long they take.

The server, in a process of its own, speaks both from bodies made in advance; the client is the project's own pool.
Requests start every 20 ms as the limiter would let them, with ten under way at most. Only transport is measured:
no decoding, no ledger.
"""

from __future__ import annotations

import asyncio
import gzip
import multiprocessing
import os
import ssl
import statistics
import tempfile
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

import h2.config
import h2.connection
import h2.events
import trustme

from expirytrack_dagster.settings import Settings
from expirytrack_dagster.upstox.transport import open_http
from expirytrack_dagster_tests.bench.bodies import bodies
from expirytrack_dagster_tests.bench.figures import Figure

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection

_RATE = 50
_SIZE = 1_700_000
_READ = 1 << 16


def run(*, quick: bool) -> Iterator[Figure]:
    """Yield the client's processor time a thousand requests and the median latency, for both kinds of body."""
    requests = 100 if quick else 500
    body = b"".join(body for _, body in bodies()[:6])[:_SIZE]
    with tempfile.TemporaryDirectory() as folder:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(f"{folder}/ca.pem")
        authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(f"{folder}/server.pem")
        with patch.dict(os.environ, SSL_CERT_FILE=f"{folder}/ca.pem"):
            for packed in (False, True):
                answer = gzip.compress(body, 6) if packed else body
                with _serving(Path(folder, "server.pem"), answer, packed=packed) as url:
                    yield from _compared(url, Path(folder), requests, len(answer), packed=packed)


def _compared(url: str, folder: Path, requests: int, size: int, *, packed: bool) -> Iterator[Figure]:
    measured: dict[bool, tuple[float, list[float]]] = {False: (0.0, []), True: (0.0, [])}
    for http2 in (False, True, True, False):  # both orders, so that a slower minute of the machine hits both
        settings = Settings(home=folder, api_url=url, http2=http2)
        processor, latencies = asyncio.run(_ask(settings, requests // 2))
        before, known = measured[http2]
        measured[http2] = (before + processor, known + latencies)
    kind = "gzip" if packed else "plain"
    (one, one_latency), (two, two_latency) = measured[False], measured[True]
    yield Figure(
        name=f"http.{kind}",
        value=two * 1000 / requests,
        unit="processor s/1,000 requests with HTTP/2",
        beside=f"HTTP/1.1 {one * 1000 / requests:.2f} s",
        ratio=two / one,
        note=f"{requests} answers of {_SIZE / 1e6:.1f} MB ({size / 1e6:.2f} MB sent) each; latency median (p95) HTTP/2 "
        f"{_spread(two_latency)}, HTTP/1.1 {_spread(one_latency)}",
    )


def _spread(latencies: list[float]) -> str:
    ordered = sorted(latencies)
    return f"{statistics.median(ordered) * 1000:.0f} ms ({ordered[int(len(ordered) * 0.95)] * 1000:.0f} ms)"


async def _ask(settings: Settings, requests: int) -> tuple[float, list[float]]:
    """Return processor seconds of this process and the latency of each request in seconds."""
    latencies = []
    places = asyncio.Semaphore(settings.workers)
    async with open_http(settings) as http:

        async def one() -> None:
            async with places:
                started = time.perf_counter()
                size = 0
                async with http.stream("GET", settings.api_url) as response:
                    async for chunk in response.aiter_bytes():
                        size += len(chunk)
                if size != _SIZE or response.http_version != ("HTTP/2" if settings.http2 else "HTTP/1.1"):
                    raise AssertionError("the server answers in full and in the version that was asked for")
                latencies.append(time.perf_counter() - started)

        await one()  # the handshake is not measured
        latencies.clear()
        processor = time.process_time()
        async with asyncio.TaskGroup() as group:
            for _ in range(requests):
                group.create_task(one())
                await asyncio.sleep(1 / _RATE)
        return time.process_time() - processor, latencies


@contextmanager
def _serving(certificate: Path, answer: bytes, *, packed: bool) -> Iterator[str]:
    """Serve from a process of its own and yield the address."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(certificate, answer, packed, theirs), daemon=True)
    process.start()
    try:
        yield f"https://localhost:{ours.recv()}"
    finally:
        process.terminate()
        process.join()


def _serve(certificate: Path, answer: bytes, packed: bool, announce: Connection) -> None:  # noqa: FBT001  a process's argument
    async def main() -> None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)
        tls.set_alpn_protocols(["h2", "http/1.1"])
        handler = partial(_connection, answer=answer, packed=packed)
        server = await asyncio.start_server(handler, "127.0.0.1", 0, ssl=tls)
        announce.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


async def _connection(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answer: bytes, packed: bool
) -> None:
    encoding = [("content-encoding", "gzip")] if packed else []
    try:
        if writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2":
            await _http2(reader, writer, answer, [(":status", "200"), *encoding])
        else:
            lines = ["HTTP/1.1 200 OK", f"content-length: {len(answer)}", *(f"{n}: {v}" for n, v in encoding)]
            head = "\r\n".join([*lines, "", ""]).encode()
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(head + answer)
                await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def _http2(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: bytes, head: list[tuple[str, str]]
) -> None:
    """Send as much of every stream as the client's windows allow, in turns."""
    http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
    http.initiate_connection()
    left: dict[int, memoryview] = {}
    while True:
        writer.write(http.data_to_send())
        await writer.drain()
        data = await reader.read(_READ)
        if not data:
            return
        for event in http.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                http.send_headers(event.stream_id, head)
                left[event.stream_id] = memoryview(answer)
        for stream in list(left):
            while left[stream] and (room := min(http.local_flow_control_window(stream), http.max_outbound_frame_size)):
                http.send_data(stream, left[stream][:room].tobytes())
                left[stream] = left[stream][room:]
            if not left[stream]:
                http.end_stream(stream)
                del left[stream]
