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

from expirytrack_dagster.commands.account import login, logout, say_token, token, token_report, warn_of_token
from expirytrack_dagster.commands.archive import quarantine, verify
from expirytrack_dagster.commands.audit import audit
from expirytrack_dagster.commands.backup import backup, restore
from expirytrack_dagster.commands.chart import chart
from expirytrack_dagster.commands.config import config, init
from expirytrack_dagster.commands.derive import derive
from expirytrack_dagster.commands.encryption import decrypt, encrypt
from expirytrack_dagster.commands.export import export
from expirytrack_dagster.commands.job import job
from expirytrack_dagster.commands.keys import keys
from expirytrack_dagster.commands.options import JsonOption, parse_day
from expirytrack_dagster.commands.plan import plan
from expirytrack_dagster.commands.query import query
from expirytrack_dagster.errors import ConfigurationError, ExpiryTrackError
from expirytrack_dagster.sandbox.command import sandbox
from expirytrack_dagster.settings import PREFIX, load_settings

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd

    from expirytrack_dagster.backfill import Outcome
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
app.command()(export)
app.command()(query)
app.command()(backup)
app.command()(restore)
app.command()(plan)
app.command()(job)
app.command()(encrypt)
app.command()(decrypt)
app.add_typer(config, name="config")
app.add_typer(chart, name="chart")
app.add_typer(quarantine, name="quarantine")
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
    from expirytrack_dagster.security.access import close_home, close_what_is_made

    close_what_is_made()
    try:
        settings = load_settings()
    except ConfigurationError:
        return  # the command says so itself; --help does not need to
    for sentence in close_home(settings):
        say(sentence, to=err, style="yellow")


PortOption = Annotated[int, typer.Option(help="Port of the Dagster UI.")]
HostOption = Annotated[str, typer.Option(help="Address that the UI listens on; others than this machine's are open.")]


@app.command()
def track(
    symbol: Annotated[str, typer.Argument(help="Short symbol, such as NIFTY or RELIANCE.")],
    key: Annotated[str | None, typer.Option(help="Its Upstox key, such as 'NSE_INDEX|Nifty 50'.")] = None,
) -> None:
    """Track an underlying: it becomes a partition at once, without a restart."""
    from expirytrack_dagster.backfill import track as track_underlying
    from expirytrack_dagster.collect.tracking import check_symbol
    from expirytrack_dagster.console import say
    from expirytrack_dagster.instance import open_instance

    settings = load_settings()
    symbol = check_symbol(symbol)  # before anything is written
    with open_instance(settings) as instance:
        underlying = track_underlying(settings, instance, symbol, key)
    say(f"Tracking {underlying.symbol} ({underlying.instrument_key}).")


@app.command()
def untrack(symbol: Annotated[str, typer.Argument(help="A tracked symbol.")]) -> None:
    """Stop tracking an underlying; what was collected stays in the archive."""
    from expirytrack_dagster.collect import tracking
    from expirytrack_dagster.console import say
    from expirytrack_dagster.instance import open_instance
    from expirytrack_dagster.partitions import remove_underlying
    from expirytrack_dagster.security.audit import record
    from expirytrack_dagster.state import StateDatabase

    settings = load_settings()
    symbol = tracking.check_symbol(symbol)
    if not tracking.untrack(StateDatabase(settings.state), symbol):
        raise ConfigurationError(f"{symbol} is not tracked.")
    record(settings, "untrack", symbol=symbol)
    with open_instance(settings) as instance:
        remove_underlying(instance, symbol)
    say(f"{symbol} is no longer tracked; its data stays in {settings.database}.")


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
    from expirytrack_dagster.backfill import Backfill
    from expirytrack_dagster.backfill import track as track_underlying
    from expirytrack_dagster.collect import tracking
    from expirytrack_dagster.instance import open_instance
    from expirytrack_dagster.state import StateDatabase

    settings = load_settings()
    started = time.monotonic()
    named = dict.fromkeys(tracking.check_symbol(symbol) for symbol in symbols or [])  # before anything is written
    wanted = [*named] or [underlying.symbol for underlying in tracking.tracked(StateDatabase(settings.state))]
    if not wanted:
        raise ConfigurationError("Nothing is tracked yet: run 'expirytrack track NIFTY', or name a symbol.")
    warn_of_token(settings)
    progress = console.ProgressBars()
    with open_instance(settings) as instance, progress:
        tracked = [track_underlying(settings, instance, symbol).symbol for symbol in wanted]
        backfill = Backfill(settings, instance, progress, tell=lambda text: console.say(text, to=console.err))
        try:
            outcome = backfill.collect(tracked, expiry or [], refetch=refetch)
        except KeyboardInterrupt:
            raise ExpiryTrackError(
                "Stopped: what has arrived is kept. Run the same command again, and only the rest is asked."
            ) from None
    if as_json:
        console.out.print_json(json.dumps(_as_json(outcome)))
    else:
        _show(outcome, time.monotonic() - started)
    raise typer.Exit(outcome.exit_code)


