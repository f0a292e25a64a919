"""`expirytrack audit ...`: look at the log of who did what, and prove that nobody has changed it.

Only options and printing: the log and its proof are `security/audit.py`.
"""

from __future__ import annotations

import json
import re
from collections import deque
from dataclasses import asdict
from typing import Annotated

import typer

from expirytrack_dagster.commands.options import JsonOption
from expirytrack_dagster.security.audit import AuditLog
from expirytrack_dagster.settings import load_settings

audit = typer.Typer(
    name="audit", no_args_is_help=True, help="Show and verify the log of logins, exports, restores and releases."
)

_HEAD = re.compile(r"(\d{1,15}):([0-9a-f]{64})")


def _head(text: str) -> tuple[int, str]:
    found = _HEAD.fullmatch(text)
    if found is None:
        raise typer.BadParameter(f"'{text[:80]}' is not of the form NUMBER:HASH, as 'audit verify' prints it.")
    return int(found[1]), found[2]


HeadOption = Annotated[
    str | None,
    typer.Option(metavar="NUMBER:HASH", help="A head that was printed earlier: is it still there?"),
]
EventOption = Annotated[str | None, typer.Option(help="Only this kind of event, such as login.")]
LastOption = Annotated[int, typer.Option(min=1, help="How many lines, the latest ones.")]


@audit.command()
def verify(head: HeadOption = None, *, as_json: JsonOption = False) -> None:
    """Find altered, removed, added and moved lines and a truncated end: exit code 0 if none, else 3."""
    from expirytrack_dagster.console import say, slow
    from expirytrack_dagster.quality.outcome import plural

    log = _log()
    with slow("Reading the audit log"):
        result = log.verify(_head(head) if head else None)
    if as_json:
        typer.echo(json.dumps({"intact": not result.damage} | asdict(result), indent=2))
    else:
        for damage in result.damage:
            say(f"{damage.found[0].upper()}{damage.found[1:]}.", style="red")
        if result.torn:
            say("The last line was being written when a program ended; it is kept whole, and completed with the next.")
        if result.damage:
            say(f"Not intact: {log.path} was changed by something else than this program.")
        elif result.head:
            say(f"Intact: {plural(result.lines, 'line')}. Keep this head elsewhere, to prove it later again:")
            say(result.head)
        else:
            say("Nothing has been noted yet.")
    raise typer.Exit(3 if result.damage else 0)


@audit.command("list")
def list_events(event: EventOption = None, last: LastOption = 50, *, as_json: JsonOption = False) -> None:
    """Show the log, the latest line last; an altered line is marked."""
    from expirytrack_dagster.console import say, slow

    with slow("Reading the audit log"):
        shown = deque((entry for entry in _log().entries() if entry is None or event in {None, entry.event}), last)
    if as_json:
        typer.echo(json.dumps([entry and entry._asdict() for entry in shown], indent=2))
        return
    for entry in shown:
        if entry is None:
            say("an altered line: run 'expirytrack audit verify'", style="red")
            continue
        details = "  ".join(f"{name}={value}" for name, value in entry.details.items())
        say(f"{entry.number:>6}  {entry.time[:19]}Z  {entry.user}  {entry.event}  {details}")


def _log() -> AuditLog:
    settings = load_settings()
    return AuditLog(settings.audit, lock_timeout=settings.lock_timeout)
