"""Two hundred underlyings, two years: what that asks of the API, of the disk, of Dagster and of the state database.

The market is `every_stock.py`. Requests and their time come from the program's own planner and the limiter's own
arithmetic. What a candle, a request and a run cost is measured on a small real collection in the same run, and
multiplied. Where that could hide a surprise the real thing is filled to size and timed (`large.py`): the grid in a
Dagster instance, the ledger, the archive. `docs/scale.md` is written from these figures.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from expirytrack_dagster import partitions
from expirytrack_dagster.collect.due import Cell
from expirytrack_dagster.collect.plan import LIST_REQUESTS, Experience, of_cell
from expirytrack_dagster.collect.questions import questions
from expirytrack_dagster.retention import KEPT
from expirytrack_dagster.sandbox.running import running
from expirytrack_dagster.settings import load_settings
from expirytrack_dagster.upstox.forecast import Forecast
from expirytrack_dagster.upstox.pacing import Bucket
from expirytrack_dagster_tests.bench import every_stock, large, small
from expirytrack_dagster_tests.bench.bench_grid import environment
from expirytrack_dagster_tests.bench.figures import Figure
from expirytrack_dagster_tests.bench.load import TRUE_LIMITS, limits_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from expirytrack_dagster_tests.bench.every_stock import ListedCell
    from expirytrack_dagster_tests.bench.small import Unit

_LOGIN, _DEATH = 9.0, 27.5
"""Hours of the day at which the owner logs in, and at which the token dies: half past three of the next morning."""

_DAY, _HOUR = 86_400, 3_600
_GB = 1e9
_RUNS_A_CELL = 3
"""Runs of a cell beside its collection: derivation, the underlying's continuous futures, and counting what is there."""
_DISCOVERIES_A_DAY = 4
_MONTH = 30
_MANY, _FEW = (20_000_000, 80_000_000), (500_000, 2_000_000)


@dataclass(frozen=True, slots=True)
class Asked:
    """What all cells together cost: requests, of them for lists, and contracts."""

    requests: int
    lists: int
    contracts: int


def run(*, quick: bool) -> Iterator[Figure]:
    """Yield what the desk costs, and how its home behaves at that size; quick, it has 20 underlyings."""
    cells = list(every_stock.cells(stocks=12 if quick else every_stock.STOCKS))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        with running(small.market(), limits=()) as upstox, environment(Path(folder) / "small", upstox):
            unit = small.collected(2 if quick else 12)
        yield from _market(cells, unit)
        asked = _asked(cells, unit.experience)
        yield from _time(cells, asked)
        yield from _disk(cells, unit)
        with running(small.market(), limits=()) as upstox, environment(Path(folder) / "large", upstox):
            settings = load_settings(rate_limits=TRUE_LIMITS)
            yield from large.grid(settings, cells, upstox.url)
            yield from large.collection(settings, cells)
            yield from large.ledger(settings, asked.requests)
            yield from large.archive(settings, cells, _FEW if quick else _MANY)


def _market(cells: Sequence[ListedCell], unit: Unit) -> Iterator[Figure]:
    stocks = [cell for cell in cells if cell.underlying.startswith("STOCK")]
    for name, value, unit_name in (
        ("underlyings", len({cell.underlying for cell in cells}), "underlyings"),
        ("dates", len({cell.expiry for cell in cells}), "dates"),
        ("cells", len(cells), "cells"),
        ("contracts", sum(cell.options + cell.futures for cell in cells), "contracts"),
        ("candles", sum(cell.candles for cell in cells), "candles"),
        ("cells of stocks", len(stocks), "cells"),
        ("candles of stocks", sum(cell.candles for cell in stocks), "candles"),
    ):
        yield Figure(name=f"scale, {name}", value=value, unit=unit_name)
    yield Figure(
        name="scale, measured on",
        value=unit.candles,
        unit="candles",
        note=f"{unit.cells} cells of a stock, {unit.experience.contracts} contracts, really collected and derived",
    )


def _asked(cells: Sequence[ListedCell], known: Experience) -> Asked:
    """Plan every cell as the program plans one whose list is known."""
    share = load_settings().proof_share
    requests = 0
    shapes: dict[tuple[int, int], int] = {}
    for cell in cells:
        shape = cell.options, cell.futures
        if shape not in shapes:
            contracts = cell.contracts
            asked = questions(contracts, final=(), partial=(), staged=(), share=share)
            listed = Cell(cell.underlying, cell.expiry, len(contracts), 0, 0, False, True, None)  # noqa: FBT003 -- the planner's own record
            shapes[shape] = of_cell(listed, asked, known, share=share, bytes_a_row=1.0).requests
        requests += shapes[shape]
    lists = LIST_REQUESTS * len(cells)
    return Asked(requests + lists, lists, sum(cell.options + cell.futures for cell in cells))


