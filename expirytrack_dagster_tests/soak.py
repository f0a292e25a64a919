"""Writers and readers of one archive at once, each a process of its own, and whether everything was exact.

Each version of a cell that is written has rows of its own, whose hash its writer notes. A reader that sees a cell sees
all rows of one of its versions, or it has met half a cell. The benchmark `lake` measures with this, and a test proves
with a shorter run. `python -m expirytrack_dagster_tests.soak` is one such process.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from expirytrack_dagster import archive
from expirytrack_dagster.settings import load_settings
from expirytrack_dagster.verification import Severity, verify_archive
from expirytrack_dagster.warehouse.cells import write_candles, write_contracts, write_expiries
from expirytrack_dagster.warehouse.connection import Warehouse, open_warehouse
from expirytrack_dagster.warehouse.published import publish
from expirytrack_dagster.warehouse.seals import HASHES, WIDTH

if TYPE_CHECKING:
    from collections.abc import Mapping

CONTRACTS, MINUTES = 20, 375
ROWS = CONTRACTS * MINUTES
FIRST = date(2024, 1, 4)
SHARED = [("SHARED", FIRST + timedelta(weeks=number)) for number in range(6)]
"""Cells that all writers write again and again; each has others that it alone writes, once."""
_CONTENDED = 4  # one write in so many
_FEWEST = 10  # looks of a reader at cells that are written, however slow the machine
_PATIENCE = 60.0

_VERSION = f"({HASHES} % {WIDTH})::UBIGINT::TEXT"
_LOOK = f"SELECT count(*) AS rows, {_VERSION} AS version FROM candles WHERE underlying = $name AND expiry = $day"  # noqa: S608 -- our own constant
_LISTED = "SELECT DISTINCT underlying, expiry FROM contract_status"


@dataclass
class Soak:
    """What the processes told: writes as (cell, version, begun, ended), looks as (cell, rows, version, seconds)."""

    seconds: float
    writes: list[tuple[str, str, float, float]] = field(default_factory=list)
    looks: list[tuple[str, int, str, float]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def latencies(self) -> list[float]:
        """Seconds of the looks, ascending."""
        return sorted(seconds for *_, seconds in self.looks)


def soak(environment: Mapping[str, str], writers: int, readers: int, seconds: float) -> Soak:
    """Let so many processes work on the archive that the environment names, and prove what they did.

    The faults are empty when each look saw a whole version, each cell holds one that nothing was written after, and
    `verify` finds no contradiction.
    """
    command = [sys.executable, "-m", "expirytrack_dagster_tests.soak"]
    started = [
        subprocess.Popen(
            [*command, role, str(number), str(seconds)],
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for role, count in (("write", writers), ("read", readers))
        for number in range(count)
    ]
    found = Soak(seconds)
    try:
        for process in started:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                found.faults.append("a process did not begin")
        told = _told(started)
    finally:
        for process in started:
            process.kill()
            process.wait()
    for one in told:
        found.writes += [tuple(write) for write in one.get("writes", ())]
        found.looks += [tuple(look) for look in one.get("looks", ())]
        found.faults += one.get("faults", ["a process ended without a word"])
    return found


def _told(started: list[subprocess.Popen[str]]) -> list[dict[str, Any]]:
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.close()
    told = []
    for process in started:
        assert process.stdout is not None
        told.append(json.loads(process.stdout.read() or "{}"))
        process.stdout.close()
    return told


def prove(found: Soak, warehouse: Warehouse, staging: Path) -> list[str]:
    """Return what is not exact, a sentence each; `found` is of this archive, in which nobody works any more."""
    faults = list(found.faults)
    written: defaultdict[str, dict[str, tuple[float, float]]] = defaultdict(dict)
    for cell, version, begun, ended in found.writes:
        written[cell][version] = begun, ended
    for cell, rows, version, _ in found.looks:
        if rows and (rows != ROWS or version not in written[cell]):
            faults.append(f"a reader saw {rows} rows of {cell}, which are none of its versions")
    for cell, versions in written.items():
        name, day = cell.split()
        with warehouse.reading() as connection:
            rows, version = connection.execute(_LOOK, {"name": name, "day": day}).fetchone() or (0, "")
        if rows != ROWS or version not in versions:
            faults.append(f"{cell} holds {rows} rows, which are none of its versions")
        elif late := [other for other, (begun, _) in versions.items() if begun > versions[version][1]]:
            faults.append(f"{cell} holds a version after which {len(late)} others were written")
    proof = verify_archive(warehouse, staging)
    faults += [str(finding) for finding in proof.findings if finding.severity is Severity.CONTRADICTION]
    return faults


def _write(number: int, seconds: float) -> dict[str, Any]:
    """Write cells until the time is over, one that all write among them."""
    settings, writes, faults = load_settings(), [], []
    warehouse = open_warehouse(settings)
    chance = random.Random(number)  # noqa: S311 -- any order will do
    step, end = 0, time.monotonic() + seconds
    while time.monotonic() < end or step < _CONTENDED:
        shared = step % _CONTENDED == _CONTENDED - 1
        name, day = chance.choice(SHARED) if shared else (f"OWN{number}", FIRST + timedelta(weeks=step))
        begun = time.time()
        try:
            version = _store(warehouse, name, day, tag=number * 100_000 + step)
        except Exception as error:  # noqa: BLE001 -- whatever it is, it is told
            faults.append(f"a writer: {error!r}")
            break
        writes.append((f"{name} {day}", version, begun, time.time()))
        step += 1
    return {"writes": writes, "faults": faults}


def _store(warehouse: Warehouse, name: str, day: date, tag: int) -> str:
    """Write a version of a cell as its assets do, and return the hash of its rows."""
    keys = [f"NSE_FO|{name}{number}|{day:%d-%m-%Y}" for number in range(CONTRACTS)]
    opening = datetime(day.year, day.month, day.day, 3, 45, tzinfo=UTC)
    minutes = [opening + timedelta(minutes=minute) for minute in range(MINUTES)]
    price = pa.array([float(tag)] * ROWS)
    staged = pa.table(
        {
            "instrument_key": pa.array([key for key in keys for _ in minutes]),
            "ts": pa.array(minutes * CONTRACTS, pa.timestamp("us", tz="UTC")),
            **dict.fromkeys(("open", "high", "low", "close"), price),
            "volume": pa.array(list(range(ROWS))),
            "open_interest": pa.array([750] * ROWS),
            "rule": pa.nulls(ROWS, pa.string()),
            "detail": pa.nulls(ROWS, pa.string()),
        }
    )
    status = pd.DataFrame(
        {
            "instrument_key": keys,
            "status": "complete",
            "requests": 1,
            "candles": MINUTES,
            "quarantined": 0,
            "duplicates": 0,
            "discarded": 0,
            "received": MINUTES,
            "first_ts": pd.Timestamp(minutes[0]),
            "last_ts": pd.Timestamp(minutes[-1]),
            "checked_at": pd.Timestamp(minutes[0]),
        }
    )
    if not name.startswith("SHARED"):
        _list(warehouse, name, day, keys)
    with tempfile.TemporaryDirectory() as folder, duckdb.connect() as memory:
        path = Path(folder) / "batch.parquet"
        pq.write_table(staged, path)
        (version,) = memory.execute(f"SELECT {_VERSION} FROM staged").fetchone() or ("",)  # noqa: S608 -- our own constant
        write_candles(warehouse, name, day, [path], status, f"tag {tag}")
    publish(warehouse, name, day)
    return str(version)


def _list(warehouse: Warehouse, name: str, day: date, keys: list[str]) -> None:
    write_expiries(warehouse, name, pd.DataFrame({"expiry": [day], "underlying_key": f"NSE_INDEX|{name}"}))
    write_contracts(warehouse, name, day, pd.DataFrame({"instrument_key": keys, "instrument_type": "CE"}))


def prepare(warehouse: Warehouse) -> None:
    """List the shared cells, so that each write of one is a new version and nothing else."""
    for name, day in SHARED:
        keys = [f"NSE_FO|{name}{number}|{day:%d-%m-%Y}" for number in range(CONTRACTS)]
        _list(warehouse, name, day, keys)
    publish(warehouse)


def _read(number: int, seconds: float) -> dict[str, Any]:
    """Look at one cell after the other until the time is over, and a few that are written have been seen."""
    looks: list[tuple[str, int, str, float]] = []
    faults: list[str] = []
    chance = random.Random(number)  # noqa: S311 -- as above
    known, seen, end = list(SHARED), 0, time.monotonic() + seconds
    while time.monotonic() < end or (seen < _FEWEST and time.monotonic() < end + _PATIENCE):
        name, day = chance.choice(known)
        began = time.perf_counter()
        try:
            row = archive.sql(_LOOK, {"name": name, "day": day}, underlying=name, expiry=day).df().iloc[0]
        except Exception as error:  # noqa: BLE001 -- whatever it is, it is told
            faults.append(f"a reader: {error!r}")
            break
        looks.append((f"{name} {day}", int(row["rows"]), str(row["version"]), time.perf_counter() - began))
        seen += bool(row["rows"])
        if len(looks) % 20 == 0:
            found = archive.sql(_LISTED).df()
            known = SHARED + [(str(name), day) for name, day in zip(found["underlying"], found["expiry"], strict=True)]
        time.sleep(0.02)  # a reader who thinks; without it, four of them take both cores from the writers
    return {"looks": looks, "faults": faults}


def main() -> None:
    """Say that it is ready, wait for the word, work, and tell."""
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=("write", "read"))
    parser.add_argument("number", type=int)
    parser.add_argument("seconds", type=float)
    options = parser.parse_args()
    archive.sql("SELECT 1")  # the imports are not what is measured
    print("ready", flush=True)  # noqa: T201 -- to the parent
    sys.stdin.readline()
    work = _write if options.role == "write" else _read
    print(json.dumps(work(options.number, options.seconds)), flush=True)  # noqa: T201 -- as above


if __name__ == "__main__":
    main()
