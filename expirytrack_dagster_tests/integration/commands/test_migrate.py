"""`expirytrack migrate`: what a person gets told, exit codes, and a process that is killed in the middle."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from datetime import date
from typing import TYPE_CHECKING, Any

import pytest

from expirytrack_dagster.cli import main
from expirytrack_dagster.collect import tracking
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket
from expirytrack_dagster.servers import this_program
from expirytrack_dagster.settings import load_settings
from expirytrack_dagster.state import open_state
from expirytrack_dagster.warehouse.connection import Warehouse, open_warehouse
from expirytrack_dagster.warehouse.sums import table_sums
from expirytrack_dagster_tests.market import store_cell

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Command = Callable[..., tuple[int, str, str]]

WEEKS = 3
MARKET = SyntheticMarket(strikes=1, days=1, today=date(2025, 9, 15))
LARGER = SyntheticMarket(strikes=30, days=5, today=date(2025, 9, 15))  # more candles than share a transaction
DAYS = MARKET.expiries("NSE_INDEX|Nifty 50") or []


@pytest.fixture(autouse=True)
def filled(home: Path, tmp_path: Path) -> Path:
    """Give this test's home an archive of a few small cells, and a state that tracks their underlying."""
    for day in DAYS[-WEEKS:]:
        store_cell(open_warehouse(load_settings()), MARKET, "NIFTY", day, tmp_path)
    with open_state(load_settings()) as state:
        tracking.track(state, "NIFTY", "NSE_INDEX|Nifty 50")
    return home


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Return a function that runs `expirytrack migrate WORDS` in this process: exit code, output, errors."""

    def command(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["expirytrack", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        told = capsys.readouterr()
        return (ended.value.code if isinstance(ended.value.code, int) else 0), told.out, told.err

    return command


def moved(run: Command, *targets: str) -> dict[str, Any]:
    """Move to the targets, which has to end well, and return the report."""
    code, out, error = run("migrate", *(word for target in targets for word in ("--to", target)), "--json")
    assert code == 0, error
    report: dict[str, Any] = json.loads(out)
    return report


def test_archive_and_state_move_together(
    run: Command, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The settings that are named lead to the same home: nothing is asked or counted otherwise there."""
    before = json.loads(run("status", "--json")[1])
    sums = table_sums(open_warehouse(load_settings()))
    report = moved(run, f"warehouse=sqlite:{tmp_path}/there.sqlite", f"state=sqlite:{tmp_path}/state.sqlite")
    assert (report["equal"], report["warehouse"]["copied_cells"], report["state"]["equal"]) == (True, WEEKS, True)
    assert report["warehouse"]["tables"]["candles"]["rows"] == sums["candles"].rows
    for setting in report["set"]:
        monkeypatch.setenv(*setting.split("="))
    (home / "expirytrack.duckdb").rename(tmp_path / "old.duckdb")
    assert run("verify")[0] == 0
    after = json.loads(run("status", "--json")[1])
    assert (after["cells"], after["underlyings"]) == (before["cells"], before["underlyings"])
    moved(run, f"duckdb:{tmp_path}/back.duckdb")
    back = table_sums(Warehouse(tmp_path / "back.duckdb"))
    assert {name: back[name] for name in back if name != "schema_version"} == {
        name: sums[name] for name in sums if name != "schema_version"
    }


def test_a_person_is_told_what_is_proven_and_what_to_do(
    run: Command, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every table, both addresses, whole so that they hold in every folder, and that nothing has been switched."""
    monkeypatch.chdir(tmp_path)
    code, out, _ = run("migrate", "--to", "ducklake:sqlite:lake.sqlite", "--data-path", "files")
    assert code == 0
    assert f"Archive: {WEEKS} cells copied" in out
    assert "Nothing has been switched" in out
    assert f"EXPIRYTRACK_WAREHOUSE=ducklake:sqlite:{tmp_path}/lake.sqlite" in out
    assert f"EXPIRYTRACK_DATA_PATH={tmp_path}/files" in out
    assert f"move {home}/expirytrack.duckdb out of the home" in out
    assert run("audit", "list")[1].count("migrate") >= 1


def test_one_that_was_killed_goes_on(run: Command, tmp_path: Path) -> None:
    """Killed after the first cell or so: the same command copies the rest, and both sides are equal."""
    for day in DAYS[-WEEKS - 3 : -WEEKS]:
        store_cell(open_warehouse(load_settings()), LARGER, "NIFTY", day, tmp_path)
    catalogue = tmp_path / "lake.sqlite"
    target = ("migrate", "--to", f"ducklake:sqlite:{catalogue}", "--data-path", f"{tmp_path}/files")
    process = subprocess.Popen([*this_program(), *target], env=dict(os.environ), stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while _snapshots(catalogue) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    assert process.wait() != 0
    code, out, _ = run(*target, "--json")
    archive = json.loads(out)["warehouse"]
    assert (code, archive["equal"]) == (0, True)
    assert archive["cells_there"] >= 1
    assert archive["copied_cells"] >= 1
    assert archive["copied_cells"] + archive["cells_there"] == WEEKS + 3


def _snapshots(catalogue: Path) -> int:
    """Return how many commits a lake has seen; the first one makes its tables."""
    if not catalogue.exists():
        return 0
    with suppress(sqlite3.Error), closing(sqlite3.connect(catalogue)) as connection:
        return int(connection.execute("SELECT count(*) FROM ducklake_snapshot").fetchone()[0])
    return 0


@pytest.mark.parametrize(
    ("to", "code", "sentence"),
    [
        ("sqlite:x.sqlite", 2, "write warehouse=sqlite:x.sqlite or state=sqlite:x.sqlite"),
        ("mysql:x", 2, "is not of the form"),
        ("postgresql://me:secret@localhost/x", 2, "a password does not belong in an address"),
        ("duckdb:{home}/expirytrack.duckdb", 1, "already"),
        ("state=sqlite:{home}/state.sqlite", 1, "already"),
    ],
)
def test_a_target_that_cannot_be_is_refused_in_a_sentence(
    run: Command, home: Path, to: str, code: int, sentence: str
) -> None:
    """Nothing is written anywhere."""
    ended, _, error = run("migrate", "--to", to.format(home=home))
    told = " ".join(error.replace("│", " ").split())
    assert ended == code
    assert sentence in told
    assert "secret" not in told


def test_two_places_of_one_kind_are_refused(run: Command, tmp_path: Path) -> None:
    """Only one of them could be meant."""
    targets = ("--to", f"duckdb:{tmp_path}/a", "--to", f"duckdb:{tmp_path}/b")
    assert run("migrate", *targets)[0] == 2
