"""A home of the desk's size, really filled, and how long it takes to look at it, to decide about it, and to add to it.

Belongs here: filling (by `at_size.py`) and timing. What the desk costs is computed in `bench_scale.py`.
"""

from __future__ import annotations

import statistics
import time
import warnings
from datetime import UTC, datetime
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

import dagster as dg

from expirytrack_dagster import partitions
from expirytrack_dagster.backfill import Backfill
from expirytrack_dagster.console import ProgressBars
from expirytrack_dagster.definitions import build_defs
from expirytrack_dagster.instance import open_instance
from expirytrack_dagster.observe.lookout import look
from expirytrack_dagster.observe.readings import measure
from expirytrack_dagster.planning import outlook
from expirytrack_dagster.upstox.calls import Call, Receipt
from expirytrack_dagster.upstox.ledger import open_ledger
from expirytrack_dagster.warehouse import reader
from expirytrack_dagster.warehouse.connection import open_warehouse
from expirytrack_dagster.warehouse.published import publish
from expirytrack_dagster_tests.bench import at_size, small
from expirytrack_dagster_tests.bench.bench_grid import page, tick
from expirytrack_dagster_tests.bench.figures import Figure
from expirytrack_dagster_tests.bench.timing import timed, within
from expirytrack_dagster_tests.e2e.served import serving
from expirytrack_dagster_tests.market import list_cell, store_bars

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from expirytrack_dagster.settings import Settings
    from expirytrack_dagster_tests.bench.every_stock import ListedCell

_TICK_BAR, _COLLECT_BAR, _LOOK_BAR, _SLOT_BAR, _PAGE_BAR = 60.0, 30.0, 10.0, 0.01, 5.0
"""Dagster ends a sensor's tick after a minute; a person waits for ten seconds, for a page for five, for a command that
goes through everything for half a minute; a request may wait for its slot so long without being held up by more than
the limits."""

_WATCHED = 20.0  # seconds for which a backfill is watched
_GB = 1e9