def _time(cells: Sequence[ListedCell], asked: Asked) -> Iterator[Figure]:
    settings = load_settings()
    limits = limits_of(TRUE_LIMITS)
    shortest = limits[0]
    burst = settings.rate_burst
    bucket = None if burst is None else Bucket(shortest.seconds / shortest.requests, min(burst, shortest.requests))
    fresh = Forecast(limits, (), 0.0, bucket)
    day = fresh.until((_DEATH - _LOGIN) * _HOUR)
    months = (every_stock.TODAY - every_stock.SINCE).days / _MONTH
    monthly = asked.requests / months
    yield Figure(
        name="scale, requests",
        value=asked.requests,
        unit="requests",
        note=f"{asked.lists:,} of them for lists of contracts; the others are the planner's own for every cell",
    )
    yield Figure(
        name="scale, days at the limits without a pause",
        value=fresh.finish(asked.requests) / _DAY,
        unit="days",
        beside=f"{fresh.until(_DAY):,} requests a day",
    )
    yield Figure(
        name="scale, days with a login every morning",
        value=asked.requests / day,
        unit="days",
        beside=f"{day:,} requests from 09:00 until the token dies at 03:30",
    )
    months_a_life = {every_stock.MONTHLY_LIFE: 4, every_stock.WEEKLY_LIFE: 2}  # windows of thirty days that cover it
    narrow = asked.requests + sum((cell.options + cell.futures) * (months_a_life[_life(cell)] - 1) for cell in cells)
    yield Figure(
        name="scale, days if a request may ask for a month only",
        value=narrow / day,
        unit="days",
        beside=f"{narrow:,} requests",
        note="with a login every morning; wider windows are said to be answered",
    )
    yield Figure(
        name="scale, share of the limits once all is there",
        value=100 * (monthly / _MONTH + _DISCOVERIES_A_DAY * len({cell.underlying for cell in cells})) / day,
        unit="%",
        note=f"what expires in a month is {monthly:,.0f} requests; lists of expiries are asked {_DISCOVERIES_A_DAY} "
        "times a day",
    )


def _life(cell: ListedCell) -> int:
    return every_stock.MONTHLY_LIFE if cell.futures else every_stock.WEEKLY_LIFE


def _disk(cells: Sequence[ListedCell], unit: Unit) -> Iterator[Figure]:
    candles = sum(cell.candles for cell in cells)
    underlyings = len({cell.underlying for cell in cells})
    for name, measured in (
        ("archive, candles and states", unit.archive),
        ("archive, derived tables", unit.derived),
        ("published, candles and states", unit.published),
        ("published, derived tables", unit.published_derived),
    ):
        yield Figure(
            name=f"scale, disk of {name}",
            value=measured / unit.candles * candles / _GB,
            unit="GB",
            beside=f"{measured / unit.candles:.1f} bytes a candle",
        )
    yield Figure(
        name="scale, rows of all tables",
        value=unit.rows / unit.candles * candles,
        unit="rows",
        beside=f"{unit.rows / unit.candles:.1f} a candle",
        note="candles, and what is derived of them",
    )
    yield Figure(
        name="scale, received",
        value=unit.received / unit.candles * candles / _GB,
        unit="GB",
        beside=f"{unit.received / unit.candles:.1f} bytes a candle",
        note="JSON, before any compression on the way; the kept answers are bounded by EXPIRYTRACK_CACHE_MB",
    )
    files = unit.published_files / unit.cells
    yield Figure(
        name="scale, published files",
        value=files * len(cells) + 6 * underlyings,
        unit="files",
        beside=f"{files:.0f} a cell and 6 an underlying",
    )
    days = (every_stock.TODAY - every_stock.SINCE).days
    kinds = (
        ("collections", unit.collection, len(cells)),
        ("derivations and counting", unit.derivation, _RUNS_A_CELL * len(cells)),
        ("discoveries that are kept", unit.discovery, _DISCOVERIES_A_DAY * KEPT.days * underlyings),
        ("discoveries, if all were kept", unit.discovery, _DISCOVERIES_A_DAY * days * underlyings),
    )
    unlisted = len({cell.expiry for cell in cells}) * underlyings - len(cells)
    yield Figure(
        name="scale, Dagster's events",
        value=sum(weight.events * runs for _, weight, runs in kinds[:-1]) + unlisted * len(partitions.CELL_ASSETS),
        unit="events",
        note="of all runs that are kept, and one for each cell that is not listed and each asset of cells",
    )
    for name, weight, runs in kinds:
        yield Figure(
            name=f"scale, Dagster's records of {name}",
            value=weight.bytes * runs / _GB,
            unit="GB",
            beside=f"{weight.bytes / 1000:.0f} kB and {weight.events:.0f} events a run",
            note=f"{runs:,} runs, {weight.events * runs:,.0f} events, {weight.files * runs:,.0f} files",
        )
