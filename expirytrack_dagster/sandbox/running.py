"""Host a sandbox: in a thread for the tests of any room, or as the building block of the command.

Belongs here: uvicorn, sockets and threads. What is served is `server.py`'s affair. Servers listen before they are
announced, so an address that was handed out can be asked at once.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import uvicorn

from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.sandbox.server import UPSTOX_LIMITS, Sandbox

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from starlette.types import Scope

    from expirytrack_dagster.sandbox.market import Market
    from expirytrack_dagster.sandbox.planting import Planted
    from expirytrack_dagster.sandbox.server import Logged
    from expirytrack_dagster.sandbox.switches import Switches
    from expirytrack_dagster.settings import RateLimit

# SO_LINGER on, with zero seconds: closing then resets the connection. Windows has shorter fields.
RESET_ON_CLOSE = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Running:
    """A sandbox that is being served: its address, and what a test may look at and switch without a request."""

    url: str
    sandbox: Sandbox

    def stats(self) -> dict[str, Any]:
        """Return what `GET /_sandbox/stats` answers."""
        return self.sandbox.stats()

    def requests(self) -> list[Logged]:
        """Return every request so far, in the order of the answers."""
        return list(self.sandbox.log)

    def planted(self) -> list[Planted]:
        """Return every planted row as it is served."""
        return self.sandbox.planted()

    def switch(self, **switches: Any) -> None:
        """Set the named switches, such as `plus=False`; the others stay, and the counts of the faults start anew."""
        self.sandbox.set_switches(msgspec.structs.replace(self.sandbox.switches, **switches))


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 takes any free one.

    Raises:
        ConfigurationError: the address cannot be had.
    """
    try:
        return socket.create_server((host, port), backlog=512)
    except OSError as error:
        raise ConfigurationError(f"The sandbox cannot listen at {host}:{port}: {error.strerror}.") from error


def address(listening: socket.socket) -> str:
    """Return the URL of a listening socket."""
    host, port = listening.getsockname()[:2]
    return f"http://{host}:{port}"


def build_server(sandbox: Sandbox, server_class: type[uvicorn.Server] = uvicorn.Server) -> uvicorn.Server:
    """Return a quiet HTTP/1.1 server for a sandbox, with the means to reset a connection."""
    config = uvicorn.Config(
        sandbox,
        http="h11",
        ws="none",
        lifespan="off",
        log_level="critical",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    server = server_class(config)

    def cut(scope: Scope) -> None:
        for connection in list(server.server_state.connections):
            known: Any = connection  # uvicorn types every protocol that it could have been told to speak
            if known.client == scope["client"]:
                known.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                known.transport.abort()

    sandbox.cut = cut
    return server


@contextmanager
def running(
    market: Market | Sandbox,
    *,
    limits: Sequence[RateLimit] = UPSTOX_LIMITS,
    switches: Switches | None = None,
    tokens: Collection[str] = (),
) -> Iterator[Running]:
    """Serve a market (or a sandbox built by hand) on a free port of 127.0.0.1 for the length of a `with` block.

    Many may run at once in a process. The block's end waits until the server has gone.
    """
    sandbox = (
        market if isinstance(market, Sandbox) else Sandbox(market, limits=limits, switches=switches, tokens=tokens)
    )
    listening = listen("127.0.0.1", 0)
    server = build_server(sandbox)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="sandbox", daemon=True)
    thread.start()
    try:
        yield Running(address(listening), sandbox)
    finally:
        server.should_exit = True
        thread.join()
