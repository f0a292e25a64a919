"""`expirytrack ui` and `demo`: serve the Dagster UI, of this home or of one that tries everything.

How servers start and end is `servers.py`; what the demo collects is `demo.py`.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from expirytrack_dagster.commands.collect import show
from expirytrack_dagster.settings import PREFIX, load_settings

if TYPE_CHECKING:
    from expirytrack_dagster.servers import Children

PortOption = Annotated[int, typer.Option(help="Port of the Dagster UI.")]
HostOption = Annotated[
    str, typer.Option(help="Address to listen on; any but loopback is open to others, without a login.")
]


def ui(port: PortOption = 3000, host: HostOption = "127.0.0.1") -> None:
    """Serve the Dagster UI and its daemon until Ctrl-C, and /metrics where EXPIRYTRACK_METRICS_PORT is set."""
    from expirytrack_dagster import servers
    from expirytrack_dagster.console import say, slow

    settings = load_settings()
    with slow("Preparing"):
        from expirytrack_dagster.instance import open_instance
        from expirytrack_dagster.observe.endpoint import serving

        with open_instance(settings):
            pass  # made before webserver and daemon open it at the same moment
    with servers.stoppable(), servers.Children(settings.home / "logs") as children, serving(settings) as address:
        if address:
            say(f"Metrics: {address}")
        _serve_ui(children, port, host)


def demo(*, ui: Annotated[bool, typer.Option(help="Serve the UI afterwards.")] = True, port: PortOption = 3000) -> None:
    """Try everything without an account: a local Upstox, a collection through Dagster, then the UI."""
    from expirytrack_dagster import servers
    from expirytrack_dagster.console import slow

    with slow("Preparing"):
        from expirytrack_dagster.demo import run_demo
    os.environ.setdefault(f"{PREFIX}HOME", str(Path("data") / "demo"))
    settings = load_settings()
    with servers.stoppable(), servers.Children(settings.home / "logs") as children:
        if ui:
            servers.require_free(port)  # before anything is collected
        outcome, seconds = run_demo(children, settings.home)
        show(outcome, seconds, every_check=True)
        if outcome.exit_code:
            raise typer.Exit(outcome.exit_code)
        if ui:
            _serve_ui(children, port)


def _serve_ui(children: Children, port: int, host: str = "127.0.0.1") -> None:
    from expirytrack_dagster import console, servers
    from expirytrack_dagster.console import say
    from expirytrack_dagster.settings import is_loopback

    servers.require_free(port)
    if not is_loopback(f"http://[{host}]" if ":" in host else f"http://{host}"):
        say(
            f"Warning: whoever reaches {host}:{port} may see and start everything, since Dagster's UI asks nobody who "
            "they are. Put a server that does in front of it: docs/security.md says how.",
            to=console.err,
            style="yellow",
        )
    say("Starting the Dagster UI ...")
    with console.slow("Waiting until it answers"):
        url = servers.start_ui(children, port, host)
    say(f"Dagster UI: {url}  (Ctrl-C ends it)")
    while True:
        children.check()
        time.sleep(0.5)
