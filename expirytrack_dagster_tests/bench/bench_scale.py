"""Two hundred underlyings, two years: what that asks of the API, of the disk, of Dagster and of the state database.

The market is `desk.py`. Requests and their time come from the program's own planner and the limiter's own arithmetic.
What a candle, a request and a run cost is measured on a small real collection in the same run, and multiplied. Where
that could hide a surprise the real thing is filled to size (`at_size.py`) and timed: the grid in a Dagster instance,
the ledger, the archive. `docs/scale.md` is written from these figures.
"""

from __future__ import annotations

import statistics
import tempfile
import time
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import dagster as dg

from expirytrack_dagster import partitions
from expirytrack_dagster.collect.due import Cell
from expirytrack_dagster.collect.plan import LIST_REQUESTS, Experience, of_cell
from expirytrack_dagster.collect.questions import questions
from expirytrack_dagster.definitions import build_defs
from expirytrack_dagster.instance import open_instance
from expirytrack_dagster.observe.lookout import look
from expirytrack_dagster.observe.readings import measure
from expirytrack_dagster.planning import outlook
from expirytrack_dagster.retention import KEPT
from expirytrack_dagster.sandbox.running import running
from expirytrack_dagster.settings import load_settings
from expirytrack_dagster.upstox.calls import Call, Receipt
from expirytrack_dagster.upstox.forecast import Forecast
from expirytrack_dagster.upstox.ledger import open_ledger
from expirytrack_dagster.upstox.pacing import Bucket
from expirytrack_dagster.warehouse import reader
from expirytrack_dagster.warehouse.connection import open_warehouse
from expirytrack_dagster.warehouse.published import publish
from expirytrack_dagster_tests.bench import at_size, desk, small
from expirytrack_dagster_tests.bench.bench_grid import environment, page, tick
from expirytrack_dagster_tests.bench.figures import Figure
from expirytrack_dagster_tests.bench.load import TRUE_LIMITS, limits_of
from expirytrack_dagster_tests.market import list_cell, store_bars

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from expirytrack_dagster.settings import Settings
    from expirytrack_dagster_tests.bench.desk import ListedCell
    from expirytrack_dagster_tests.bench.small import Unit

T = TypeVar("T")

_TICK_BAR, _LOOK_BAR, _SLOT_BAR = 60.0, 10.0, 0.01
"""Dagster ends a sensor's tick after a minute; a person waits for ten seconds; a request may wait for its slot so long
without being held up by more than the limits."""

_PAGE_BAR = 5.0
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
    cells = list(desk.cells(stocks=12 if quick else desk.STOCKS))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        with running(small.market(), limits=()) as upstox, environment(Path(folder) / "small", upstox):
            unit = small.collected(2 if quick else 12)
        yield from _market(cells, unit)
        asked = _asked(cells, unit.experience)
        yield from _time(cells, asked)
        yield from _disk(cells, unit)
        with running(small.market(), limits=()) as upstox, environment(Path(folder) / "large", upstox):
            settings = load_settings(rate_limits=TRUE_LIMITS)
            yield from _grid(settings, cells, upstox.url)
            yield from _ledger(settings, asked.requests)
            yield from _archive(settings, cells, _FEW if quick else _MANY)


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
    months = (desk.TODAY - desk.SINCE).days / _MONTH
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
    months_a_life = {desk.MONTHLY_LIFE: 4, desk.WEEKLY_LIFE: 2}  # windows of thirty days that cover it
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
    return desk.MONTHLY_LIFE if cell.futures else desk.WEEKLY_LIFE


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
    days = (desk.TODAY - desk.SINCE).days
    kinds = (
        ("collections", unit.collection, len(cells)),
        ("derivations and counting", unit.derivation, _RUNS_A_CELL * len(cells)),
        ("discoveries that are kept", unit.discovery, _DISCOVERIES_A_DAY * KEPT.days * underlyings),
        ("discoveries, if all were kept", unit.discovery, _DISCOVERIES_A_DAY * days * underlyings),
    )
    for name, weight, runs in kinds:
        yield Figure(
            name=f"scale, Dagster's records of {name}",
            value=weight.bytes * runs / _GB,
            unit="GB",
            beside=f"{weight.bytes / 1000:.0f} kB and {weight.events:.0f} events a run",
            note=f"{runs:,} runs, {weight.events * runs:,.0f} events, {weight.files * runs:,.0f} files",
        )


