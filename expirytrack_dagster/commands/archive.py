"""`expirytrack verify` and `expirytrack quarantine ...`: the commands that look at what is stored; none asks the API.

Only options, questions and printing: what is proved is `verification.py`, what a review changes `warehouse/review.py`.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import date
from typing import TYPE_CHECKING, Annotated

import typer

from expirytrack_dagster.commands.options import AnySymbol, JsonOption, Symbol, parse_day
from expirytrack_dagster.settings import load_settings

if TYPE_CHECKING:
    import pandas as pd

    from expirytrack_dagster.warehouse.connection import Warehouse
    from expirytrack_dagster.warehouse.review import Action, Selection

quarantine = typer.Typer(
    name="quarantine", no_args_is_help=True, help="Review rows that broke a rule: list, release or discard them."
)


ExpiryOption = Annotated[
    date | None, typer.Option(parser=parse_day, metavar="YYYY-MM-DD", help="Only rows of this expiry.")
]
RuleOption = Annotated[str | None, typer.Option(help="Only rows that broke this rule, such as ohlc.")]
KeyOption = Annotated[str | None, typer.Option(help="Only rows of this contract: SEGMENT|token|DD-MM-YYYY.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]


def verify(symbol: AnySymbol = None, *, as_json: JsonOption = False) -> None:
    """Verify the archive against itself, without a request: exit code 0 when all is proven, 3 when not."""
    from expirytrack_dagster import console
    from expirytrack_dagster.verification import verify_archive

    settings = load_settings()
    with console.slow_bar("Reading", "candles") as progress:
        result = verify_archive(_archive(), settings.staging, checked_symbol(symbol), progress)
    if as_json:
        report = {"proven": result.proven, "summary": result.summary, "totals": asdict(result.totals)}
        console.out.print_json(json.dumps(report | {"findings": [asdict(finding) for finding in result.findings]}))
    else:
        if result.findings:
            console.out.print(console.findings_table(result.findings))
        console.say(result.summary)
    raise typer.Exit(0 if result.proven else 3)


@quarantine.command("list")
def list_rows(
    symbol: AnySymbol = None,
    expiry: ExpiryOption = None,
    rule: RuleOption = None,
    key: KeyOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Show what is in quarantine by cell and rule, and the rows themselves where an option narrows it."""
    from expirytrack_dagster import console
    from expirytrack_dagster.warehouse.review import Selection, chosen

    with console.slow("Reading the quarantine"):
        rows = chosen(_archive(), Selection(checked_symbol(symbol), expiry, rule, key))
    if as_json:
        console.out.print_json(json.dumps({"rows": _records(rows)}))
    elif rows.empty:
        console.say("Nothing in quarantine matches.")
    else:
        console.out.print(console.quarantine_table(rows))
        if expiry or rule or key:
            console.say("")
            console.say_rows(rows)


@quarantine.command()
def release(
    symbol: Symbol,
    expiry: ExpiryOption = None,
    rule: RuleOption = None,
    key: KeyOption = None,
    *,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Move rows into candles as they were received; a row that breaks a key of the table stays in quarantine."""
    from expirytrack_dagster.warehouse.review import Selection

    _review("release", Selection(checked_symbol(symbol), expiry, rule, key), yes=yes, as_json=as_json)


@quarantine.command()
def discard(
    symbol: Symbol,
    expiry: ExpiryOption = None,
    rule: RuleOption = None,
    key: KeyOption = None,
    *,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Delete rows for good; the count of rows received keeps them."""
    from expirytrack_dagster.warehouse.review import Selection

    _review("discard", Selection(checked_symbol(symbol), expiry, rule, key), yes=yes, as_json=as_json)


def _review(action: Action, selection: Selection, *, yes: bool, as_json: bool) -> None:
    from expirytrack_dagster import console
    from expirytrack_dagster.security import audit
    from expirytrack_dagster.warehouse import review
    from expirytrack_dagster.warehouse.published import publish

    archive = _archive()
    with console.slow("Reading the quarantine"):
        rows = review.chosen(archive, selection)
    able = rows[rows["obstacle"].isna()] if action == "release" else rows
    stay = rows.drop(able.index)
    if not as_json:
        _show_plan(action, able, stay)
    agreed = len(able) > 0 and (yes or (not as_json and _asked(f"{action.capitalize()} {_rows(len(able))}?")))
    done = able.iloc[:0]
    if agreed:
        with console.slow("Writing"):
            done = review.review(archive, selection, action, audit.current_user())
            audit.record(load_settings(), action, rows=len(done), **_named(selection))
            publish(archive, selection.underlying, selection.expiry)
    if as_json:
        report = {"action": action, "changed": agreed, "rows": _records(done if agreed else able)}
        console.out.print_json(json.dumps(report | {"stay": _records(stay)}))
    elif agreed:
        console.say(f"{_rows(len(done))} {action}d." if action == "release" else f"{_rows(len(done))} {action}ed.")
    elif len(able):
        console.say("Nothing was changed; --yes does it without asking.")
    raise typer.Exit(3 if len(stay) else 0)


def _show_plan(action: Action, able: pd.DataFrame, stay: pd.DataFrame) -> None:
    from expirytrack_dagster import console

    if not len(able) + len(stay):
        console.say("Nothing in quarantine matches.")
    if len(able):
        console.say(f"To {action}:")
        console.out.print(console.quarantine_table(able))
    for reason, rows in stay.groupby("obstacle"):
        first = rows.iloc[0]
        console.say(
            f"{_rows(len(rows))} cannot be released, because {reason} (such as {first['instrument_key']}, "
            f"{first['ts']}): discard what is not wanted, or collect the cell again with --refetch.",
            style="yellow",
        )


def _asked(question: str) -> bool:
    """Ask at the terminal; where nobody answers, the answer is no."""
    try:
        return typer.confirm(question)
    except typer.Abort:
        typer.echo()
        return False


def _rows(number: int) -> str:
    return f"{number:,} row" if number == 1 else f"{number:,} rows"


def _named(selection: Selection) -> dict[str, str]:
    return {name: str(value) for name, value in asdict(selection).items() if value is not None}


def checked_symbol(symbol: str | None) -> str | None:
    """Take a symbol of the command line, if one was given."""
    from expirytrack_dagster.collect.tracking import check_symbol

    return None if symbol is None else check_symbol(symbol)


def _archive() -> Warehouse:
    from expirytrack_dagster.warehouse.connection import open_warehouse

    return open_warehouse(load_settings())


def _records(rows: pd.DataFrame) -> list[dict[str, object]]:
    frame = rows.assign(expiry=rows["expiry"].astype("str"))
    records: list[dict[str, object]] = json.loads(frame.to_json(orient="records", date_format="iso"))
    return records
