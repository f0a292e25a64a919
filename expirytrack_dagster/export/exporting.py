"""An export from beginning to end: which cells, written cell by cell, sealed by a manifest, noted in the audit log."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.export import lean, nautilus, tables
from expirytrack_dagster.export.cell import opened
from expirytrack_dagster.export.manifest import Manifest, seal
from expirytrack_dagster.export.selection import Interval, Selection
from expirytrack_dagster.export.target import check_target, replacing
from expirytrack_dagster.export.written import writing
from expirytrack_dagster.security import audit
from expirytrack_dagster.symbology.contract import UNDERLYING
from expirytrack_dagster.warehouse import reader

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from datetime import date
    from pathlib import Path

    import pandas as pd

    from expirytrack_dagster.export.cell import Cell
    from expirytrack_dagster.export.written import Written
    from expirytrack_dagster.settings import Settings
    from expirytrack_dagster.warehouse.connection import Warehouse

FORMATS: dict[str, Callable[[Cell, Path], Written]] = {
    "parquet": tables.write_parquet,
    "csv": tables.write_csv,
    "feather": tables.write_feather,
    "nautilus": nautilus.write,
    "lean": lean.write,
}
"""What writes a cell into a folder, by the format's name."""

_ONE_FOLDER = {"nautilus", "lean"}
"""Formats whose own layout keeps cells apart; the others get a folder for each cell."""


@dataclass(frozen=True, slots=True)
class Exported:
    """A finished export: where it stands and what it holds."""

    target: Path
    manifest: Manifest

    @property
    def bars(self) -> int:
        """Bars of all cells, each counted once however many formats there are."""
        return sum(cell["bars"] for cell in self.manifest.cells)

    @property
    def incomplete(self) -> list[str]:
        """The cells of which something is still missing in the archive, such as `NIFTY 2025-08-28`."""
        return [f"{cell['underlying']} {cell['expiry']}" for cell in self.manifest.cells if not cell["complete"]]


def export(
    settings: Settings,
    warehouse: Warehouse,
    target: Path,
    formats: Sequence[str],
    *,
    underlyings: Collection[str] = (),
    expiries: Collection[date] = (),
    selection: Selection | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Exported:
    """Write the chosen cells as files; the target appears when all of them are there.

    Args:
        settings: whose audit log notes the export.
        warehouse: the archive.
        target: a folder, or a file whose name ends in `.zip`.
        formats: names of `FORMATS`; more than one get a folder each.
        underlyings: short symbols; all of the archive if none is given.
        expiries: dates; all if none is given.
        selection: which rows of the cells.
        overwrite: replace an export that stands there.
        progress: told how many of the cells' candles are done.

    Raises:
        ConfigurationError: the target, a format or the selection cannot be used, or nothing matches.
        StorageError: the archive cannot be read or the files cannot be written; nothing was changed.
    """
    selection = selection or Selection()
    for name in formats:
        if name not in FORMATS:
            raise ConfigurationError(f"'{name}' is no format of an export: use {', '.join(FORMATS)}.")
    if "lean" in formats and selection.interval is not Interval.MINUTE:
        raise ConfigurationError("LEAN makes wider bars of minutes itself: export it with the interval 1minute.")
    target = check_target(target, overwrite=overwrite)
    chosen = _cells(reader.cells(warehouse), underlyings, expiries)
    rows: Counter[str] = Counter()
    cells: list[dict[str, Any]] = []
    with replacing(target) as folder:
        done, total = 0, int(chosen["candles"].sum())
        for listed in chosen.to_dict("records"):
            row = {str(name): value for name, value in listed.items()}
            entry, added = _write(warehouse, folder, row, formats, selection)
            rows += added
            if entry["bars"]:
                cells.append(entry)
            done += row["candles"]
            progress(done, total)
        if not cells:
            raise ConfigurationError("The chosen cells hold no candle that matches: nothing was exported.")
        manifest = seal(folder, rows, _about(formats, selection), cells)
        bars = sum(entry["bars"] for entry in cells)
        audit.record(settings, "export", target=str(target), formats=" ".join(formats), cells=len(cells), bars=bars)
    return Exported(target, manifest)


def export_cell(settings: Settings, warehouse: Warehouse, target: Path, underlying: str, expiry: date) -> Exported:
    """Write one whole cell as Parquet, with a manifest of its own; an export that stands at the target is replaced.

    Raises:
        ConfigurationError: something else stands there, or the cell has a name that cannot stand in a file.
        StorageError: the archive cannot be read or the files cannot be written; nothing was changed.
    """
    target = check_target(target, overwrite=True)
    selection = Selection()
    with replacing(target) as folder, opened(warehouse, underlying, expiry, selection) as cell:
        written = tables.write_parquet(cell, folder)
        manifest = seal(folder, written.files, _about(["parquet"], selection), [_entry(cell, written.bars)])
        audit.record(settings, "export", target=str(target), formats="parquet", cells=1, bars=written.bars)
    return Exported(target, manifest)


def _cells(listed: pd.DataFrame, underlyings: Collection[str], expiries: Collection[date]) -> pd.DataFrame:
    held = listed[listed["candles"] > 0]
    for name in underlyings:
        if name not in set(held["underlying"]):
            known = ", ".join(sorted(set(held["underlying"]))) or "nothing"
            raise ConfigurationError(f"The archive has no candle of {name}; it has {known}.")
    if underlyings:
        held = held[held["underlying"].isin(underlyings)]
    if expiries:
        held = held[held["expiry"].isin(expiries)]
    if held.empty:
        raise ConfigurationError("The archive has no candle of the chosen expiries: see 'expirytrack status'.")
    for name in held["underlying"].unique():
        if not UNDERLYING.fullmatch(name):
            raise ConfigurationError(f"The archive has an underlying named {name[:40]!r}: it is not exported.")
    return held


def _write(
    warehouse: Warehouse, folder: Path, row: dict[str, Any], formats: Sequence[str], selection: Selection
) -> tuple[dict[str, Any], Counter[str]]:
    """Write a cell in all formats; return its entry in the manifest, and the rows of its files."""
    underlying, day = row["underlying"], row["expiry"]
    files: Counter[str] = Counter()
    bars = 0
    with opened(warehouse, underlying, day, selection) as cell:
        for name in formats:
            below = [name] if len(formats) > 1 else []
            below += [] if name in _ONE_FOLDER else [underlying, str(day)]
            place = folder.joinpath(*below)
            with writing(place):
                place.mkdir(parents=True, exist_ok=True)
            written = FORMATS[name](cell, place)
            bars = written.bars
            if bars or name in _ONE_FOLDER:
                files.update({"/".join([*below, path]): rows for path, rows in written.files.items()})
            else:
                shutil.rmtree(place)
        return _entry(cell, bars), files


def _entry(cell: Cell, bars: int) -> dict[str, Any]:
    return {
        "underlying": cell.underlying,
        "expiry": str(cell.expiry),
        "contracts": len(cell.contracts),
        "bars": bars,
        "complete": cell.complete,
        "version": cell.version,
    }


def _about(formats: Sequence[str], selection: Selection) -> dict[str, Any]:
    chosen = {
        name: sorted(value) if isinstance(value, frozenset) else value for name, value in asdict(selection).items()
    }
    return {
        "made_by": f"expirytrack {version('expirytrack-dagster')}",
        "made_at": datetime.now(tz=UTC).isoformat(timespec="seconds"),
        "formats": list(formats),
        "selection": {
            name: value if isinstance(value, (int, float, list, type(None))) else str(value)
            for name, value in chosen.items()
        },
    }
