"""`expirytrack ...`: the list of commands, what precedes each of them, and how an error ends.

Every command ends with a clear result and an exit code: 0 done and complete, 1 error, 2 usage, 3 finished but not
complete, 4 no valid token or no Plus plan. The commands are in `commands/`, one module a subject; they import heavy
modules when they need them, so that `--help` and `status` answer at once.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from expirytrack_dagster.commands.account import login, logout, token
from expirytrack_dagster.commands.alerts import alerts
from expirytrack_dagster.commands.archive import quarantine, verify
from expirytrack_dagster.commands.audit import audit
from expirytrack_dagster.commands.backup import backup, restore
from expirytrack_dagster.commands.chart import chart
from expirytrack_dagster.commands.collect import collect
from expirytrack_dagster.commands.config import config, init
from expirytrack_dagster.commands.derive import derive
from expirytrack_dagster.commands.doctor import doctor
from expirytrack_dagster.commands.encryption import decrypt, encrypt
from expirytrack_dagster.commands.export import export
from expirytrack_dagster.commands.job import job
from expirytrack_dagster.commands.keys import keys
from expirytrack_dagster.commands.lake import maintain, snapshots
from expirytrack_dagster.commands.metrics import metrics
from expirytrack_dagster.commands.migrate import migrate
from expirytrack_dagster.commands.plan import plan
from expirytrack_dagster.commands.query import query
from expirytrack_dagster.commands.sandbox import sandbox
from expirytrack_dagster.commands.status import status
from expirytrack_dagster.commands.track import track, untrack
from expirytrack_dagster.commands.ui import demo, ui
from expirytrack_dagster.errors import ConfigurationError, ExpiryTrackError
from expirytrack_dagster.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Collect expired Indian futures and options from Upstox into DuckDB, and prove that nothing is missing.",
)

_COMMANDS: dict[str, tuple[Callable[..., Any] | typer.Typer, ...]] = {
    "Start": (init, demo, sandbox, config, login, logout, token),
    "Collect": (track, untrack, plan, collect, status, job, ui),
    "Read": (query, snapshots, derive, chart, export),
    "Prove": (verify, quarantine, audit),
    "Keep safe": (backup, restore, encrypt, decrypt, keys),
    "Operate": (doctor, metrics, alerts, migrate, maintain),
}
"""The commands under the headings of `--help`."""

for _heading, _commands in _COMMANDS.items():
    for _command in _commands:
        if isinstance(_command, typer.Typer):
            app.add_typer(_command, rich_help_panel=_heading)
        else:
            app.command(rich_help_panel=_heading)(_command)


def _say_version(asked: bool) -> None:  # noqa: FBT001 -- Typer calls it with the option's value alone
    if asked:
        from importlib.metadata import version

        typer.echo(f"expirytrack {version('expirytrack-dagster')}")
        raise typer.Exit


@app.callback()
def _guard(
    *,
    _version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Show the version and end.")
    ] = False,
) -> None:
    """Close what this program writes to other users, before any command."""
    from expirytrack_dagster.console import err, say
    from expirytrack_dagster.observe import logs
    from expirytrack_dagster.security.access import close_home, close_what_is_made

    close_what_is_made()
    try:
        settings = load_settings()
    except ConfigurationError:
        return  # the command says so itself; --help does not need to
    for sentence in close_home(settings):
        say(sentence, to=err, style="yellow")
    logs.begin(settings, "command")


def main() -> None:
    """Run the command line; an error of the tree becomes its one sentence and its exit code."""
    try:
        app()
    except ExpiryTrackError as error:
        from expirytrack_dagster import console

        console.say(str(error), to=console.err, style="red")
        sys.exit(error.exit_code)