def grid(settings: Settings, cells: Sequence[ListedCell], url: str) -> Iterator[Figure]:
    """Fill the grid, the state and the contracts, and time whoever looks at them."""
    done = cells[::2]
    stored, state, now = open_warehouse(settings), open_ledger(settings).state, datetime.now(tz=UTC)
    at_size.fill_state(state, cells, now)
    at_size.fill_archive(stored, cells, done)
    with open_instance(settings) as instance:
        filling, settled = timed(lambda: at_size.fill_grid(instance, cells))
        again, _ = timed(lambda: partitions.settle_unlisted(instance, at_size.listed(cells)))
        at_size.fill_collected(instance, done)
        ticked, requested = tick(instance)
        conditions = _conditions(instance)
    size = (settings.dagster_home / "history" / "runs" / "index.db").stat().st_size
    first, later = page(settings, url)
    size_of_grid = len({cell.underlying for cell in cells}) * len({cell.expiry for cell in cells})
    note = f"{size_of_grid:,} cells of the grid, {len(cells):,} of which are listed; every second of these is collected"
    yield Figure(
        name="scale, partitions of an asset",
        value=size_of_grid,
        unit="partitions",
        bar="<= 100,000",
        passed=size_of_grid <= 100_000,
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
    yield from _backfill(settings, cells[1::2], url)
    yield from _looks(settings, len(cells))


def _backfill(settings: Settings, cells: Sequence[ListedCell], url: str) -> Iterator[Figure]:
    """Launch a backfill of everything that is missing, as the UI does, and look how fast its runs are queued."""
    configuration = settings.dagster_home / "dagster.yaml"
    told = configuration.read_text(encoding="utf-8")
    configuration.write_text(told.replace("max_concurrent_runs: 4", "max_concurrent_runs: 0"), encoding="utf-8")
    keys = [partitions.cell_key(cell.underlying, cell.expiry.isoformat()) for cell in cells]
    with serving(settings.home, url) as ui, open_instance(settings) as instance:
        accepting, _ = timed(lambda: ui.backfill(keys))
        began = time.monotonic()
        ui.wait(instance.get_runs_count)
        first = time.monotonic() - began
        before = instance.get_runs_count()
        time.sleep(_WATCHED)
        queued = (instance.get_runs_count() - before) / _WATCHED
    configuration.write_text(told, encoding="utf-8")
    note = f"{len(keys):,} cells, {queued:.1f} runs queued a second; the limits let one begin every minute or two"
    yield within("scale, a backfill of all that is missing is accepted", accepting, _LOOK_BAR, note)
    yield within("scale, its first run is queued", first, _TICK_BAR, note)


def _looks(settings: Settings, cells: int) -> Iterator[Figure]:
    stored, kept, now = open_warehouse(settings), open_ledger(settings), datetime.now(tz=UTC)

    def plan() -> int:
        seen = outlook(settings, stored, kept, now)
        return len(seen.plan(seen.missing()).cells)

    note = f"{cells:,} cells listed, half of them collected"
    for name, work in (
        ("planning what is missing", plan),
        ("a look of `expirytrack status`", lambda: look(settings, now)),
        ("judging alerts", lambda: measure(settings, now, [])),
    ):
        seconds, _ = timed(work)
        yield within(f"scale, {name}", seconds, _LOOK_BAR, note)


def collection(settings: Settings, cells: Sequence[ListedCell]) -> Iterator[Figure]:
    """Complete the grid, and time a `collect` of all underlyings, which finds that there is nothing to do."""
    symbols = list(dict.fromkeys(cell.underlying for cell in cells))
    at_size.fill_rest(open_warehouse(settings), cells, cells[1::2])
    with open_instance(settings) as instance:
        at_size.fill_checked(instance, cells)
        at_size.fill_lists(open_ledger(settings).state, symbols, datetime.now(tz=UTC))
        collecting, outcome = timed(lambda: Backfill(settings, instance, ProgressBars()).collect(symbols, []))
    if outcome.exit_code or outcome.requests:
        raise RuntimeError(f"there should be nothing to do: {outcome.errors}, {outcome.incomplete}")
    note = f"{len(symbols)} underlyings, {len(outcome.cells):,} cells"
    yield within("scale, `expirytrack collect` where all is there", collecting, _COLLECT_BAR, note)


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


def ledger(settings: Settings, requests: int) -> Iterator[Figure]:
    """Fill the ledger, and time its slots and questions."""
    clock = _EverySecond()
    kept = open_ledger(settings, clock)
    before = settings.state_address.path.stat().st_size
    at_size.fill_requests(kept.state, requests, datetime.now(tz=UTC), every=1800 / 2000)
    kept.state.close()
    size = settings.state_address.path.stat().st_size - before
    numbers = count()

    def ask() -> None:
        taken = kept.acquire(Call("candles", f"NSE_FO|{next(numbers)}|28-08-2025"), run_id="bench")
        if not isinstance(taken, int):
            raise TypeError(f"a slot should be free: {taken}")
        kept.settle(taken, Receipt(outcome="ok", counted_at=clock.at, status=200, bytes=90_000, rows=1_400))

    slots = statistics.median(timed(ask)[0] for _ in range(40))
    note = f"{requests:,} requests in the ledger"
    yield Figure(
        name="scale, disk of the ledger", value=size / _GB, unit="GB", beside=f"{size / requests:.0f} bytes a request"
    )
    yield within("scale, a slot taken and settled", slots, _SLOT_BAR, note)
    for name, work in (
        ("how full the windows are", kept.budget),
        ("whether the token was refused", kept.refused_at),
        ("when a list was asked for", lambda: kept.last_answer("expiries", "NSE_INDEX|NIFTY")),
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


def archive(settings: Settings, cells: Sequence[ListedCell], sizes: Sequence[int]) -> Iterator[Figure]:
    """Time a cell's way into the archive and out of it, at two sizes: what grows with the archive shows."""
    warehouse = open_warehouse(settings)
    done, stored, candles = iter(cells[::2]), 0, 0
    days = reversed(small.market().expiries(small.KEY) or [])
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
