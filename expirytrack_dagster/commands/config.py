"""`expirytrack init` and `expirytrack config ...`: a new home, and the settings with where each value comes from.

Only options and printing: what is made is `new_home.py`, what is read `settings/loading.py`.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from expirytrack_dagster.commands.options import JsonOption
from expirytrack_dagster.settings import files_looked_for, load_settings, tell_settings

config = typer.Typer(name="config", no_args_is_help=True, help="Show the settings and where each value comes from.")


def init(
    folder: Annotated[Path | None, typer.Argument(help="The home to create; default: EXPIRYTRACK_HOME.")] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Create a home with expirytrack.toml, workspace.yaml and dagster.yaml; existing files are kept."""
    from expirytrack_dagster import console
    from expirytrack_dagster.new_home import make_home

    settings = load_settings() if folder is None else load_settings(home=folder)
    with console.err.status("Making the home"):
        new = make_home(settings)
    if as_json:
        report = {"home": str(settings.home), "made": [*map(str, new.made)], "kept": [*map(str, new.kept)]}
        console.out.print_json(json.dumps(report))
        return
    for path in new.made:
        console.say(f"Made {path}")
    for path in new.kept:
        console.say(f"Kept {path}")
    if load_settings().home == settings.home:
        console.say(f"The home is {settings.home}. Next: expirytrack login, expirytrack track NIFTY")
    else:
        console.say(
            f"Work in {settings.home}, or set EXPIRYTRACK_HOME to it to work from anywhere. Next: expirytrack login"
        )


@config.command()
def show(*, as_json: JsonOption = False) -> None:
    """Show every setting and where its value comes from: default, profile, a file, environment. Secrets are masked."""
    from expirytrack_dagster import console

    told, files = tell_settings(), files_looked_for()
    if as_json:
        looked_for = [{"path": str(path), "found": path.is_file()} for path in files]
        report = {"files": looked_for, "settings": [asdict(one) for one in told]}
        console.out.print_json(json.dumps(report))
        return
    width = max(len(one.name) for one in told) + 2
    for one in told:
        line = f"{one.name:<{width}}{_shown(one.value):<32} {one.origin}"
        console.say(line.rstrip(), style="dim" if one.origin == "default" else None)
    console.say("")
    for number, path in enumerate(files):
        console.say(f"{'File' if number == 0 else 'and '}: {path}{'' if path.is_file() else ' (not there)'}")
    console.say("A variable goes before the files: workers is EXPIRYTRACK_WORKERS there.")


def _shown(value: str | float | bool | None) -> str:  # noqa: FBT001 -- the value of a switch, not a switch
    if isinstance(value, bool):
        return "on" if value else "off"
    return "" if value is None else str(value)
