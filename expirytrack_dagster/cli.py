"""`expirytrack ...`: thin commands over the same code as the assets.

Every command ends with a clear result and an exit code: 0 done and complete, 1 error, 2 usage, 3 finished but not
complete, 4 no valid token or no Plus plan. Heavy modules are imported by the commands that need them, so that
`--help` and `status` answer at once.
"""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from expirytrack_dagster.commands.account import login, logout, token, warn_of_token
from expirytrack_dagster.commands.alerts import alerts
from expirytrack_dagster.commands.archive import quarantine, verify
from expirytrack_dagster.commands.audit import audit
from expirytrack_dagster.commands.backup import backup, restore
from expirytrack_dagster.commands.chart import chart
from expirytrack_dagster.commands.config import config, init
from expirytrack_dagster.commands.derive import derive
from expirytrack_dagster.commands.doctor import doctor
from expirytrack_dagster.commands.encryption import decrypt, encrypt
from expirytrack_dagster.commands.export import export
from expirytrack_dagster.commands.job import job
from expirytrack_dagster.commands.keys import keys
from expirytrack_dagster.commands.lake import maintain, snapshots
from expirytrack_dagster.commands.metrics import metrics
from expirytrack_dagster.commands.migrate import migrate
from expirytrack_dagster.commands.options import JsonOption, parse_day
from expirytrack_dagster.commands.plan import plan
from expirytrack_dagster.commands.query import query
from expirytrack_dagster.commands.status import status
from expirytrack_dagster.errors import ConfigurationError, ExpiryTrackError
from expirytrack_dagster.sandbox.command import sandbox
from expirytrack_dagster.settings import PREFIX, Settings, load_settings

if TYPE_CHECKING:
    from expirytrack_dagster.backfill import Outcome
    from expirytrack_dagster.collect.progress import ProgressSource
    from expirytrack_dagster.servers import Children

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Collect expired Indian futures and options from Upstox into DuckDB, and prove that nothing is missing.",
)
app.command()(init)
app.command()(sandbox)
app.command()(login)
app.command()(logout)
app.command()(token)
app.command()(verify)
app.command()(derive)
app.command()(doctor)
app.command()(export)
app.command()(query)
app.command()(snapshots)
app.command()(maintain)
app.command()(backup)
app.command()(restore)
app.command()(migrate)
app.command()(plan)
app.command()(metrics)
app.command()(status)
app.command()(job)
app.command()(encrypt)
app.command()(decrypt)
app.add_typer(config, name="config")
app.add_typer(chart, name="chart")
app.add_typer(quarantine, name="quarantine")
app.add_typer(alerts, name="alerts")
app.add_typer(audit, name="audit")
app.add_typer(keys, name="keys")


def _say_version(asked: bool) -> None:  # noqa: FBT001 -- Typer calls it with the option's value alone
    if asked:
        from importlib.metadata import version

        typer.echo(f"expirytrack {version('expirytrack-dagster')}")
        raise typer.Exit


@app.callback()
def _guard(
    *,
    _version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Show the version and end.")
    ] = False,
) -> None:
    """Close what this program writes to other users, before any command."""
    from expirytrack_dagster.console import err, say
    from expirytrack_dagster.observe import logs
    from expirytrack_dagster.security.access import close_home, close_what_is_made

    close_what_is_made()
    try:
        settings = load_settings()
    except ConfigurationError:
        return  # the command says so itself; --help does not need to
    for sentence in close_home(settings):
        say(sentence, to=err, style="yellow")
    logs.begin(settings, "command")


PortOption = Annotated[int, typer.Option(help="Port of the Dagster UI.")]
HostOption = Annotated[str, typer.Option(help="Address that the UI listens on; others than this machine's are open.")]


@app.command()
def track(
    symbol: Annotated[str, typer.Argument(help="Short symbol, such as NIFTY or RELIANCE.")],
    key: Annotated[str | None, typer.Option(help="Its Upstox key, such as 'NSE_INDEX|Nifty 50'.")] = None,
) -> None:
    """Track an underlying: it becomes a partition at once, without a restart."""
    from expirytrack_dagster.collect.tracking import check_symbol
    from expirytrack_dagster.console import say, slow

    settings = load_settings()
    symbol = check_symbol(symbol)  # before anything is written
    with slow(f"Looking for {symbol}"):
        from expirytrack_dagster.backfill import track as track_underlying
        from expirytrack_dagster.instance import open_instance

        with open_instance(settings) as instance:
            underlying = track_underlying(settings, instance, symbol, key)
    say(f"Tracking {underlying.symbol} ({underlying.instrument_key}).")


