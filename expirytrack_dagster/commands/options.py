"""Arguments and options that several commands have, each with one name, one help and one way to be read."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated

import typer

from expirytrack_dagster.ist import IST


def parse_day(text: str) -> date:
    """Take a date of the command line."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"'{text}' is no date of the form YYYY-MM-DD.") from None


def parse_snapshot(text: str) -> int | datetime:
    """Take the number of a snapshot, or a time; one without a zone is Indian."""
    if text.isdecimal():
        return int(text)
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"'{text}' is neither a number nor a time such as 2025-08-26T15:30.") from None
    return instant.replace(tzinfo=IST) if instant.tzinfo is None else instant


AnySymbol = Annotated[str | None, typer.Argument(help="Short symbol; everything in the archive if none is given.")]
Symbol = Annotated[str, typer.Argument(help="Short symbol, such as NIFTY.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
