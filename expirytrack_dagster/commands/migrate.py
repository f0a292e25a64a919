"""`expirytrack migrate`: archive and state copied to other addresses, and proved equal there.

Only options and printing: what is copied, and how it is proved, is `moving/`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from expirytrack_dagster.address import FILE_KINDS, Address, standard
from expirytrack_dagster.commands.options import JsonOption
from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from expirytrack_dagster.moving import archive, state
    from expirytrack_dagster.settings import Settings
    from expirytrack_dagster.state.copying import Sum
    from expirytrack_dagster.state_address import StateAddress
    from expirytrack_dagster.warehouse.sums import TableSum

ToOption = Annotated[
    list[str],
    typer.Option(
        "--to",
        metavar="ADDRESS",
        help="Where to: of an archive as EXPIRYTRACK_WAREHOUSE is written, or of a state database as EXPIRYTRACK_STATE "
        "is; give it twice to move both. sqlite:PATH needs warehouse= or state= before it.",
    ),
]
DataPathOption = Annotated[
    str | None,
    typer.Option(metavar="PATH", help="Where the files of a lake will lie; EXPIRYTRACK_DATA_PATH if not given."),
]


def migrate(to: ToOption, data_path: DataPathOption = None, *, as_json: JsonOption = False) -> None:
    """Copy the archive, the state database or both to other addresses, and prove that they arrived; nothing is deleted.

    What was killed goes on where it was by the same command. Exit code 0 when both sides are equal, 3 when something
    was changed meanwhile.
    """
    settings = load_settings()
    warehouse, database = _targets(to)
    report: dict[str, object] = {}
    told: list[str] = []
    equal = True
    if warehouse is not None:
        moved, after = _move_archive(settings, warehouse, data_path)
        report["warehouse"] = _figures(warehouse, moved) | {
            "copied_cells": moved.copied,
            "cells_there": moved.there,
            "changed": [f"{symbol} {day or ''}".strip() for symbol, day in moved.changed],
        }
        cells = f"{moved.copied:,} cells copied with {moved.rows:,} rows, {moved.there:,} were there"
        equal = _say(f"Archive: {cells}.", report["warehouse"], as_json=as_json) and equal
        told += _settings_of_archive(settings, warehouse, after)
    if database is not None:
        copied = _move_state(settings, database)
        report["state"] = _figures(database, copied) | {"changed": list(copied.changed)}
        equal = _say(f"State: {copied.rows:,} rows copied.", report["state"], as_json=as_json) and equal
        told.append(f"EXPIRYTRACK_STATE={database}")
    if as_json:
        from expirytrack_dagster import console

        console.out.print_json(json.dumps(report | {"equal": equal, "set": told}))
    elif equal:
        _advise(settings, warehouse, told)
    raise typer.Exit(0 if equal else 3)


def _targets(to: list[str]) -> tuple[Address | None, StateAddress | None]:
    from expirytrack_dagster.moving.targets import parse_target

    try:
        found = [parse_target(text) for text in to]
    except ValueError as error:
        raise typer.BadParameter(f"{error}.") from None
    archives = [one for one in found if isinstance(one, Address)]
    states = [one for one in found if not isinstance(one, Address)]
    if len(archives) > 1 or len(states) > 1:
        raise typer.BadParameter("Only one address of an archive and one of a state database can be given.")
    return next(iter(archives), None), next(iter(states), None)


def _move_archive(settings: Settings, address: Address, data: str | None) -> tuple[archive.Copied, Settings]:
    from expirytrack_dagster import console
    from expirytrack_dagster.moving.archive import copy_archive
    from expirytrack_dagster.moving.targets import archive_at
    from expirytrack_dagster.security import audit
    from expirytrack_dagster.warehouse.connection import open_warehouse

    target, there = archive_at(settings, address, data)
    source = open_warehouse(settings)
    if not source.exists():
        raise ConfigurationError(f"There is no archive at {settings.address}: nothing can be moved.")
    with console.slow_bar("Copying", "rows") as progress:
        done = copy_archive(source, target, progress)
    audit.record(settings, "migrate", source=str(settings.address), target=str(address), equal=done.equal)
    return done, there


def _move_state(settings: Settings, address: StateAddress) -> state.Copied:
    from expirytrack_dagster import console
    from expirytrack_dagster.moving.state import move_state
    from expirytrack_dagster.security import audit
    from expirytrack_dagster.state import StateDatabase, open_state

    with (
        console.slow("Copying the state"),
        open_state(settings) as source,
        StateDatabase(address) as target,
    ):
        done = move_state(source, target)
    audit.record(settings, "migrate", source=str(settings.state_address), target=str(address), equal=done.equal)
    return done


def _figures(address: object, done: archive.Copied | state.Copied) -> dict[str, object]:
    return {
        "target": str(address),
        "copied_rows": done.rows,
        "equal": done.equal,
        "tables": {
            name: {
                "rows": source.rows,
                "sum": _sum(source),
                "target_rows": target.rows,
                "target_sum": _sum(target),
            }
            for name, (source, target) in done.tables.items()
        },
    }


def _sum(table: TableSum | Sum) -> str:
    """Return sixteen digits of a sum, which a person can compare."""
    return f"{table.checksum:016x}" if isinstance(table, tuple) else table.sha256[:16]


def _say(sentence: str, figures: object, *, as_json: bool) -> bool:
    """Print what a copy proved, and return whether both sides are equal."""
    from rich.table import Table

    from expirytrack_dagster import console

    proved: Mapping[str, object] = figures if isinstance(figures, dict) else {}
    equal, tables, changed = bool(proved["equal"]), proved["tables"], proved["changed"]
    if as_json:
        return equal
    table = Table("Table", "Rows", "Sum", "At the target", box=None, pad_edge=False, header_style="bold")
    for name, sums in tables.items() if isinstance(tables, dict) else ():
        same = (sums["rows"], sums["sum"]) == (sums["target_rows"], sums["target_sum"])
        other = f"{sums['target_rows']:,} rows, {sums['target_sum']}"
        table.add_row(name, f"{sums['rows']:,}", sums["sum"], "equal" if same else other)
    console.out.print(table)
    console.say(sentence)
    if not equal:
        names = ", ".join(changed[:5]) if isinstance(changed, list) else ""
        console.say(
            f"Something was changed meanwhile ({names}): end what collects, and run the same command again. It copies "
            "only that.",
            style="yellow",
        )
    return equal


def _settings_of_archive(settings: Settings, address: Address, after: Settings) -> list[str]:
    from expirytrack_dagster.warehouse.data_path import data_path

    told = [f"EXPIRYTRACK_WAREHOUSE={address}"]
    if (files := data_path(after)) is not None and (after.data_path or settings.data_path):
        told.append(f"EXPIRYTRACK_DATA_PATH={files.place}")
    return told


def _advise(settings: Settings, warehouse: Address | None, told: list[str]) -> None:
    from expirytrack_dagster import console

    console.say("Both sides are equal. Nothing has been switched; to work there from now on, set:")
    for setting in told:
        console.say(f"  {setting}")
    old = settings.address
    if warehouse is not None and old.kind != warehouse.kind and old in _standard(settings):
        console.say(f"And move {old.path} out of the home: a home has one archive.")


def _standard(settings: Settings) -> list[Address]:
    return [standard(kind, settings.home) for kind in FILE_KINDS]
