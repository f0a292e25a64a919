"""`expirytrack status`: how everything stands, once or as a dashboard that goes on until Ctrl-C.

Only options and printing: what is looked at is `observe/lookout.py`, how it is drawn `observe/dashboard.py`.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from expirytrack_dagster.commands.options import JsonOption
from expirytrack_dagster.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from expirytrack_dagster.observe.overview import Overview
    from expirytrack_dagster.settings import Settings

EVERY = 1.0
"""Seconds between two looks of `--watch`."""

WatchOption = Annotated[
    bool, typer.Option("--watch", help="Refresh every second until Ctrl-C; with --json, one line of JSON each time.")
]


def status(*, watch: WatchOption = False, as_json: JsonOption = False) -> None:
    """Show limits, running cells, collected and missing data, token and horizon; --watch repeats until Ctrl-C."""
    from expirytrack_dagster import console
    from expirytrack_dagster.observe.lookout import look
    from expirytrack_dagster.servers import stoppable

    settings = load_settings()
    if watch and not as_json and (not console.out.is_terminal or console.out.is_dumb_terminal):
        raise typer.BadParameter("--watch draws on a terminal, and this is none: add --json, or leave --watch away.")
    if watch:
        with stoppable():
            _watch(settings, as_json=as_json)
        return
    with console.slow("Looking"):
        seen = look(settings, datetime.now(tz=UTC))
    if as_json:
        console.out.print_json(json.dumps(seen.as_json()))
    else:
        _say(seen)


def _watch(settings: Settings, *, as_json: bool) -> None:
    from rich.live import Live

    from expirytrack_dagster import console
    from expirytrack_dagster.observe.dashboard import Dashboard

    if as_json:
        for seen in _looks(settings):
            typer.echo(json.dumps(seen.as_json(), separators=(",", ":")))
        return
    with console.err.status("Looking ..."):
        looks = _looks(settings)
        first = Dashboard(next(looks))
    with Live(first, console=console.out, screen=True, auto_refresh=False) as live:
        for seen in looks:
            live.update(Dashboard(seen), refresh=True)


def _looks(settings: Settings) -> Iterator[Overview]:
    """Look every second; what cannot be read for a moment is told in the look, and the last figures stay."""
    from expirytrack_dagster.errors import StateBusy, StorageError
    from expirytrack_dagster.observe.lookout import Lookout, counted_often

    lookout = Lookout(settings, counted_often(settings))
    seen = lookout.look(datetime.now(tz=UTC))
    while True:
        yield seen
        time.sleep(EVERY)
        now = datetime.now(tz=UTC)
        try:
            seen = lookout.look(now)
        except (StateBusy, StorageError) as error:
            seen = replace(seen, at=now, unread=str(error))


def _say(seen: Overview) -> None:
    from expirytrack_dagster import console
    from expirytrack_dagster.observe.dashboard import running_line

    console.say(f"Archive: {seen.database}")
    names = ", ".join(f"{u.symbol} ({u.instrument_key})" for u in seen.underlyings)
    console.say(f"Tracked: {names or 'nothing yet, run: expirytrack track NIFTY'}")
    style = "red" if not seen.token.usable else "yellow" if seen.token_is_short else None
    console.say(f"Token:   {seen.token.sentence}", style=style)
    if seen.keys is not None:
        console.say(f"Keys:    {seen.keys}", style="yellow")
    _say_limits(seen)
    for cell in seen.running:
        console.say(f"Running: {running_line(cell)}", style="yellow" if cell.phase == "ended" else None)
    for leaving in seen.horizon.leaving:
        console.say(f"Horizon: {leaving.sentence}", style="yellow")
    for alert in seen.alerts:
        if alert.recovered_at is None:
            console.say(f"Alert:   {alert.sentence} {alert.todo}", style="red")
    collected = [cell for cell in seen.cells if cell.is_begun]
    for standing in seen.standings:
        begun = sum(cell.underlying == standing.underlying for cell in collected)
        console.say(f"{standing.underlying}: {standing.cells} expiries listed, {begun} collected")
    if collected:
        console.out.print(console.cells_table(collected))


def _say_limits(seen: Overview) -> None:
    from expirytrack_dagster import console

    for scope, budget in seen.budgets.items():
        of = f" ({scope})" if len(seen.budgets) > 1 else ""
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
