"""`expirytrack plan`: what the missing cells cost and when they are done; asks the API nothing.

Only printing: the plan itself is `planning.py`.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from expirytrack_dagster.commands.options import JsonOption
from expirytrack_dagster.settings import load_settings

if TYPE_CHECKING:
    from rich.table import Table

    from expirytrack_dagster.collect.plan import Plan

SHOWN = 30

_MARKS = {"known": "", "estimated": "~", "guessed": "?"}

AnySymbol = Annotated[str | None, typer.Argument(help="Short symbol; every tracked one if none is given.")]


def plan(symbol: AnySymbol = None, *, as_json: JsonOption = False) -> None:
    """Show what collecting the missing data costs, what fits before the token expires, and what comes too late."""
    from expirytrack_dagster import console
    from expirytrack_dagster.collect import tracking
    from expirytrack_dagster.collect.plan import numbers, table
    from expirytrack_dagster.errors import ConfigurationError
    from expirytrack_dagster.planning import outlook
    from expirytrack_dagster.state import open_state
    from expirytrack_dagster.upstox.ledger import open_ledger
    from expirytrack_dagster.warehouse.connection import open_warehouse

    settings = load_settings()
    state = open_state(settings)
    symbols = [tracking.find(state, symbol).symbol] if symbol else [known.symbol for known in tracking.tracked(state)]
    if not symbols:
        raise ConfigurationError("Nothing is tracked yet: run 'expirytrack track NIFTY'.")
    with console.slow("Counting what is missing"):
        look = outlook(settings, open_warehouse(settings), open_ledger(settings), datetime.now(tz=UTC))
        made = look.plan(look.missing(symbols))
    unlisted = sorted(set(symbols) - {cell.underlying for cell in look.cells})
    if as_json:
        report = {
            **numbers(made),
            "made": made.made.isoformat(),
            "finish": made.finish.isoformat(),
            "token_dies": made.token_dies.isoformat(),
            "cells_missing": json.loads(table(made).to_json(orient="records")),
            "not_discovered": unlisted,
        }
        console.out.print_json(json.dumps(report))
        return
    if made.cells:
        console.out.print(_table(made))
    if made.cells or len(unlisted) < len(symbols):
        console.say(_sentence(made))
    for name in unlisted:
        console.say(
            f"{name} is not planned, its expiries were never asked for: run `expirytrack job expiry_fetch {name}`, "
            "which costs one request."
        )
    for cell in made.late[:3]:
        console.say(f"{cell.underlying} {cell.expiry} may leave Upstox's list on {cell.leaves}, before it is complete.")


def _table(made: Plan) -> Table:
    from rich.table import Table

    from expirytrack_dagster.ist import IST

    grid = Table(title="What is missing, in the order of the work", title_justify="left")
    for name in ("cell", "contracts", "requests", "candles", "MB", "complete by (IST)", "may leave"):
        grid.add_column(
            name,
            no_wrap=name == "cell",
            justify="right" if name in {"contracts", "requests", "candles", "MB"} else "left",
        )
    for cell in made.cells[:SHOWN]:
        finish = cell.finish.astimezone(IST) if cell.finish else None
        late = "" if cell in made.tonight else " (not before the token dies)"
        grid.add_row(
            f"{cell.underlying} {cell.expiry}",
            f"{cell.contracts:,}",
            f"{_MARKS[cell.basis]}{cell.requests:,}",
            f"{cell.rows:,}",
            f"{cell.bytes / 1e6:,.1f}",
            f"{finish:%d %b %H:%M}{late}" if finish else "",
            str(cell.leaves or ""),
        )
    grid.caption = "~ estimated from cells that were collected, ? guessed before the first one"
    if len(made.cells) > SHOWN:
        grid.caption = f"and {len(made.cells) - SHOWN:,} more (--json lists all); {grid.caption}"
    return grid


def _sentence(made: Plan) -> str:
    from expirytrack_dagster.ist import IST

    if not made.cells:
        return "Nothing is missing: every cell that Upstox is known to list is complete."
    dies, finish = made.token_dies.astimezone(IST), made.finish.astimezone(IST)
    return (
        f"{len(made.cells):,} cells need about {made.requests:,} requests, complete by {finish:%d %b %Y %H:%M} IST at "
        f"the earliest. Before the token dies ({dies:%d %b %H:%M} IST) {made.until_token_dies:,} requests can leave: "
        f"{len(made.tonight):,} cells fit."
    )
