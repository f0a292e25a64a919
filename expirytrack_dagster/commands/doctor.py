"""`expirytrack doctor`: whether everything is as it should be, and how to mend what is not.

Only printing and the exit code: what is looked at is `observe/doctor.py`, `observe/doctor_api.py` and
`instance_health.py`.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from expirytrack_dagster.commands.options import JsonOption
from expirytrack_dagster.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from expirytrack_dagster.observe.doctor import Line
    from expirytrack_dagster.settings import Settings

_STYLES = {"ok": "green", "warn": "yellow", "fail": "red"}


def doctor(*, as_json: JsonOption = False) -> None:
    """Check this machine, the account and the archive, and say how to fix what is wrong; at most one request.

    Exit code 0 when nothing fails, 4 when only the token or the plan does, 1 otherwise.
    """
    from expirytrack_dagster import console
    from expirytrack_dagster.observe.doctor import exit_code

    settings = load_settings()
    lines: list[Line] = []
    requests = 0
    for found, cost in _looked(settings):
        lines += found
        requests += cost
        for line in found if not as_json else ():
            _say(line)
    code = exit_code(lines)
    if as_json:
        report = {"healthy": code == 0, "requests": requests, "checks": [asdict(line) for line in lines]}
        console.out.print_json(json.dumps(report))
    else:
        counts = ", ".join(f"{sum(line.verdict == verdict for line in lines)} {verdict}" for verdict in _STYLES)
        console.say(f"\n{counts}. Requests to the API: {requests}.")
    raise typer.Exit(code)


def _looked(settings: Settings) -> Iterator[tuple[list[Line], int]]:
    from expirytrack_dagster import console
    from expirytrack_dagster.observe.doctor import look_around
    from expirytrack_dagster.observe.doctor_api import visit

    for lines in look_around(settings):
        yield lines, 0
    with console.err.status("Asking Upstox"):
        visited = visit(settings)
    yield visited.lines, visited.requests
    with console.err.status("Looking at Dagster"):
        from expirytrack_dagster.instance_health import instance_lines

        found = instance_lines(settings, time.time())
    yield found, 0


def _say(line: Line) -> None:
    from expirytrack_dagster import console

    console.out.print(f"{line.verdict:<5}", style=_STYLES[line.verdict], end="")
    console.say(f"{line.name + ':':<14}{line.found}")
    if line.verdict != "ok" and line.mend:
        console.say(f"{'':<19}{line.mend}", style="dim")
