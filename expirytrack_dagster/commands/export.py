"""`expirytrack export`: rows of the archive as files, and the proof that such files are whole. No request is sent.

Only options and printing: what is written is `export/`.
"""

from __future__ import annotations

import json
from datetime import date, time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from expirytrack_dagster.commands.options import JsonOption, parse_day
from expirytrack_dagster.export.selection import Interval, Selection
from expirytrack_dagster.settings import load_settings

if TYPE_CHECKING:
    from expirytrack_dagster.export.exporting import Exported


def _time(text: str) -> time:
    try:
        return time.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"'{text}' is no time of the form HH:MM.") from None


_DAY, _TIME = "YYYY-MM-DD", "HH:MM"


def export(
    symbols: Annotated[list[str] | None, typer.Argument(help="Symbols; all of the archive if none is given.")] = None,
    *,
    to: Annotated[
        Path | None, typer.Option(metavar="PATH", help="A new folder, or a file whose name ends in .zip.")
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help="parquet (the default), csv, feather, nautilus or lean; repeat for more."),
    ] = None,
    expiry: Annotated[
        list[date] | None, typer.Option(parser=parse_day, metavar=_DAY, help="Only this expiry; repeat for more.")
    ] = None,
    first: Annotated[
        date | None, typer.Option("--from", parser=parse_day, metavar=_DAY, help="First trading day, in India.")
    ] = None,
    last: Annotated[
        date | None, typer.Option("--until", parser=parse_day, metavar=_DAY, help="Last trading day.")
    ] = None,
    after: Annotated[
        time | None, typer.Option(parser=_time, metavar=_TIME, help="First minute of each day, in India.")
    ] = None,
    before: Annotated[time | None, typer.Option(parser=_time, metavar=_TIME, help="Last minute of each day.")] = None,
    kind: Annotated[list[str] | None, typer.Option("--type", help="CE, PE or FUT; repeat for more.")] = None,
    lowest: Annotated[float | None, typer.Option("--strike-from", help="Lowest strike, in rupees.")] = None,
    highest: Annotated[float | None, typer.Option("--strike-until", help="Highest strike, in rupees.")] = None,
    atm: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Only strikes at most so many steps from the money at some minute of the day, for the whole day. The "
            "money is the strike whose call and put, both traded in the minute, closed nearest to each other.",
        ),
    ] = None,
    interval: Annotated[Interval, typer.Option(help="Width of a bar, counted from 09:15 in India.")] = Interval.MINUTE,
    check: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Write nothing: verify an export against its manifest.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing export.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write candles as Parquet, CSV, Feather, a NautilusTrader catalog or a LEAN data folder, with a manifest.

    Exit code 0; 3 when the archive itself is still missing something of an exported cell, or a check finds a fault.
    """
    if (to is None) == (check is None):
        raise typer.BadParameter("Give either --to PATH, what to make, or --check PATH, what to prove.")
    if check is not None:
        _check(check, as_json=as_json)
    kinds = frozenset(each.upper() for each in kind or ("CE", "PE", "FUT"))
    if unknown := kinds - {"CE", "PE", "FUT"}:
        raise typer.BadParameter(f"'{min(unknown)}' is none of CE, PE and FUT.", param_hint="--type")
    selection = Selection(first, last, after, before, kinds, lowest, highest, atm, interval)
    _show(
        _export(symbols or [], to or Path(), formats or ["parquet"], expiry or [], selection, overwrite=overwrite),
        as_json=as_json,
    )


def _export(
    symbols: list[str], to: Path, formats: list[str], expiries: list[date], selection: Selection, *, overwrite: bool
) -> Exported:
    from expirytrack_dagster import console
    from expirytrack_dagster.collect.tracking import check_symbol
    from expirytrack_dagster.export import exporting
    from expirytrack_dagster.warehouse.connection import open_warehouse

    settings = load_settings()
    with console.slow_bar("Exporting", "candles") as progress:
        return exporting.export(
            settings,
            open_warehouse(settings),
            to.expanduser(),
            list(dict.fromkeys(formats)),
            underlyings=[check_symbol(symbol) for symbol in symbols],
            expiries=expiries,
            selection=selection,
            overwrite=overwrite,
            progress=progress,
        )


def _show(exported: Exported, *, as_json: bool) -> None:
    from expirytrack_dagster import console

    manifest, incomplete = exported.manifest, exported.incomplete
    if as_json:
        report = {
            "target": str(exported.target),
            "bars": exported.bars,
            "bytes": sum(file.bytes for file in manifest.files),
            "files": len(manifest.files),
            "cells": manifest.cells,
            "incomplete": incomplete,
        }
        console.out.print_json(json.dumps(report))
    else:
        size = sum(file.bytes for file in manifest.files) / 1e6
        console.say(
            f"{exported.bars:,} bars of {len(manifest.cells):,} cell{'' if len(manifest.cells) == 1 else 's'} in "
            f"{len(manifest.files):,} files ({size:,.1f} MB): {exported.target}"
        )
        if incomplete:
            console.say(
                f"Of {', '.join(incomplete)} the archive itself is still missing something: 'expirytrack status' shows "
                "it, 'expirytrack collect' asks for it.",
                style="yellow",
            )
    raise typer.Exit(3 if incomplete else 0)


def _check(target: Path, *, as_json: bool) -> None:
    from dataclasses import asdict

    from expirytrack_dagster import console
    from expirytrack_dagster.export import manifest

    with console.slow_bar("Comparing", "files") as progress:
        found = manifest.check(target.expanduser(), progress)
    if as_json:
        console.out.print_json(json.dumps({"whole": not found.problems} | asdict(found)))
    else:
        for problem in found.problems:
            console.say(f"{problem}.", style="red")
        proof = "Not whole" if found.problems else "Whole"
        console.say(f"{proof}: {found.files:,} files with {found.rows:,} rows, read and compared with the manifest.")
    raise typer.Exit(3 if found.problems else 0)
