"""A lake of thousands of cells: what its catalogue holds, and whether it gets in the way of writing or reading one.

Cells are filled in with few candles each, since what a catalogue counts are files and not rows; then a real cell is
written and read at two sizes, so that a slope shows. The catalogue is a SQLite file: one in PostgreSQL has the same
rows.
"""

from __future__ import annotations

import sqlite3
import statistics
import tempfile
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from expirytrack_dagster.address import standard
from expirytrack_dagster.warehouse import reader
from expirytrack_dagster.warehouse.connection import Warehouse
from expirytrack_dagster.warehouse.stores import store_of
from expirytrack_dagster_tests.bench import at_size, every_stock, small
from expirytrack_dagster_tests.bench.figures import Figure
from expirytrack_dagster_tests.bench.timing import timed, within
from expirytrack_dagster_tests.market import list_cell, store_bars

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import date

_SIZES, _FEW = (500, 2_000), (20, 40)
_CANDLES = 20  # of a contract
_TABLES = 4  # whose rows of a cell are files of their own


def run(*, quick: bool) -> Iterator[Figure]:
    """Yield seconds of a cell at each size, and what a cell leaves in the catalogue; quick, there are few cells."""
    sizes = _FEW if quick else _SIZES
    every = list(every_stock.cells())
    cells = [
        replace(cell, candles=_CANDLES * (cell.options + cell.futures)) for cell in every[:: len(every) // sizes[-1]]
    ]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        address = standard("ducklake:sqlite", Path(folder))
        lake = Warehouse(store_of(address))
        at_size.fill_archive(lake, cells, cells)
        empty = _rows(address.path)
        days = reversed(small.market().expiries(small.KEY) or [])
        before = 0
        for size in sizes:
            at_size.fill_candles(lake, cells[before:size])
            before = size
            yield from _cell(lake, next(days), Path(folder), size)
        rows, files = _rows(address.path) - empty, len(list(Path(folder).glob("lake/**/*.parquet")))
        listed = len(every)
        yield Figure(
            name="catalogue, files of the lake",
            value=files / sizes[-1] * _TABLES * listed,
            unit="files",
            beside=f"{files / sizes[-1]:.1f} a cell of a table",
            note=f"{listed:,} cells in {_TABLES} tables by the minute; `maintain` merges the files of the others",
        )
        yield Figure(
            name="catalogue, rows of the catalogue",
            value=rows / sizes[-1] * _TABLES * listed,
            unit="rows",
            beside=f"{rows / sizes[-1]:.1f} a cell of a table",
            note=f"measured on {sizes[-1]:,} cells of candles; files, their columns and partitions, commits",
        )


def _cell(lake: Warehouse, day: date, folder: Path, size: int) -> Iterator[Figure]:
    bars = list_cell(lake, small.market(), small.STOCK, day)[1]
    rows = sum(len(found) for found in bars.values())
    writing, _ = timed(partial(store_bars, lake, small.STOCK, day, bars, folder))
    reading = statistics.median(timed(partial(reader.minutes, lake, small.STOCK, day))[0] for _ in range(5))
    counting = statistics.median(timed(partial(reader.unsealed, lake))[0] for _ in range(3))
    note = f"{rows:,} candles, in a lake of {size:,} cells"
    yield within(f"catalogue, writing a cell among {size:,}", writing, 10.0, note)
    yield within(f"catalogue, reading a cell's minutes among {size:,}", reading, 5.0, note)
    yield within(f"catalogue, counting what is unsealed among {size:,}", counting, 10.0, note)


def _rows(catalogue: Path) -> int:
    """Return the rows of all tables of a catalogue."""
    with closing(sqlite3.connect(catalogue)) as connection:
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'ducklake%'")
        return sum(
            connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]  # noqa: S608 -- the file's own names
            for (name,) in names.fetchall()
        )
