"""A home whose archive is a SQLite file: the same commands, each to the same end, on one small collection.

What is proved in detail on DuckDB files is not proved again; each test is one promise kept by another kind of store.
"""

from __future__ import annotations

import io
import json
import shutil
import sqlite3
import sys
from contextlib import closing
from datetime import date
from typing import TYPE_CHECKING

import pytest

from expirytrack_dagster import archive
from expirytrack_dagster.cli import main
from expirytrack_dagster.observe import doctor
from expirytrack_dagster.sandbox.planting import Plant
from expirytrack_dagster.sandbox.running import running
from expirytrack_dagster.sandbox.switches import Switches
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket
from expirytrack_dagster.settings import load_settings
from expirytrack_dagster.warehouse.connection import open_warehouse
from expirytrack_dagster.warehouse.sums import table_sums

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Command = Callable[..., tuple[int, str, str]]

MARKET = SyntheticMarket(strikes=2, days=1, today=date(2025, 9, 15))
NIFTY = "NSE_INDEX|Nifty 50"
EXPIRY = date(2025, 8, 28)


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Collect a cell with bad rows once, through Dagster, and return its home."""
    home = tmp_path_factory.mktemp("collected")
    keys = [str(row["instrument_key"]) for row in MARKET.option_contracts(NIFTY, EXPIRY) or []]
    bad = next(key for key in keys if len(MARKET.minutes(key) or ()) > 300)
    with running(MARKET, switches=Switches(planted=(Plant((bad,)),))) as upstox, pytest.MonkeyPatch.context() as patch:
        values = {
            "HOME": str(home),
            "WAREHOUSE": f"sqlite:{home / 'expirytrack.sqlite'}",
            "API_URL": upstox.url,
            "ACCESS_TOKEN": "x",
        }
        for name, value in values.items():
            patch.setenv(f"EXPIRYTRACK_{name}", value)
        patch.setattr(sys, "argv", ["expirytrack", "collect", "NIFTY", "--expiry", str(EXPIRY)])
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 0
    return home


@pytest.fixture
def filled(collected: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give this test's home a copy of the collected one, and its settings the address."""
    shutil.copytree(collected, home)
    monkeypatch.setenv("EXPIRYTRACK_WAREHOUSE", f"sqlite:{home / 'expirytrack.sqlite'}")
    return home


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Return a function that runs `expirytrack WORDS` in this process: exit code, output, errors."""
    monkeypatch.setenv("EXPIRYTRACK_ACCESS_TOKEN", "x")
    monkeypatch.setenv("EXPIRYTRACK_API_URL", "http://127.0.0.1:9")  # nobody listens: asking would fail

    def command(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["expirytrack", *words])
        monkeypatch.setattr(sys, "stdin", io.StringIO())
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        told = capsys.readouterr()
        return (ended.value.code if isinstance(ended.value.code, int) else 0), told.out, told.err

    return command


def stored(home: Path, sql: str) -> int:
    """Return the number that SQLite itself answers a query with."""
    with closing(sqlite3.connect(home / "expirytrack.sqlite")) as connection:
        return int(connection.execute(sql).fetchone()[0])


def test_what_is_collected_lies_in_sqlite_and_is_proven(filled: Path, run: Command) -> None:
    """No DuckDB file is made, the file is the one that is told of, and `verify` proves every row of it."""
    assert not list(filled.glob("*.duckdb*"))
    candles = stored(filled, "SELECT count(*) FROM candles")
    code, out, _ = run("verify", "NIFTY", "--json")
    assert (code, json.loads(out)["proven"]) == (0, True)
    code, out, _ = run("status")
    assert (code, f"Archive: {filled / 'expirytrack.sqlite'}" in out) == (0, True)
    (cell,) = (cell for cell in json.loads(run("status", "--json")[1])["cells"] if cell["expiry"] == str(EXPIRY))
    assert cell["candles"] == candles
    code, out, _ = run("query", "SELECT count(*) AS n, min(ts) AS first FROM candles", "--json")
    assert (code, json.loads(out)) == (0, [{"n": candles, "first": "2025-08-28 03:45:00+00:00"}])
    (line,) = doctor.archive(load_settings())
    assert line.found == f"expirytrack.sqlite opens; {candles:,} candles, as many as are recorded."


def test_a_damaged_row_is_found(filled: Path, run: Command) -> None:
    """A price that another program changed in the file is no longer the one that was sealed."""
    with closing(sqlite3.connect(filled / "expirytrack.sqlite")) as connection, connection:
        connection.execute("UPDATE candles SET close = close + 0.05 WHERE rowid = 100")
    code, out, _ = run("verify", "NIFTY", "--json")
    assert (code, json.loads(out)["proven"]) == (3, False)


def test_rows_in_quarantine_are_reviewed(filled: Path, run: Command) -> None:
    """One action takes all of them out, the counts go with it, and everything is proven as before."""
    rows = stored(filled, "SELECT count(*) FROM quarantine")
    assert rows > 0
    code, out, _ = run("quarantine", "discard", "NIFTY", "--yes", "--json")
    assert (code, stored(filled, "SELECT count(*) FROM quarantine")) == (0, 0), out
    assert stored(filled, "SELECT sum(rows) FROM reviews") == rows
    assert run("verify", "NIFTY")[0] == 0


def test_readers_see_what_is_derived_and_exported(filled: Path, run: Command, tmp_path: Path) -> None:
    """The published copy holds chains and bars that were made of the rows, and an export is proved equal to them."""
    candles = stored(filled, "SELECT count(*) FROM candles")
    assert run("derive")[0] == 0
    assert len(archive.straddle("NIFTY", EXPIRY)) == 375
    assert len(archive.continuous("NIFTY")) == 1
    code, out, _ = run("export", "NIFTY", "--to", str(tmp_path / "out"), "--format", "parquet", "--json")
    assert (code, json.loads(out)["bars"]) == (0, candles)
    assert run("export", "--check", str(tmp_path / "out"))[0] == 0
    assert run("derive") == (0, "Everything is derived from the newest candles.\n", "")


def test_a_backup_becomes_an_equal_home(
    filled: Path, run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sums are compared, the command tells the address, and without it the new home says what it holds."""
    rows = table_sums(open_warehouse(load_settings()))
    made = json.loads(run("backup", "--json")[1])
    assert made["proven"]
    new = tmp_path / "new"
    code, out, _ = run("restore", made["path"], "--into", str(new))
    assert code == 0
    assert "every table and file is equal to what was copied" in out
    assert f"set EXPIRYTRACK_WAREHOUSE=sqlite:{new / 'expirytrack.sqlite'}." in out
    (filled / "expirytrack.sqlite").unlink()
    monkeypatch.setenv("EXPIRYTRACK_HOME", str(new))
    monkeypatch.delenv("EXPIRYTRACK_WAREHOUSE")
    code, out, err = run("verify")
    assert (code, out) == (1, "")
    assert f"set EXPIRYTRACK_WAREHOUSE to sqlite:{new / 'expirytrack.sqlite'}" in err
    monkeypatch.setenv("EXPIRYTRACK_WAREHOUSE", f"sqlite:{new / 'expirytrack.sqlite'}")
    assert table_sums(open_warehouse(load_settings())) == rows


def test_it_is_never_encrypted(filled: Path, run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command and the setting are refused in a sentence each, and the file is left as it is."""
    before = (filled / "expirytrack.sqlite").read_bytes()
    code, out, err = run("encrypt")
    assert (code, out) == (1, "")
    assert "cannot be encrypted" in err
    monkeypatch.setenv("EXPIRYTRACK_ENCRYPTION", "on")
    code, out, err = run("status")
    assert (code, out) == (1, "")
    assert "EXPIRYTRACK_ENCRYPTION" in err
    assert "cannot be encrypted" in err
    assert (filled / "expirytrack.sqlite").read_bytes() == before
