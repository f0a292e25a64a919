"""What one candle, one run and one cell cost: a few cells that are really collected, derived and published.

Belongs here: the collection and the weighing of what it leaves. Its market trades as thinly as the desk's is taken to.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from expirytrack_dagster import partitions
from expirytrack_dagster.backfill import track
from expirytrack_dagster.collect.plan import Experience
from expirytrack_dagster.console import ProgressBars
from expirytrack_dagster.instance import open_instance
from expirytrack_dagster.runs import Runner, RunReport
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket
from expirytrack_dagster.settings import load_settings
from expirytrack_dagster.warehouse import reader
from expirytrack_dagster.warehouse.connection import open_warehouse
from expirytrack_dagster.warehouse.sums import table_sums
from expirytrack_dagster_tests.bench import every_stock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from expirytrack_dagster.sandbox.synthetic import Contract

STOCK, KEY = "RELIANCE", "NSE_EQ|INE002A01018"
DISCOVERIES = 3


class ThinMarket(SyntheticMarket):
    """Trades an option in the share of minutes that a stock's option is taken to trade in."""

    def _activity(self, contract: Contract) -> float:
        busy = super()._activity(contract)  # none at all in the outermost strikes
        return busy and (every_stock.FUTURE_MINUTES if contract.strike is None else every_stock.STOCK_MINUTES)


def market() -> ThinMarket:
    """Return a market whose stock has the desk's number of options."""
    return ThinMarket(strikes=every_stock.STOCK_OPTIONS // 4, days=every_stock.MONTHLY_LIFE, today=every_stock.TODAY)


@dataclass(frozen=True, slots=True)
class Weight:
    """What a run of a kind adds to Dagster's records: events, files and bytes."""

    events: float
    files: float
    bytes: float


@dataclass(frozen=True, slots=True)
class Unit:
    """What was collected, and bytes by where they lie; `published` are files a cell, beside the underlying's own."""

    cells: int
    candles: int
    rows: int
    received: int
    experience: Experience
    archive: int
    derived: int
    published: int
    published_derived: int
    published_files: int
    cache: int
    discovery: Weight
    collection: Weight
    derivation: Weight


def collected(cells: int) -> Unit:
    """Collect, derive and publish so many cells of a stock in the home of the environment, and weigh what is left."""
    settings = load_settings()
    with open_instance(settings) as instance:
        runner = Runner(instance, ProgressBars())
        track(settings, instance, STOCK, KEY)
        _succeed(runner.discover(STOCK))  # the first one makes all partitions
        discovery = _weigh(settings.dagster_home, lambda: _succeed(runner.discover(STOCK)), DISCOVERIES)
        days = iter(instance.get_dynamic_partitions(partitions.EXPIRY)[-cells:])
        collection = _weigh(settings.dagster_home, lambda: _succeed(runner.collect(STOCK, next(days))), cells)
        archive, published = settings.database.stat().st_size, _size(settings.published)
        days = iter(instance.get_dynamic_partitions(partitions.EXPIRY)[-cells:])
        derivation = _weigh(
            settings.dagster_home,
            lambda: _succeed(runner.launch("derivation", partitions.cell_key(STOCK, next(days)))),
            cells,
        )
    warehouse = open_warehouse(settings)
    ((_, *known),) = reader.experience(warehouse).itertuples(index=False, name=None)
    with closing(sqlite3.connect(settings.state_address.path)) as state:
        (received,) = state.execute("SELECT sum(bytes) FROM requests").fetchone()
    return Unit(
        cells=cells,
        candles=int(reader.cells(warehouse)["candles"].sum()),
        rows=sum(table.rows for table in table_sums(warehouse).values()),
        received=int(received),
        experience=Experience(*map(int, known)),
        archive=archive,
        derived=settings.database.stat().st_size - archive,
        published=published,
        published_derived=_size(settings.published) - published,
        published_files=len(list(settings.published.glob(f"*/{STOCK}/20*.parquet"))),
        cache=_size(settings.home / "cache"),
        discovery=discovery,
        collection=collection,
        derivation=derivation,
    )


def _weigh(folder: Path, work: Callable[[], None], times: int) -> Weight:
    before = _records(folder)
    for _ in range(times):
        work()
    after = _records(folder)
    return Weight(*((later - earlier) / times for later, earlier in zip(after, before, strict=True)))


def _records(folder: Path) -> tuple[int, int, int]:
    """Return how many events Dagster has on the disk, in how many files, and the bytes of all of them."""
    databases = list((folder / "history").rglob("*.db"))
    events = 0
    for path in databases:
        with closing(sqlite3.connect(path)) as connection:
            known = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'event_logs'").fetchone()
            if known and path.name != "index.db":  # which repeats the events that tell of assets
                events += connection.execute("SELECT count(*) FROM event_logs").fetchone()[0]
    return events, len(databases), _size(folder)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _succeed(report: RunReport) -> None:
    if report.error:
        raise RuntimeError(report.error)
