"""Arguments and options that several commands have, each with one name, one help and one way to be read."""

from __future__ import annotations

from datetime import date
from typing import Annotated

import typer


def parse_day(text: str) -> date:
    """Take a date of the command line."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"'{text}' is no date of the form YYYY-MM-DD.") from None


AnySymbol = Annotated[str | None, typer.Argument(help="Short symbol; everything in the archive if none is given.")]
Symbol = Annotated[str, typer.Argument(help="Short symbol, such as NIFTY.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
