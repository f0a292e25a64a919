"""`expirytrack job ...`: one run of a job that is listed in the Dagster UI, on the same instance.

`expirytrack collect` is what people want as a rule: it finds by itself what is missing. This runs exactly one job.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import date
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from expirytrack_dagster.commands.options import JsonOption, Symbol, parse_day
from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.settings import load_settings

if TYPE_CHECKING:
    from expirytrack_dagster.collect.progress import ProgressSource
    from expirytrack_dagster.runs import RunReport


class Job(StrEnum):
    """The jobs with partitions, as in `jobs.py`."""

    EXPIRY_FETCH = "expiry_fetch"
    CONTRACT_FETCH = "contract_fetch"
    HISTORICAL_DATA_FETCH = "historical_data_fetch"
    DATA_VALIDATION = "data_validation"


JobName = Annotated[Job, typer.Argument(help="What to run.")]
ExpiryOption = Annotated[
    date | None, typer.Option(parser=parse_day, metavar="YYYY-MM-DD", help="The cell's expiry; not for expiry_fetch.")
]


def job(name: JobName, symbol: Symbol, expiry: ExpiryOption = None, *, as_json: JsonOption = False) -> None:
    """Run one job of the Dagster UI for an underlying or a cell; data_validation proves a cell without a request."""
    from expirytrack_dagster import console
    from expirytrack_dagster.collect.tracking import check_symbol

    symbol = check_symbol(symbol)
    if (name is Job.EXPIRY_FETCH) == (expiry is not None):
        raise typer.BadParameter(
            "expiry_fetch takes a symbol alone." if expiry else f"{name} needs a cell: add --expiry YYYY-MM-DD."
        )
    with console.ProgressBars() as progress:
        report = _run(name, symbol, expiry, progress)
    failed = [line for line in report.checks if not line.passed]
    if as_json:
        console.out.print_json(json.dumps({**asdict(report), "complete": not failed and report.error is None}))
    else:
        console.out.print(console.checks_table(report.checks))
        if report.error:
            console.say(report.error, to=console.err, style="red")
    raise typer.Exit(report.exit_code or (3 if failed else 0))


def _run(name: Job, symbol: str, expiry: date | None, progress: ProgressSource) -> RunReport:
    from expirytrack_dagster import partitions
    from expirytrack_dagster.instance import open_instance
    from expirytrack_dagster.runs import Runner

    with open_instance(load_settings()) as instance:
        known = instance.get_dynamic_partitions(partitions.UNDERLYING)
        if symbol not in known:
            raise ConfigurationError(f"{symbol} is not tracked: run 'expirytrack track {symbol}' first.")
        if expiry is not None and expiry.isoformat() not in instance.get_dynamic_partitions(partitions.EXPIRY):
            raise ConfigurationError(
                f"No expiry on {expiry} is known: run 'expirytrack job expiry_fetch {symbol}' first."
            )
        partition = partitions.cell_key(symbol, expiry.isoformat()) if expiry else symbol
        return Runner(instance, progress).launch(name, partition)
