"""A home that an earlier version wrote: opened, read, proved and collected on, with every row that it held.

The earlier homes are made by the steps of the schema themselves, the first ones alone, with rows from then.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import date
from typing import TYPE_CHECKING, Any

import duckdb
import pytest

from expirytrack_dagster.cli import main
from expirytrack_dagster.sandbox.running import Running, running
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket
from expirytrack_dagster.servers import this_program
from expirytrack_dagster.state import StateDatabase, schema
from expirytrack_dagster.warehouse.connection import Warehouse
from expirytrack_dagster.warehouse.migrate import migrations
from expirytrack_dagster_tests.statements import sql

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Command = Callable[..., tuple[int, dict[str, Any]]]

MARKET = SyntheticMarket(strikes=2, days=1, today=date(2025, 9, 10))
OLD, NEXT = "2025-08-28", "2025-08-21"
TABLES = ("expiries", "contracts", "candles", "contract_status", "quarantine")
CANDLES = "SELECT instrument_key, ts, open, high, low, close, volume, open_interest FROM candles ORDER BY ALL"
STATE_STEPS = schema.scripts()
"""An earlier version had the first of them."""


@pytest.fixture(scope="module")
def upstox() -> Iterator[Running]:
    """Serve the market without a fault."""
    with running(MARKET) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def then(upstox: Running, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Collect a cell with this version, once, and return its home: the rows that earlier ones are given."""
    home = tmp_path_factory.mktemp("then") / "home"
    ours = {"EXPIRYTRACK_HOME": str(home), "EXPIRYTRACK_API_URL": upstox.url, "EXPIRYTRACK_ACCESS_TOKEN": "x"}
    subprocess.run([*this_program(), "collect", "NIFTY", "--expiry", OLD], env=os.environ | ours, check=True)
    return home


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], upstox: Running) -> Command:
    """Return a function that runs `expirytrack WORDS --json` in this process: exit code and what it printed."""
    monkeypatch.setenv("EXPIRYTRACK_API_URL", upstox.url)
    monkeypatch.setenv("EXPIRYTRACK_ACCESS_TOKEN", "x")

    def command(*words: str) -> tuple[int, dict[str, Any]]:
        monkeypatch.setattr(sys, "argv", ["expirytrack", *words, "--json"])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), json.loads(capsys.readouterr().out)

    return command


def written_by(versions: tuple[int, int], home: Path, then: Path) -> None:
    """Make the home as a version left it that knew so many steps of the archive's schema and of the state's."""
    archive, state = versions
    home.mkdir()
    with duckdb.connect(home / "expirytrack.duckdb") as connection:
        connection.execute(f"ATTACH '{then / 'expirytrack.duckdb'}' AS later (READ_ONLY)")
        for step in migrations()[:archive]:
            connection.execute(step.sql)
            connection.execute("INSERT INTO schema_version (version, name) VALUES (?, ?)", [step.version, step.name])
            if step.version == 1:
                for table in TABLES:
                    columns = ", ".join(name for name, *_ in connection.execute(f"DESCRIBE {table}").fetchall())
                    connection.execute(f"INSERT INTO {table} BY NAME SELECT {columns} FROM later.{table}")  # noqa: S608 -- names of this schema
    with closing(sqlite3.connect(home / "state.sqlite", isolation_level=None)) as database:
        for number, script in enumerate(STATE_STEPS[:state], start=1):
            database.executescript(f"{script.read_text(encoding='utf-8')}\nPRAGMA user_version = {number};")
        database.execute("ATTACH ? AS later", [str(then / "state.sqlite")])
        database.execute("INSERT INTO requests SELECT * FROM later.requests")


def candles(home: Path) -> list[tuple[object, ...]]:
    """Return every candle of a home."""
    with Warehouse(home / "expirytrack.duckdb").reading() as connection:
        return connection.execute(CANDLES).fetchall()


def test_the_first_version_s_home_goes_on(home: Path, then: Path, run: Command, upstox: Running) -> None:
    """Its candles are there and proved and not asked again, what was spent counts, and the next cell comes."""
    written_by((1, 1), home, then)
    spent = len(upstox.requests())
    stored = candles(then)
    assert stored

    _, status = run("status")
    assert [cell["expiry"] for cell in status["cells"] if cell["candles"]] == [OLD]
    assert status["budget"][-1]["used"] == spent
    code, verified = run("verify")
    assert (code, verified["proven"]) == (0, True)
    assert candles(home) == stored

    code, _ = run("collect", "NIFTY", "--expiry", OLD)
    asked = [request.endpoint for request in upstox.requests()[spent:]]
    assert (code, set(asked) <= {"expiries"}) == (0, True)
    assert candles(home) == stored

    code, _ = run("collect", "NIFTY", "--expiry", NEXT)
    assert code == 0
    assert set(candles(home)) > set(stored)
    assert run("verify")[0] == 0
    counted = StateDatabase(home / "state.sqlite").query(sql("SELECT count(*) FROM requests"))
    assert counted == [(len(upstox.requests()),)]


@pytest.mark.parametrize("steps", range(1, max(len(migrations()), len(STATE_STEPS))))
def test_every_earlier_version_s_home_opens(home: Path, then: Path, run: Command, steps: int) -> None:
    """Whatever steps it had, the rest is made up for at the first opening; nothing it held is lost."""
    written_by((min(steps, len(migrations())), min(steps, len(STATE_STEPS))), home, then)
    code, verified = run("verify")
    assert (code, verified["proven"]) == (0, True)
    assert candles(home) == candles(then)
