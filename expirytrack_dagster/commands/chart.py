"""`expirytrack chart ...`: pictures of what the archive holds; no request.

Only options and printing: what is drawn is `charts/`.
"""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from expirytrack_dagster.commands.archive import checked_symbol
from expirytrack_dagster.commands.options import Symbol, parse_day
from expirytrack_dagster.export.selection import Interval, Selection
from expirytrack_dagster.settings import load_settings

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from expirytrack_dagster.warehouse.connection import Warehouse

chart = typer.Typer(
    name="chart", no_args_is_help=True, help="Draw a contract, the smile of a chain, the coverage of a cell."
)


def _instant(text: str) -> datetime:
    from expirytrack_dagster.ist import IST

    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"'{text}' is no time of the form 'YYYY-MM-DD HH:MM'.") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=IST)


_DAY = "YYYY-MM-DD"
ExpiryArgument = Annotated[date, typer.Argument(parser=parse_day, metavar=_DAY, help="Expiry date.")]
ToOption = Annotated[Path, typer.Option(metavar="FILE", help="The picture to write: a .png or .svg file.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")]


@chart.command()
def bars(
    contract: Annotated[
        str,
        typer.Argument(
            help="An instrument key, or a symbol of Upstox, OpenAlgo or the exchange, such as NIFTY28AUG2524500CE."
        ),
    ],
    to: ToOption,
    first: Annotated[
        date | None, typer.Option("--from", parser=parse_day, metavar=_DAY, help="First trading day, in India.")
    ] = None,
    last: Annotated[date | None, typer.Option("--until", parser=parse_day, metavar=_DAY, help="Last one.")] = None,
    interval: Annotated[
        Interval | None, typer.Option(help="Width of a bar; the narrowest that fits into a picture if none is given.")
    ] = None,
    *,
    overwrite: OverwriteOption = False,
) -> None:
    """Draw a contract: candles, volume and open interest."""
    with _drawing():
        from expirytrack_dagster.charts.drawing import bars_chart
        from expirytrack_dagster.charts.paper import check_file

        target = check_file(to.expanduser(), overwrite=overwrite)
        selection = Selection(first_day=first, last_day=last)
        title = bars_chart(_archive(), contract, target, selection, interval)
    _told(title, target)


@chart.command()
def smile(
    symbol: Symbol,
    expiry: ExpiryArgument,
    to: ToOption,
    at: Annotated[
        datetime | None,
        typer.Option(
            parser=_instant,
            metavar="'YYYY-MM-DD HH:MM'",
            help="The minute, in India; the last one before noon that has a volatility if none is given.",
        ),
    ] = None,
    *,
    overwrite: OverwriteOption = False,
) -> None:
    """Draw the volatilities of a chain in a minute, and how far its calls and puts stray from parity on that day."""
    with _drawing():
        from expirytrack_dagster.charts.drawing import smile_chart
        from expirytrack_dagster.charts.paper import check_file

        target = check_file(to.expanduser(), overwrite=overwrite)
        title = smile_chart(_archive(), checked_symbol(symbol) or "", expiry, at, target)
    _told(title, target)


@chart.command()
def coverage(symbol: Symbol, expiry: ExpiryArgument, to: ToOption, *, overwrite: OverwriteOption = False) -> None:
    """Draw in which share of each day's minutes each contract of a cell traded (a .png file)."""
    with _drawing():
        from expirytrack_dagster.charts.drawing import coverage_chart
        from expirytrack_dagster.charts.paper import check_file

        target = check_file(to.expanduser(), overwrite=overwrite)
        title = coverage_chart(_archive(), checked_symbol(symbol) or "", expiry, target)
    _told(title, target)


def _drawing() -> AbstractContextManager[None]:
    from expirytrack_dagster.console import slow

    return slow("Drawing")


def _told(title: str, target: Path) -> None:
    from expirytrack_dagster.console import say

    say(f"{title}: {target}")


def _archive() -> Warehouse:
    from expirytrack_dagster.warehouse.connection import open_warehouse

    return open_warehouse(load_settings())