def _grid(settings: Settings, cells: Sequence[ListedCell], url: str) -> Iterator[Figure]:
    done = cells[::2]
    archive, state, now = open_warehouse(settings), open_ledger(settings).state, datetime.now(tz=UTC)
    at_size.fill_state(state, cells, now)
    at_size.fill_archive(archive, cells, done)
    with open_instance(settings) as instance:
        filling, settled = timed(lambda: at_size.fill_grid(instance, cells))
        again, _ = timed(lambda: partitions.settle_unlisted(instance, at_size.listed(cells)))
        at_size.fill_collected(instance, done)
        ticked, requested = tick(instance)
        conditions = _conditions(instance)
    size = (settings.dagster_home / "history" / "runs" / "index.db").stat().st_size
    first, later = page(settings, url)
    grid = len({cell.underlying for cell in cells}) * len({cell.expiry for cell in cells})
    note = f"{grid:,} cells of the grid, {len(cells):,} of which are listed; every second of these is collected"
    yield Figure(
        name="scale, partitions of an asset",
        value=grid,
        unit="partitions",
        bar="<= 100,000",
        passed=grid <= 100_000,
        note="what Dagster's own guidance calls the most that an asset should have",
    )
    yield Figure(
        name="scale, cells settled as not listed",
        value=settled,
        unit="events",
        beside=f"{size / max(settled, 1):.0f} bytes an event",
        note=f"recorded in {filling:.0f} s; Dagster's index of events has {size / 1e6:,.0f} MB",
    )
    for name, seconds, bar, more in (
        ("settling again, in each discovery", again, _LOOK_BAR, "nothing is new"),
        ("tick of the collection sensor", ticked, _TICK_BAR, f"{requested} runs requested"),
        ("tick of the derivations sensor, the first", conditions[0], _TICK_BAR, ""),
        ("tick of the derivations sensor, later ones", conditions[-1], _TICK_BAR, ""),
        ("partition query of the asset page, the first", first, _PAGE_BAR, ""),
        ("partition query of the asset page, later ones", later, _PAGE_BAR, ""),
    ):
        yield within(f"scale, {name}", seconds, bar, f"{note}; {more}" if more else note)
    yield from _looks(settings, len(cells))


def _looks(settings: Settings, cells: int) -> Iterator[Figure]:
    archive, ledger, now = open_warehouse(settings), open_ledger(settings), datetime.now(tz=UTC)

    def plan() -> int:
        seen = outlook(settings, archive, ledger, now)
        return len(seen.plan(seen.missing()).cells)

    note = f"{cells:,} cells listed, half of them collected"
    for name, work in (
        ("planning what is missing", plan),
        ("a look of `expirytrack status`", lambda: look(settings, now)),
        ("judging alerts", lambda: measure(settings, now, [])),
    ):
        seconds, _ = timed(work)
        yield within(f"scale, {name}", seconds, _LOOK_BAR, note)


def _conditions(instance: dg.DagsterInstance) -> list[float]:
    """Return the seconds of three evaluations of every automation condition, each going on where the last one was."""
    defs, cursor, taken = build_defs(), None, []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        for _ in range(3):
            began = time.perf_counter()
            cursor = dg.evaluate_automation_conditions(defs, instance, cursor=cursor).cursor
            taken.append(time.perf_counter() - began)
    return taken


