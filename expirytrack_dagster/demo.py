"""The demonstration: a sandbox, two underlyings, a weekly and a monthly expiry each, collected through Dagster.

What is derived from candles is made of the newest cell of the first underlying, so that the UI has one of each to show.

It shows the product without an account, with nothing but the product: the same assets, the same command line code.
Its home is apart from the real archive, so that made-up candles never mix with true ones.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from expirytrack_dagster import console
from expirytrack_dagster.backfill import Backfill, Outcome, track
from expirytrack_dagster.instance import open_instance
from expirytrack_dagster.jobs import derivation, futures_rolling
from expirytrack_dagster.partitions import cell_key
from expirytrack_dagster.runs import Runner
from expirytrack_dagster.servers import free_port, this_program
from expirytrack_dagster.settings import PREFIX, load_settings
from expirytrack_dagster.warehouse.connection import open_warehouse
from expirytrack_dagster.warehouse.derived import derivable, outdated

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date
    from pathlib import Path

    import dagster as dg

    from expirytrack_dagster.servers import Children
    from expirytrack_dagster.settings import Settings

UNDERLYINGS = ("NIFTY", "SENSEX")
MARKET = ("--strikes", "10", "--days", "5")


def run_demo(children: Children, home: Path) -> tuple[Outcome, float]:
    """Collect the demonstration's cells, and derive from one; return how it ended and how long it took in seconds.

    What the archive already holds is not asked again. The sandbox goes on serving until `children` end.
    """
    port = free_port()
    console.say(f"Starting a local Upstox with a made-up market; everything is kept in {home}.")
    children.start("sandbox", *this_program(), "sandbox", "--port", str(port), *MARKET)
    url = f"http://127.0.0.1:{port}"
    children.wait_for("sandbox", f"{url}/_sandbox/stats")
    os.environ[f"{PREFIX}API_URL"] = url
    os.environ[f"{PREFIX}ACCESS_TOKEN"] = "demo"  # the sandbox takes any token

    settings = load_settings()
    started = time.monotonic()
    outcome = Outcome()
    progress = console.ProgressBars()
    with open_instance(settings) as instance, progress:
        backfill = Backfill(settings, instance, progress)
        for symbol in UNDERLYINGS:
            track(settings, instance, symbol)
            outcome = outcome.joined(backfill.collect([symbol], choose(backfill.listed(symbol, outcome))))
        _derive(settings, instance, UNDERLYINGS[0], outcome)
    return outcome, time.monotonic() - started


def choose(days: Sequence[date]) -> list[date]:
    """Return the last two expiries of the newest month that is over: in the sandbox a weekly and a monthly one."""
    newest = max(days)
    over = sorted(day for day in days if (day.year, day.month) < (newest.year, newest.month))
    return over[-2:]


def _derive(settings: Settings, instance: dg.DagsterInstance, symbol: str, outcome: Outcome) -> None:
    archive = open_warehouse(settings)
    newest = derivable(archive, symbol)[:1]
    if not newest or newest[0] not in outdated(archive, settings.interest_rate, symbol):
        return
    console.say("Deriving the chain, volatilities and greeks of one cell ...")
    runner = Runner(instance, console.ProgressBars())
    cell = cell_key(symbol, newest[0][1].isoformat())
    for job, partition in ((derivation, cell), (futures_rolling, symbol)):
        report = runner.launch(job.name, partition)
        if report.error:
            outcome.errors.append(f"{symbol}: {report.error}")
            outcome.exit_code = report.exit_code
