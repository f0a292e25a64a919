"""`expirytrack query "SELECT ..."`: the archive for people, read-only.

Only options and printing: what may be asked is `warehouse/query.py`.
"""

from __future__ import annotations

import json
import sys
from itertools import chain, islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from expirytrack_dagster.commands.options import parse_snapshot
from expirytrack_dagster.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

SnapshotOption = Annotated[
    str | None,
    typer.Option(
        metavar="N|TIME",
        help="Ask a lake as it was after this commit (see `snapshots`), or at this time: 2025-08-26T15:30 (in India).",
    ),
]

SHOWN = 100
"""Rows of a table on the screen, if nothing else is said."""

_WIDE = 10_000  # columns: a value that is cut off is worse than a line that is folded


def query(
    sql: Annotated[str, typer.Argument(help="One query, such as 'SELECT count(*) FROM candles'.")],
    limit: Annotated[
        int | None, typer.Option(min=1, help=f"Maximum rows; default: {SHOWN} in a table, all with --json and --csv.")
    ] = None,
    snapshot: SnapshotOption = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the rows as CSV.")] = False,
) -> None:
    """Query the archive in SQL: read-only, and confined to the archive. Times are UTC."""
    from expirytrack_dagster.warehouse.connection import open_warehouse
    from expirytrack_dagster.warehouse.query import answered

    if as_json and as_csv:
        raise typer.BadParameter("--json or --csv, not both.")
    archive = open_warehouse(load_settings())
    with answered(archive if snapshot is None else archive.at(parse_snapshot(snapshot)), sql) as answer:
        rows = _begun(answer)
        if as_csv:
            _print_csv(answer.schema.names, islice(rows, limit))
        elif as_json:
            _print_json(answer.schema.names, islice(rows, limit))
        else:
            _print_table(answer.schema.names, rows, limit or SHOWN)


def _print_csv(names: list[str], rows: Iterator[tuple[Any, ...]]) -> None:
    import csv

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(rows)


def _print_json(names: list[str], rows: Iterator[tuple[Any, ...]]) -> None:
    """Print an array, a row a line, without ever holding all of it."""
    before = "[\n"
    for row in rows:
        typer.echo(before + json.dumps(dict(zip(names, row, strict=True)), default=str), nl=False)
        before = ",\n"
    typer.echo("\n]" if before == ",\n" else "[]")


def _print_table(names: list[str], answer: Iterator[tuple[Any, ...]], limit: int) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from expirytrack_dagster import console

    rows = list(islice(answer, limit + 1))
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in names:
        table.add_column(Text(name), no_wrap=True)
    for row in rows[:limit]:
        table.add_row(*(Text("" if value is None else str(value)) for value in row))
    Console(width=_WIDE, file=console.out.file, highlight=False).print(table)
    if len(rows) > limit:
        console.say("There are more rows: --limit shows some, --csv and --json all.", to=console.err)


def _begun(answer: pa.RecordBatchReader) -> Iterator[tuple[Any, ...]]:
    """Wait for the first rows, where the work is done as a rule, and return all."""
    from expirytrack_dagster.console import slow

    batches = iter(answer)
    with slow("Asking the archive"):
        first = list(islice(batches, 1))
    return (row for batch in chain(first, batches) for row in zip(*(c.to_pylist() for c in batch.columns), strict=True))
