"""`expirytrack derive`: make what is derived from candles where it is missing or old; no request.

Only options, progress and printing: the runs are `runs.py`, the SQL is `warehouse/derivations/`.
"""

from __future__ import annotations

import json
from datetime import date
from typing import TYPE_CHECKING, Annotated

import typer

from expirytrack_dagster.commands.archive import checked_symbol
from expirytrack_dagster.commands.options import AnySymbol, JsonOption, parse_day
from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Callable


def derive(
    symbol: AnySymbol = None,
    expiry: Annotated[
        date | None,
        typer.Option(parser=parse_day, metavar="YYYY-MM-DD", help="Only this expiry, even if it is up to date."),
    ] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Derive daily bars, chains, volatilities, metrics and continuous futures from new candles; no request."""
    from expirytrack_dagster import console

    settings = load_settings()
    symbol = checked_symbol(symbol)
    if expiry is not None and symbol is None:
        raise typer.BadParameter("An expiry needs its symbol: expirytrack derive NIFTY --expiry 2025-08-28.")
    with console.slow_bar("Deriving", "cells") as progress:
        made, errors = _derive(settings, symbol, expiry, progress)
    if as_json:
        cells = [{"underlying": name, "expiry": day.isoformat()} for name, day in made]
        console.out.print_json(json.dumps({"cells": cells, "errors": errors}))
    else:
        for sentence in errors:
            console.say(sentence, to=console.err, style="red")
        done = f"{len(made):,} cell{'' if len(made) == 1 else 's'} derived."
        console.say(done if made else "Everything is derived from the newest candles.")
    raise typer.Exit(1 if errors else 0)


def _derive(
    settings: Settings, symbol: str | None, expiry: date | None, progress: Callable[[int, int], None]
) -> tuple[list[tuple[str, date]], list[str]]:
    """Derive what is wanted; return its cells, and a sentence for each that failed."""
    from expirytrack_dagster.console import ProgressBars
    from expirytrack_dagster.instance import open_instance
    from expirytrack_dagster.jobs import derivation, futures_rolling
    from expirytrack_dagster.partitions import add_expiries, add_underlying, cell_key
    from expirytrack_dagster.runs import Runner
    from expirytrack_dagster.warehouse.connection import open_warehouse
    from expirytrack_dagster.warehouse.derived import derivable, outdated

    archive = open_warehouse(settings)
    there = derivable(archive, symbol)  # what is not must not become a partition either
    if symbol and (not there or (expiry and (symbol, expiry) not in there)):
        raise ConfigurationError(
            f"The archive has no candle of {symbol}{f' {expiry}' if expiry else ''}: see 'expirytrack status'."
        )
    wanted = [(symbol, expiry)] if symbol and expiry else outdated(archive, settings.interest_rate, symbol)
    errors: list[str] = []
    with open_instance(settings) as instance:
        runner = Runner(instance, ProgressBars())
        add_expiries(instance, [day.isoformat() for _, day in wanted])
        for name in sorted({name for name, _ in wanted}):
            add_underlying(instance, name)
        for done, (name, day) in enumerate(wanted):
            progress(done, len(wanted))
            report = runner.launch(derivation.name, cell_key(name, day.isoformat()))
            errors += [f"{name} {day}: {report.error}"] if report.error else []
        for name in sorted({name for name, _ in wanted}):
            report = runner.launch(futures_rolling.name, name)
            errors += [f"{name}: {report.error}"] if report.error else []
    return wanted, errors