def _ledger(settings: Settings, requests: int) -> Iterator[Figure]:
    clock = _EverySecond()
    ledger = open_ledger(settings, clock)
    before = settings.state_address.path.stat().st_size
    at_size.fill_requests(ledger.state, requests, datetime.now(tz=UTC), every=1800 / 2000)
    ledger.state.close()
    size = settings.state_address.path.stat().st_size - before
    numbers = count()

    def ask() -> None:
        taken = ledger.acquire(Call("candles", f"NSE_FO|{next(numbers)}|28-08-2025"), run_id="bench")
        if not isinstance(taken, int):
            raise TypeError(f"a slot should be free: {taken}")
        ledger.settle(taken, Receipt(outcome="ok", counted_at=clock.at, status=200, bytes=90_000, rows=1_400))

    slots = statistics.median(timed(ask)[0] for _ in range(40))
    note = f"{requests:,} requests in the ledger"
    yield Figure(
        name="scale, disk of the ledger", value=size / _GB, unit="GB", beside=f"{size / requests:.0f} bytes a request"
    )
    yield within("scale, a slot taken and settled", slots, _SLOT_BAR, note)
    for name, work in (
        ("how full the windows are", ledger.budget),
        ("whether the token was refused", ledger.refused_at),
        ("when a list was asked for", lambda: ledger.last_answer("expiries", "NSE_INDEX|NIFTY")),
    ):
        yield within(f"scale, {name}", statistics.median(timed(work)[0] for _ in range(5)), 1.0, note)


class _EverySecond:
    """A clock that goes on by a second whenever it is looked at, so that no request has to wait for its slot."""

    at = time.time()

    def now(self) -> float:
        self.at += 1.0
        return self.at

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """Return the seconds that some work takes, and what it returns."""
    began = time.perf_counter()
    answer = work()
    return time.perf_counter() - began, answer


def within(name: str, seconds: float, bar: float, note: str) -> Figure:
    """Return a figure of seconds that have a bar in seconds."""
    return Figure(
        name=name,
        value=1000 * seconds,
        unit="ms",
        bar=f"<= {1000 * bar:,.0f} ms",
        passed=seconds <= bar,
        note=note,
    )


def _archive(settings: Settings, cells: Sequence[ListedCell], sizes: Sequence[int]) -> Iterator[Figure]:
    """Time a cell's way into the archive and out of it, at two sizes: what grows with the archive shows."""
    warehouse = open_warehouse(settings)
    done, stored, candles = iter(cells[::2]), 0, 0
    days = iter(small.market().expiries(small.KEY) or [])
    for size in sizes:
        batch = []
        while candles < size:
            batch.append(next(done))
            candles += batch[-1].candles
        at_size.fill_candles(warehouse, batch)
        stored += len(batch)
        day = next(days)
        bars = list_cell(warehouse, small.market(), small.STOCK, day)[1]
        rows = sum(len(found) for found in bars.values())
        writing, _ = timed(partial(store_bars, warehouse, small.STOCK, day, bars, settings.home))
        reading = statistics.median(timed(partial(reader.minutes, warehouse, small.STOCK, day))[0] for _ in range(5))
        publish(warehouse)
        bars = list_cell(warehouse, small.market(), small.STOCK, later := next(days))[1]
        store_bars(warehouse, small.STOCK, later, bars, settings.home)
        publishing, _ = timed(partial(publish, warehouse, small.STOCK, later))
        files = sum(1 for _ in settings.published.glob("*/*/*.parquet"))
        note = f"{rows:,} candles, in an archive of {candles:,} in {stored:,} cells, {files:,} files published"
        million = f"{candles / 1e6:.0f} M"
        yield within(f"scale, writing a cell at {million} candles", writing, _LOOK_BAR, note)
        yield within(f"scale, reading a cell's minutes at {million} candles", reading, 1.0, note)
        yield within(f"scale, publishing a cell at {million} candles", publishing, _LOOK_BAR, note)