@app.command()
def untrack(symbol: Annotated[str, typer.Argument(help="A tracked symbol.")]) -> None:
    """Stop tracking an underlying; what was collected stays in the archive."""
    from expirytrack_dagster.collect import tracking
    from expirytrack_dagster.console import say, slow
    from expirytrack_dagster.security.audit import record
    from expirytrack_dagster.state import open_state

    settings = load_settings()
    symbol = tracking.check_symbol(symbol)
    if not tracking.untrack(open_state(settings), symbol):
        raise ConfigurationError(f"{symbol} is not tracked.")
    record(settings, "untrack", symbol=symbol)
    with slow(f"Letting go of {symbol}"):
        from expirytrack_dagster.instance import open_instance
        from expirytrack_dagster.partitions import remove_underlying

        with open_instance(settings) as instance:
            remove_underlying(instance, symbol)
    say(f"{symbol} is no longer tracked; its data stays in {settings.address.place}.")


@app.command()
def collect(
    symbols: Annotated[list[str] | None, typer.Argument(help="Symbols; all tracked ones if none is given.")] = None,
    expiry: Annotated[
        list[date] | None,
        typer.Option(
            parser=parse_day,
            metavar="YYYY-MM-DD",
            help="Only this expiry (repeat for more); all listed ones if not given.",
        ),
    ] = None,
    *,
    refetch: Annotated[bool, typer.Option(help="Ask again even for what the archive holds for good.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Collect what is missing: discovery, contract lists, candles; what the archive has is never asked again."""
    from expirytrack_dagster import console
    from expirytrack_dagster.collect import tracking
    from expirytrack_dagster.state import open_state

    settings = load_settings()
    started = time.monotonic()
    named = dict.fromkeys(tracking.check_symbol(symbol) for symbol in symbols or [])  # before anything is written
    wanted = [*named] or [underlying.symbol for underlying in tracking.tracked(open_state(settings))]
    if not wanted:
        raise ConfigurationError("Nothing is tracked yet: run 'expirytrack track NIFTY', or name a symbol.")
    warn_of_token(settings)
    with console.ProgressBars() as progress:
        outcome = _collected(settings, progress, wanted, expiry or [], refetch=refetch)
    if as_json:
        console.out.print_json(json.dumps(_as_json(outcome)))
    else:
        _show(outcome, time.monotonic() - started)
    raise typer.Exit(outcome.exit_code)


def _collected(
    settings: Settings, progress: ProgressSource, symbols: list[str], expiries: list[date], *, refetch: bool
) -> Outcome:
    from expirytrack_dagster import console
    from expirytrack_dagster.backfill import Backfill
    from expirytrack_dagster.backfill import track as track_underlying
    from expirytrack_dagster.instance import open_instance

    with open_instance(settings) as instance:
        tracked = [track_underlying(settings, instance, symbol).symbol for symbol in symbols]
        backfill = Backfill(settings, instance, progress, tell=lambda text: console.say(text, to=console.err))
        try:
            return backfill.collect(tracked, expiries, refetch=refetch)
        except KeyboardInterrupt:
            raise ExpiryTrackError(
                "Stopped: what has arrived is kept. Run the same command again, and only the rest is asked."
            ) from None


@app.command()
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


@app.command()
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
        _show(outcome, seconds, every_check=True)
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


def _show(outcome: Outcome, seconds: float, *, every_check: bool = False) -> None:
    from expirytrack_dagster import console
    from expirytrack_dagster.observe.overview import cell_counts

    if len(outcome.cells):
        console.out.print("")
        console.out.print(console.cells_table(cell_counts(outcome.cells)))
    lines = outcome.checks if every_check else [line for line in outcome.checks if not line.passed]
    if lines:
        console.out.print(console.checks_table(lines))
    for sentence in outcome.errors:
        console.say(sentence, to=console.err, style="red")
    if outcome.errors and not len(outcome.cells):
        return
    done = len(outcome.cells) - len(outcome.incomplete)
    candles = int(outcome.cells["candles"].sum()) if len(outcome.cells) else 0
    console.say(
        f"\n{done:,} of {len(outcome.cells):,} cells complete, {candles:,} candles, "
        f"{outcome.requests:,} requests, {seconds:.1f} s."
    )
    if len(outcome.incomplete):
        console.say("Not complete yet: run the same command again, only what is missing is asked.", to=console.err)


def _as_json(outcome: Outcome) -> dict[str, object]:
    from expirytrack_dagster.observe.overview import cell_counts

    return {
        "complete": outcome.exit_code == 0,
        "requests": outcome.requests,
        "errors": outcome.errors,
        "cells": [cell.as_json() for cell in cell_counts(outcome.cells)],
        "failed_checks": [
            {"cell": line.cell, "asset": line.asset, "check": line.name, "summary": line.summary}
            for line in outcome.checks
            if not line.passed
        ],
    }


def main() -> None:
    """Run the command line; an error of the tree becomes its one sentence and its exit code."""
    try:
        app()
    except ExpiryTrackError as error:
        from expirytrack_dagster import console

        console.say(str(error), to=console.err, style="red")
        sys.exit(error.exit_code)
