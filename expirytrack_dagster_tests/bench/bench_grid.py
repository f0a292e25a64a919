"""A grid of ten underlyings by four hundred expiries: is it still quick to look at, to decide about, and to add to?

Three times: the query with which the UI's page of partitions begins, over HTTP, as the page sends it; a tick of the
sensor that requests due cells; and the discovery of one new date, as a run. Every second cell is materialized: no grid
has more ranges to tell.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from expirytrack_dagster import partitions
from expirytrack_dagster.backfill import track
from expirytrack_dagster.console import ProgressBars
from expirytrack_dagster.definitions import build_defs
from expirytrack_dagster.instance import open_instance
from expirytrack_dagster.runs import Runner
from expirytrack_dagster.sandbox.running import Running, running
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket
from expirytrack_dagster.sensors import COLLECTION
from expirytrack_dagster.settings import Settings, load_settings
from expirytrack_dagster_tests.bench.figures import Figure
from expirytrack_dagster_tests.bench.load import TODAY, TOKEN
from expirytrack_dagster_tests.e2e.served import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_UNDERLYINGS, _WEEKS = 10, 400
_BAR = 2.0
_ROUNDS = 5

PAGE = """
query PartitionHealthQuery($assetKey: AssetKeyInput!) {
  assetNodeOrError(assetKey: $assetKey) { ... on AssetNode {
    id
    partitionKeysByDimension { name type partitionKeys }
    assetPartitionStatuses {
      ... on TimePartitionStatuses { ranges { status startTime endTime startKey endKey } }
      ... on DefaultPartitionStatuses { materializedPartitions materializingPartitions failedPartitions }
      ... on MultiPartitionStatuses {
        primaryDimensionName
        ranges {
          primaryDimStartKey primaryDimEndKey primaryDimStartTime primaryDimEndTime
          secondaryDim {
            ... on TimePartitionStatuses { ranges { status startTime endTime startKey endKey } }
            ... on DefaultPartitionStatuses { materializedPartitions materializingPartitions failedPartitions }
          }
        }
      }
    }
  } }
}"""


class _LongMarket(SyntheticMarket):
    """Lists as many weekly expiries of every underlying as it is told."""

    weeks = 0

    def expiries(self, underlying_key: str) -> list[date] | None:
        """Return the newest weeks, ascending."""
        del underlying_key
        return [TODAY - timedelta(weeks=week, days=4) for week in reversed(range(self.weeks))]


def run(*, quick: bool) -> Iterator[Figure]:
    """Yield the three times; quick, the grid is three by fifty."""
    count, weeks = (3, 50) if quick else (_UNDERLYINGS, _WEEKS)
    symbols = [f"INDEX{number}" for number in range(count)]
    market = _LongMarket(strikes=1, days=1, today=TODAY)
    market.weeks = weeks - 1
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        running(market, limits=()) as upstox,
        environment(Path(folder), upstox),
    ):
        settings = load_settings()
        with open_instance(settings) as instance:
            cells = _fill(settings, instance, symbols)
            market.weeks = weeks
            busy = time.process_time()
            discovery = _seconds(lambda: _discover(instance, symbols[0]))
            busy = time.process_time() - busy
            ticked, requested = tick(instance)
        _, shown = page(settings, upstox.url)
    note = f"{len(symbols)} underlyings, {weeks} expiries, {cells:,} cells filled"
    for name, seconds, more in (
        ("partition query of the asset page", shown, f"median of {_ROUNDS}"),
        ("tick of the collection sensor", ticked, f"{requested} runs requested"),
        ("discovery of one new date", discovery, f"a whole run, {busy:.2f} s of a processor"),
    ):
        yield Figure(
            name=f"grid, {name}",
            value=seconds,
            unit="s",
            bar=f"<= {_BAR:g} s",
            passed=seconds <= _BAR,
            note=f"{note}; {more}",
        )


@contextmanager
def environment(home: Path, upstox: Running) -> Iterator[None]:
    """Let the settings of this process, and of those that it starts, be those of a home and a sandbox."""
    given = {"HOME": str(home), "API_URL": upstox.url, "ACCESS_TOKEN": TOKEN}
    before = dict(os.environ)
    os.environ.update({f"EXPIRYTRACK_{name}": value for name, value in given.items()})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _fill(settings: Settings, instance: dg.DagsterInstance, symbols: Sequence[str]) -> int:
    """Track and discover all underlyings, record every second cell as materialized, and return how many those are."""
    runner = Runner(instance, ProgressBars())
    for symbol in symbols:
        track(settings, instance, symbol, f"NSE_INDEX|{symbol}")
        _succeed(runner, symbol)
    keys = [
        partitions.cell_key(symbol, day)
        for place, day in enumerate(instance.get_dynamic_partitions(partitions.EXPIRY))
        for symbol in symbols[place % 2 :: 2]
    ]
    for key in keys:
        instance.report_runless_asset_event(dg.AssetMaterialization("candles", partition=key))
    return len(keys)


def _discover(instance: dg.DagsterInstance, symbol: str) -> None:
    _succeed(Runner(instance, ProgressBars()), symbol)


def _succeed(runner: Runner, symbol: str) -> None:
    report = runner.discover(symbol)
    if report.error:
        raise RuntimeError(report.error)


def tick(instance: dg.DagsterInstance) -> tuple[float, int]:
    """Return the median seconds of a tick, and how many runs it requests."""
    defs = build_defs()
    sensor = defs.resolve_sensor_def(COLLECTION)
    taken: list[float] = []
    requested = 0
    for _ in range(_ROUNDS):
        with dg.build_sensor_context(
            instance=instance,
            instance_ref=instance.get_ref(),
            resources=dict(defs.resources or {}),
            repository_def=defs.get_repository_def(),
        ) as context:
            began = time.perf_counter()
            requested = len(sensor.evaluate_tick(context).run_requests or [])
            taken.append(time.perf_counter() - began)
    if not requested:
        raise RuntimeError("the sensor has to have something to request")
    return statistics.median(taken), requested


def page(settings: Settings, url: str) -> tuple[float, float]:
    """Return the seconds of the page's query at a fresh webserver, and the median of those that follow."""
    with serving(settings.home, url) as ui:
        asked = {"assetKey": {"path": ["candles"]}}
        first = _seconds(lambda: ui.ask(PAGE, **asked))
        return first, statistics.median(_seconds(lambda: ui.ask(PAGE, **asked)) for _ in range(_ROUNDS))


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
