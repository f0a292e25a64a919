"""`expirytrack snapshots` and `expirytrack maintain`: what a lake was before, and what keeps it small.

Only options and printing: the history is `warehouse/history.py`, the work `warehouse/maintenance.py`.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import date, timedelta
from typing import Annotated

import typer

from expirytrack_dagster.commands.archive import checked_symbol
from expirytrack_dagster.commands.options import AnySymbol, JsonOption, parse_day
from expirytrack_dagster.settings import load_settings

SHOWN = 20
"""Snapshots on the screen, if nothing else is said."""


def snapshots(
    symbol: AnySymbol = None,
    expiry: Annotated[
        date | None, typer.Option(parser=parse_day, metavar="YYYY-MM-DD", help="Only what wrote this cell.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help=f"How many at most, the newest first: {SHOWN} if not given, all as JSON.")
    ] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """List a lake's snapshots, newest first; `query --snapshot` and `archive.sql(snapshot=...)` read one."""
    from rich.table import Table

    from expirytrack_dagster import console
    from expirytrack_dagster.warehouse import history
    from expirytrack_dagster.warehouse.connection import open_warehouse

    if expiry is not None and symbol is None:
        raise typer.BadParameter("An expiry needs its symbol: expirytrack snapshots NIFTY --expiry 2025-08-28.")
    shown = limit if as_json else limit or SHOWN
    with console.slow("Reading the history"):
        found = history.snapshots(open_warehouse(load_settings()), checked_symbol(symbol), expiry, shown)
    if as_json:
        console.out.print_json(json.dumps({"snapshots": [asdict(one) for one in found]}, default=str))
        return
    table = Table("Snapshot", "Time (UTC)", "What", "Of", "Run", box=None, pad_edge=False, header_style="bold")
    for one in found:
        cells = ", ".join(f"{name} {day}" if day else name for name, day in one.cells)
        table.add_row(str(one.number), f"{one.at:%Y-%m-%d %H:%M:%S}", one.what, cells, one.run_id or "")
    console.out.print(table)


def maintain(*, as_json: JsonOption = False) -> None:
    """Compact a lake: merge small files, expire snapshots older than `snapshot_days`, delete orphaned files."""
    from expirytrack_dagster import console
    from expirytrack_dagster.warehouse import maintenance
    from expirytrack_dagster.warehouse.connection import open_warehouse

    settings = load_settings()
    with console.slow("Merging and cleaning"):
        done = maintenance.maintain(open_warehouse(settings), timedelta(days=settings.snapshot_days))
    if as_json:
        console.out.print_json(json.dumps(asdict(done)))
    elif not done.anything:
        console.say("Nothing to do: there are no small files, old snapshots or leftovers.")
    else:
        console.say(
            f"Rows written out of the catalogue: {done.rows_written_out:,}. Files: {done.files_before:,} before, "
            f"{done.files_after:,} now. Snapshots let go: {done.snapshots_expired:,}. Old files removed: "
            f"{done.files_removed:,}."
        )
