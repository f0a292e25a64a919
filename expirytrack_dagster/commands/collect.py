"""`expirytrack collect`: collect what is missing through Dagster, and show how it went.

What is collected in which order is `backfill.py`; only arguments, progress and the result belong here.
"""

from __future__ import annotations

import json
import time
from datetime import date
from typing import TYPE_CHECKING, Annotated

import typer

from expirytrack_dagster.commands.account import warn_of_token
from expirytrack_dagster.commands.options import JsonOption, parse_day
from expirytrack_dagster.errors import ConfigurationError, ExpiryTrackError
from expirytrack_dagster.settings import Settings, load_settings

if TYPE_CHECKING:
    from expirytrack_dagster.backfill import Outcome
    from expirytrack_dagster.collect.progress import ProgressSource


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
    refetch: Annotated[bool, typer.Option(help="Request again even what the archive holds for good.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Collect what is missing: expiries, contract lists, candles; what is archived is never requested again."""
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
        show(outcome, time.monotonic() - started)
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


def show(outcome: Outcome, seconds: float, *, every_check: bool = False) -> None:
    """Print the cells, the checks (those that failed, or every one), the errors, and a line that sums it up."""
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
