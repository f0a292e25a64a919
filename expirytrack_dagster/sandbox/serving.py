"""The sandbox as a program of its own, until Ctrl-C or SIGTERM.

Options are read in `commands/sandbox.py`. Tests that need a sandbox in their own process use `running.py`.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from typing import TYPE_CHECKING

import typer
import uvicorn

from expirytrack_dagster.sandbox.running import address, build_server, listen
from expirytrack_dagster.sandbox.server import UPSTOX_LIMITS, Sandbox

if TYPE_CHECKING:
    import socket
    from collections.abc import Collection, Sequence

    from expirytrack_dagster.sandbox.market import Market
    from expirytrack_dagster.sandbox.switches import Switches
    from expirytrack_dagster.settings import RateLimit


class _Announcing(uvicorn.Server):
    """Says where it listens when it has taken over the signals, so that nobody stops it before it can be stopped."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listening in sockets or ():
            typer.echo(f"sandbox ready at {address(listening)}")


def serve(
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    market: Market,
    limits: Sequence[RateLimit] = UPSTOX_LIMITS,
    switches: Switches | None = None,
    tokens: Collection[str] = (),
) -> None:
    """Serve a market until Ctrl-C or SIGTERM; call it in the main thread.

    Prints `sandbox ready at http://HOST:PORT` once. Returns after Ctrl-C, leaves with `SystemExit(0)` after SIGTERM.

    Raises:
        ConfigurationError: the port is taken, or a switch does not fit the market.
    """
    sandbox = Sandbox(market, limits=limits, switches=switches, tokens=tokens)
    listening = listen(host, port)
    server = build_server(sandbox, _Announcing)
    # uvicorn ends in good order, then gives the signal back to whoever had it before.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listening])
    finally:
        signal.signal(signal.SIGTERM, before)
