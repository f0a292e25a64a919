"""Killed at any moment: is the archive that comes out the undisturbed one, and what was asked twice?

A trial collects a cell of 199 contracts with the command line, in a process that is killed (`kill -9`) again and again
and started anew until the cell is done: at a random request, at a random instant, with a batch half put on disk, inside
the transaction, and between commit and clearing the staged files. `trial` is also what the integration test looks at.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from expirytrack_dagster.sandbox.planting import Plant
from expirytrack_dagster.sandbox.running import Running, running
from expirytrack_dagster.sandbox.switches import Switches
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket
from expirytrack_dagster.settings import load_settings
from expirytrack_dagster.warehouse.connection import Warehouse
from expirytrack_dagster_tests.bench.figures import Figure

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow as pa

Moment = Literal["asking", "any", "staging", "writing", "written"]

EXPIRY = date(2025, 8, 28)
MOMENTS: tuple[Moment, ...] = ("any", "asking", "staging", "writing", "written")
KILLS = 25
WORKERS = 10
_UNDERLYING = "NSE_INDEX|Nifty 50"
_MARKET = SyntheticMarket(strikes=49, days=1, today=date(2025, 9, 15))
_LATENCY = (0.0, 0.03)
_WITHIN = 120.0  # seconds that one process may take

# Where a process ends itself, hard, at a place that an onlooker could not hit: who is called there, and what.
_PLACES: dict[str, tuple[str, str]] = {
    "staging": ("os", "fsync"),  # the first batch has its temporary name still
    "writing": ("expirytrack_dagster.warehouse.cells", "_balance"),  # the rows are in, the transaction is open
    "written": ("expirytrack_dagster.collect.staging.CellStaging", "clear"),  # committed, and still staged
}
_DIE_AT = """
import pkgutil, psutil, sys
setattr(pkgutil.resolve_name(sys.argv.pop(1)), sys.argv.pop(1), lambda *_, **__: psutil.Process().kill())
from expirytrack_dagster.cli import main
main()
"""

# What stands in the archive for good; when it was asked, by which run and how often, may differ.
_TABLES = {
    "expiries": "discovered_at",
    "contracts": "",
    "candles": "",
    "quarantine": "run_id, quarantined_at",
    "contract_status": "checked_at, requests",
    "cell_seals": "sealed_at",
}


@dataclass(slots=True)
class Trial:
    """What came of a trial.

    Attributes:
        kills: The moments at which a process was killed, in order; one that was done before is not among them.
        requests: All that the sandbox saw.
        in_flight: Upper bound of what was under way at the kills: as many as there are workers, where any were.
        different: Tables that are not those of the undisturbed run.
        failed: What a process that was left alone wrote when it did not end well.
    """

    kills: list[Moment] = field(default_factory=list)
    requests: int = 0
    in_flight: int = 0
    different: list[str] = field(default_factory=list)
    failed: str = ""


def run(*, quick: bool) -> Iterator[Figure]:
    """Yield the number of tables that differ, and of the requests that kills cost."""
    wanted = len(MOMENTS) if quick else KILLS
    chance = random.Random(5)  # noqa: S311 -- moments, no secrets
    trials: list[Trial] = []
    kills: list[Moment] = []
    with serving() as upstox, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        undisturbed = Undisturbed(upstox, Path(folder) / "undisturbed")
        while len(kills) < wanted:
            trials.append(trial(upstox, Path(folder) / str(len(trials)), undisturbed, MOMENTS, chance))
            kills += trials[-1].kills
    different = [what for each in trials for what in (*each.different, each.failed) if what]
    yield Figure(
        name="kills, tables that differ",
        value=len(different),
        unit="tables",
        beside=f"an undisturbed run, row for row, {len(trials)} times",
        bar=f"0 after {wanted} kills",
        passed=not different and len(kills) >= wanted,
        note=f"{len(kills)} kills ({', '.join(f'{moment} {kills.count(moment)}' for moment in MOMENTS)}) of a cell of"
        f" {undisturbed.contracts} contracts, {len(_TABLES)} tables {'; '.join(different)}",
    )
    asked, usual = sum(each.requests for each in trials), undisturbed.requests * len(trials)
    allowed = sum(each.in_flight for each in trials)
    yield Figure(
        name="kills, requests beyond the undisturbed",
        value=asked - usual,
        unit="requests",
        beside=f"{usual:,} undisturbed",
        ratio=asked / usual,
        bar=f"<= {allowed} in flight at the kills",
        passed=asked - usual <= allowed,
        note=f"{asked:,} requests in all, {WORKERS} at once",
    )


@contextmanager
def serving() -> Iterator[Running]:
    """Serve the market that is collected: some rows are bad, and answers take a moment, so that many are under way."""
    rows = _MARKET.option_contracts(_UNDERLYING, EXPIRY) or []
    spoilt = tuple(str(row["instrument_key"]) for row in rows[len(rows) // 2 : len(rows) // 2 + 2])
    with running(_MARKET, limits=(), switches=Switches(planted=(Plant(spoilt),), delay_after=_LATENCY)) as upstox:
        yield upstox


class Undisturbed:
    """A collection that nothing disturbs: its tables, what it asked and how long it took."""

    def __init__(self, upstox: Running, home: Path) -> None:
        """Collect into this home.

        Raises:
            RuntimeError: it did not end well.
        """
        began, before = time.monotonic(), len(upstox.sandbox.log)
        process = _start(upstox, home)
        _, complaint = process.communicate(timeout=_WITHIN)
        if process.returncode:
            raise RuntimeError(complaint)
        self.seconds = time.monotonic() - began
        self.requests = len(upstox.sandbox.log) - before
        self.tables = tables(home)
        self.contracts = self.tables["contracts"].num_rows


def trial(
    upstox: Running, home: Path, undisturbed: Undisturbed, moments: Sequence[Moment], chance: random.Random
) -> Trial:
    """Collect into a fresh home, killed once at each of the moments, then left alone."""
    result = Trial()
    before = len(upstox.sandbox.log)
    for moment in moments:
        asked = len(upstox.sandbox.log)
        if _killed(upstox, home, moment, undisturbed.seconds, chance):
            result.kills.append(moment)
            if moment not in {"writing", "written"} and len(upstox.sandbox.log) > asked:
                result.in_flight += WORKERS
    process = _start(upstox, home)
    _, complaint = process.communicate(timeout=_WITHIN)
    result.failed = complaint if process.returncode else ""
    result.requests = len(upstox.sandbox.log) - before
    held = tables(home)
    result.different = [name for name, table in undisturbed.tables.items() if not held[name].equals(table)]
    return result


def tables(home: Path) -> dict[str, pa.Table]:
    """Return what the archive holds for good, each table in one order of its rows."""
    with Warehouse(load_settings(home=home).database).reading() as connection:
        return {
            name: connection.execute(
                f"SELECT *{f' EXCLUDE ({passing})' if passing else ''} FROM {name} ORDER BY ALL"  # noqa: S608 -- our own tables
            ).to_arrow_table()
            for name, passing in _TABLES.items()
        }


def _killed(upstox: Running, home: Path, moment: Moment, seconds: float, chance: random.Random) -> bool:
    """Start a collection and kill it at that moment; say whether it was still at work then."""
    process = _start(upstox, home, *_PLACES.get(moment, ()))
    asked = len(upstox.sandbox.log) + chance.randint(1, 15)
    deadline = time.monotonic() + (chance.uniform(0, 0.6 * seconds) if moment == "any" else _WITHIN)
    while process.poll() is None and time.monotonic() < deadline:
        if moment == "asking" and len(upstox.sandbox.log) >= asked:
            break
        time.sleep(0.001)
    process.kill()
    process.communicate()
    return process.returncode != 0


def _start(upstox: Running, home: Path, *place: str) -> subprocess.Popen[str]:
    given = {
        "HOME": str(home),
        "API_URL": upstox.url,
        "ACCESS_TOKEN": "x",
        "RATE_LIMITS": "100000/1",
        "WORKERS": str(WORKERS),
    }
    program = ["-c", _DIE_AT, *place] if place else ["-m", "expirytrack_dagster"]
    return subprocess.Popen(
        [sys.executable, *program, "collect", "NIFTY", "--expiry", str(EXPIRY)],
        env=os.environ | {f"EXPIRYTRACK_{name}": value for name, value in given.items()},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