@app.command()
def status(*, as_json: JsonOption = False) -> None:
    """Show what is tracked, the state of every cell, and what is left of the API's limits."""
    from expirytrack_dagster import console
    from expirytrack_dagster.collect import tracking
    from expirytrack_dagster.state import StateDatabase
    from expirytrack_dagster.upstox.ledger import open_ledger
    from expirytrack_dagster.upstox.tokens import token_state
    from expirytrack_dagster.warehouse import reader
    from expirytrack_dagster.warehouse.connection import open_warehouse

    settings = load_settings()
    state = StateDatabase(settings.state)
    underlyings = tracking.tracked(state)
    cells = reader.cells(open_warehouse(settings))
    ledger = open_ledger(settings)
    budgets = {scope: ledger.budget(scope) for scope in ledger.all_scopes()}
    if as_json:
        report = {
            "home": str(settings.home),
            "token": token_report(token_state(settings)),
            "underlyings": [{"symbol": u.symbol, "instrument_key": u.instrument_key} for u in underlyings],
            "cells": _records(cells),
            "budget": [
                {
                    "scope": scope,
                    "seconds": window.limit.seconds,
                    "used": window.used,
                    "allowed": window.limit.requests,
                }
                for scope, budget in budgets.items()
                for window in budget.windows
            ],
            "cooldown": _worst(
                {"scope": scope, "seconds": budget.cooldown_seconds, "reason": budget.cooldown_reason}
                for scope, budget in budgets.items()
            ),
            "breaker": _worst(
                {
                    "scope": scope,
                    "seconds": budget.circuit_seconds,
                    "state": budget.circuit_state,
                    "failures": budget.circuit.failures,
                    "reason": budget.circuit.reason or None,
                }
                for scope, budget in budgets.items()
            ),
        }
        console.out.print_json(json.dumps(report))
        return
    console.say(f"Archive: {settings.database}")
    names = ", ".join(f"{u.symbol} ({u.instrument_key})" for u in underlyings)
    console.say(f"Tracked: {names or 'nothing yet, run: expirytrack track NIFTY'}")
    say_token(settings)
    for scope, budget in budgets.items():
        of = f" ({scope})" if len(budgets) > 1 else ""
        for window in budget.windows:
            left = max(0, window.limit.requests - window.used)
            console.say(
                f"Limit:   {left:,} of {window.limit.requests:,} requests left in {window.limit.seconds:g} s{of}"
            )
        if budget.cooldown_reason:
            console.say(f"Paused:  for {budget.cooldown_seconds:.0f} s, {budget.cooldown_reason}{of}")
        if budget.circuit_state == "open":
            console.say(f"Breaker: open for {budget.circuit_seconds:.0f} s, last failure: {budget.circuit.reason}{of}")
        elif budget.circuit_state == "half-open":
            console.say(f"Breaker: half-open, the next request tries, last failure: {budget.circuit.reason}{of}")
    collected = cells[(cells["contracts"] > 0) | cells["sealed"].astype(bool)]
    for symbol, listed in cells.groupby("underlying"):
        console.say(f"{symbol}: {len(listed)} expiries listed, {listed.index.isin(collected.index).sum()} collected")
    if len(collected):
        console.out.print(console.cells_table(collected))


@app.command()
def ui(port: PortOption = 3000, host: HostOption = "127.0.0.1") -> None:
    """Serve the Dagster UI and its daemon until Ctrl-C."""
    from expirytrack_dagster import servers
    from expirytrack_dagster.instance import open_instance

    settings = load_settings()
    with open_instance(settings):
        pass  # made before webserver and daemon open it at the same moment
    with servers.stoppable(), servers.Children(settings.home / "logs") as children:
        _serve_ui(children, port, host)


@app.command()
def demo(*, ui: Annotated[bool, typer.Option(help="Serve the UI afterwards.")] = True, port: PortOption = 3000) -> None:
    """Try everything without an account: a local Upstox, a collection through Dagster, then the UI."""
    from expirytrack_dagster import servers
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
    url = servers.start_ui(children, port, host)
    say(f"Dagster UI: {url}  (Ctrl-C ends it)")
    while True:
        children.check()
        time.sleep(0.5)


def _show(outcome: Outcome, seconds: float, *, every_check: bool = False) -> None:
    from expirytrack_dagster import console

    if len(outcome.cells):
        console.out.print("")
        console.out.print(console.cells_table(outcome.cells))
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
    return {
        "complete": outcome.exit_code == 0,
        "requests": outcome.requests,
        "errors": outcome.errors,
        "cells": _records(outcome.cells),
        "failed_checks": [
            {"cell": line.cell, "asset": line.asset, "check": line.name, "summary": line.summary}
            for line in outcome.checks
            if not line.passed
        ],
    }


def _worst(states: Iterable[dict[str, object]]) -> dict[str, object]:
    """Return what holds requests back longest, of one entry a scope."""
    return max(states, key=lambda state: (state["seconds"], state.get("state", "") == "half-open"))


def _records(cells: pd.DataFrame) -> list[dict[str, object]]:
    text: list[dict[str, object]] = json.loads(cells.to_json(orient="records", date_format="iso"))
    for record in text:
        record["expiry"] = str(record["expiry"])[:10]
    return text


def main() -> None:
    """Run the command line; an error of the tree becomes its one sentence and its exit code."""
    try:
        app()
    except ExpiryTrackError as error:
        from expirytrack_dagster import console

        console.say(str(error), to=console.err, style="red")
        sys.exit(error.exit_code)
