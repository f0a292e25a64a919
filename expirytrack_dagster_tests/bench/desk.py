"""Several collectors on what a desk shares: PostgreSQL, an object store and a sandbox of Upstox, all on this machine.

A collector is a process with a home of its own, as it would have on a host of its own; it shares the archive (a lake),
the state and Dagster's records. Belongs here: starting them, disturbing them, and what came out. Tests and benchmarks
say what is expected.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING

from expirytrack_dagster.sandbox.running import Running, running
from expirytrack_dagster.sandbox.switches import Switches
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket
from expirytrack_dagster.settings import RateLimit, load_settings
from expirytrack_dagster.warehouse.connection import open_warehouse
from expirytrack_dagster_tests.objects import BUCKET, ObjectStore, object_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from expirytrack_dagster_tests.postgres import PostgresServer

LIMITS = (RateLimit(1, 40), RateLimit(10, 300))
LATENCY = (0.05, 0.15)
WITHIN = 300.0
"""Seconds that a collector may take."""

# What stands in the archive for good; when it was asked, by which run and how often, may differ.
_TABLES = {
    "expiries": "discovered_at",
    "contracts": "",
    "candles": "",
    "quarantine": "run_id, quarantined_at",
    "contract_status": "checked_at, requests",
    "cell_seals": "sealed_at",
}


@dataclass(frozen=True, slots=True)
class Content:
    """What an archive holds for good: for each table its rows, and a hash of them whatever their order."""

    tables: dict[str, tuple[int, int]]


@dataclass(slots=True)
class Desk:
    """The services of a desk and the cells that are wanted; `database` is that of PostgreSQL for all three."""

    upstox: Running
    server: PostgresServer
    database: str
    objects: ObjectStore
    folder: Path
    cells: Sequence[date]
    prefix: str
    _started: list[subprocess.Popen[str]] = field(default_factory=list)

    def environment(self, host: str) -> dict[str, str]:
        """Return the settings of a host, in the environment."""
        address = self.database.removeprefix("postgresql://")
        given = {
            "HOME": str(self.folder / host),
            "API_URL": self.upstox.url,
            "ACCESS_TOKEN": "x",
            "RATE_LIMITS": ",".join(map(str, LIMITS)),
            "WAREHOUSE": f"ducklake:postgres:postgresql://{address}",
            "DATA_PATH": f"s3://{BUCKET}/{self.prefix}/",
            "STATE": self.database,
        }
        store = {
            "AWS_ENDPOINT_URL": self.objects.url,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
        }
        return os.environ | {f"EXPIRYTRACK_{name}": value for name, value in given.items()} | store

    def start(self, host: str, *, apart: bool = False) -> subprocess.Popen[str]:
        """Start a collector of all cells on a host; `apart` gives it a host's name of its own, as far as it can see."""
        command = [sys.executable, "-m", "expirytrack_dagster", "collect", "NIFTY"]
        command += [f"--expiry={cell}" for cell in self.cells]
        if apart:
            command = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', host, *command]
        process = subprocess.Popen(
            command, env=self.environment(host), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._started.append(process)
        return process

    def run(self, host: str, *arguments: str) -> str:
        """Run a command of the program on a host to its end, and return what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "expirytrack_dagster", *arguments],
            env=self.environment(host),
            capture_output=True,
            text=True,
            check=False,
            timeout=WITHIN,
        )
        if done.returncode:
            raise RuntimeError(done.stdout + done.stderr)
        return done.stdout

    def asked(self) -> list[str]:
        """Return the paths of all requests so far, for lists and candles."""
        return [entry.path for entry in self.upstox.requests()]

    def wait_until(self, happened: Callable[[], bool]) -> None:
        """Return when something has happened.

        Raises:
            TimeoutError: it has not in time.
        """
        deadline = time.monotonic() + WITHIN
        while not happened():
            if time.monotonic() > deadline:
                raise TimeoutError
            time.sleep(0.02)

    def restart(self, seconds: float) -> None:
        """End PostgreSQL as a crash would, and start it again after so long."""
        self.server.stop(at_once=True)
        time.sleep(seconds)
        self.server.start()

    def content(self) -> Content:
        """Return what the archive holds."""
        with _as_host(self.environment("reader")):
            archive = open_warehouse(load_settings())
        with archive.reading() as connection:
            found = {}
            for name, passing in _TABLES.items():
                columns = f"* EXCLUDE ({passing})" if passing else "*"
                sql = f"SELECT count(*), coalesce(sum(hash(each)), 0) FROM (SELECT {columns} FROM {name}) AS each"  # noqa: S608 -- our own tables
                rows, sum_of_hashes = connection.execute(sql).fetchall()[0]
                found[name] = int(rows), int(sum_of_hashes)
        return Content(found)

    def end(self) -> None:
        """End what is still running."""
        for process in self._started:
            process.kill()
            process.communicate()


@contextmanager
def desk(server: PostgresServer, folder: Path, cells: Sequence[date], *, strikes: int, name: str) -> Iterator[Desk]:
    """Yield a desk with NIFTY tracked and nothing collected.

    Args:
        server: where its database is made.
        folder: of the hosts' homes.
        cells: expiries that are wanted.
        strikes: on each side of the middle, so that a cell has about four times as many contracts.
        name: of the database and of the prefix in the object store.
    """
    market = SyntheticMarket(strikes=strikes, days=1, today=date(2025, 9, 15))
    switches = Switches(delay_after=LATENCY)
    with running(market, limits=LIMITS, switches=switches) as upstox, object_store() as objects:
        made = Desk(upstox, server, server.create(name), objects, folder, cells, name)
        try:
            made.run("first", "track", "NIFTY")
            yield made
        finally:
            made.end()
            server.drop(name)
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _as_host(environment: dict[str, str]) -> Iterator[None]:
    """Let this process read its settings as a host would."""
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
