"""A home whose archive is a SQLite file or a lake: the same commands, each to the same end, on one small collection.

What is proved in detail on DuckDB files is not proved again; each test is one promise kept by another kind of store.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sqlite3
import sys
from contextlib import closing
from datetime import date
from typing import TYPE_CHECKING

import duckdb
import pytest

from expirytrack_dagster import archive
from expirytrack_dagster.address import standard
from expirytrack_dagster.cli import main
from expirytrack_dagster.observe import doctor
from expirytrack_dagster.sandbox.planting import Plant
from expirytrack_dagster.sandbox.running import running
from expirytrack_dagster.sandbox.switches import Switches
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket
from expirytrack_dagster.security.access import OURS
from expirytrack_dagster.settings import load_settings
from expirytrack_dagster.warehouse.connection import open_warehouse
from expirytrack_dagster.warehouse.sums import table_sums

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from expirytrack_dagster.address import FileKind

    Command = Callable[..., tuple[int, str, str]]

MARKET = SyntheticMarket(strikes=2, days=1, today=date(2025, 9, 15))
NIFTY = "NSE_INDEX|Nifty 50"
EXPIRY = date(2025, 8, 28)


@pytest.fixture(scope="module", params=["sqlite", "ducklake:sqlite"])
def kind(request: pytest.FixtureRequest) -> FileKind:
    """Name a kind of store."""
    kind: FileKind = request.param
    return kind


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory, kind: FileKind) -> Path:
    """Collect a cell with bad rows once, through Dagster, and return its home."""
    home = tmp_path_factory.mktemp("collected")
    keys = [str(row["instrument_key"]) for row in MARKET.option_contracts(NIFTY, EXPIRY) or []]
    bad = next(key for key in keys if len(MARKET.minutes(key) or ()) > 300)
    with running(MARKET, switches=Switches(planted=(Plant((bad,)),))) as upstox, pytest.MonkeyPatch.context() as patch:
        values = {
            "HOME": str(home),
            "WAREHOUSE": str(standard(kind, home)),
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
def filled(collected: Path, home: Path, kind: FileKind, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give this test's home a copy of the collected one, and its settings the address."""
    shutil.copytree(collected, home)
    monkeypatch.setenv("EXPIRYTRACK_WAREHOUSE", str(standard(kind, home)))
    if kind == "ducklake:sqlite":  # its catalogue knows where its files are
        with closing(sqlite3.connect(standard(kind, home).path)) as catalogue, catalogue:
            moved = (f"{home / 'lake'}/",)
            catalogue.execute("UPDATE ducklake_metadata SET value = ? WHERE key = 'data_path'", moved)
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


def stored(sql: str) -> int:
    """Return the number that the store itself answers a query with."""
    archive = open_warehouse(load_settings())
    with archive.reading() as connection:
        return int((connection.execute(sql).fetchone() or (0,))[0])


def test_what_is_collected_lies_there_and_is_proven(filled: Path, kind: FileKind, run: Command) -> None:
    """No DuckDB file is made, the store is the one that is told of, and `verify` proves every row of it."""
    assert not list(filled.glob("*.duckdb*"))
    assert (filled / "published").exists() == (kind == "sqlite")
    file = standard(kind, filled).path
    candles = stored("SELECT count(*) FROM main.candles")
    code, out, _ = run("verify", "NIFTY", "--json")
    assert (code, json.loads(out)["proven"]) == (0, True)
    code, out, _ = run("status")
    assert (code, f"Archive: {file}" in out) == (0, True)
    (cell,) = (cell for cell in json.loads(run("status", "--json")[1])["cells"] if cell["expiry"] == str(EXPIRY))
    assert cell["candles"] == candles
    code, out, _ = run("query", "SELECT count(*) AS n, min(ts) AS first FROM candles", "--json")
    assert (code, json.loads(out)) == (0, [{"n": candles, "first": "2025-08-28 03:45:00+00:00"}])
    (line,) = doctor.archive(load_settings())
    assert line.found == f"{file.name} opens; {candles:,} candles, as many as are recorded."
    assert [line.verdict for line in doctor.extensions(load_settings())] == ["ok"]


@pytest.mark.usefixtures("filled")
def test_a_damaged_row_is_found(run: Command) -> None:
    """A price that another program changed is no longer the one that was sealed."""
    with open_warehouse(load_settings()).writing() as connection:
        connection.execute(
            "UPDATE main.candles SET close = close + 0.05 WHERE minute = (SELECT max(minute) FROM candles)"
        )
    code, out, _ = run("verify", "NIFTY", "--json")
    assert (code, json.loads(out)["proven"]) == (3, False)


@pytest.mark.usefixtures("filled")
def test_rows_in_quarantine_are_reviewed(run: Command) -> None:
    """One action takes all of them out, the counts go with it, and everything is proven as before."""
    rows = stored("SELECT count(*) FROM quarantine")
    assert rows > 0
    code, out, _ = run("quarantine", "discard", "NIFTY", "--yes", "--json")
    assert (code, stored("SELECT count(*) FROM quarantine")) == (0, 0), out
    assert stored("SELECT sum(rows) FROM reviews") == rows
    assert run("verify", "NIFTY")[0] == 0


@pytest.mark.usefixtures("filled")
def test_readers_see_what_is_derived_and_exported(run: Command, tmp_path: Path) -> None:
    """Chains and bars that were made of the rows, in their order; and an export is proved equal to them."""
    candles = stored("SELECT count(*) FROM candles")
    assert run("derive")[0] == 0
    assert len(archive.straddle("NIFTY", EXPIRY)) == 375
    (cell,) = archive.cells()
    assert (len(cell.candles()), cell.complete, cell.current) == (candles, True, True)
    assert cell == archive.at("NIFTY", EXPIRY, version=cell.version)
    (spot,) = archive.spot_at("NIFTY", "2025-08-28 10:30").df()["spot"]
    assert spot > 0
    assert (
        archive.option_chain("NIFTY", EXPIRY).df()[["ts", "strike_price"]].apply(tuple, axis=1).is_monotonic_increasing
    )
    assert "rupees" in archive.describe("candles").df().set_index("column")["description"]["close"]
    assert len(archive.continuous("NIFTY")) == 1
    code, out, _ = run("export", "NIFTY", "--to", str(tmp_path / "out"), "--format", "parquet", "--json")
    assert (code, json.loads(out)["bars"]) == (0, candles)
    assert run("export", "--check", str(tmp_path / "out"))[0] == 0
    assert run("derive") == (0, "Everything is derived from the newest candles.\n", "")


def test_a_backup_becomes_an_equal_home(
    filled: Path, kind: FileKind, run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sums are compared, the command tells the address, and without it the new home says what it holds."""
    rows = table_sums(open_warehouse(load_settings()))
    made = json.loads(run("backup", "--json")[1])
    assert made["proven"]
    new = tmp_path / "new"
    code, out, _ = run("restore", made["path"], "--into", str(new))
    assert code == 0
    assert "every table and file is equal to what was copied" in out
    address = standard("sqlite" if kind == "sqlite" else "duckdb", new)
    assert f"set EXPIRYTRACK_WAREHOUSE={address}." in out
    standard(kind, filled).path.unlink()
    monkeypatch.setenv("EXPIRYTRACK_HOME", str(new))
    monkeypatch.setenv("EXPIRYTRACK_WAREHOUSE", f"duckdb:{tmp_path}/nothing")
    if kind == "sqlite":
        code, out, err = run("verify")
        assert (code, out) == (1, "")
        assert f"set EXPIRYTRACK_WAREHOUSE to {address}" in err
    monkeypatch.setenv("EXPIRYTRACK_WAREHOUSE", str(address))
    restored = table_sums(open_warehouse(load_settings()))
    assert {name: rows[name] for name in rows if name != "schema_version"} == {
        name: restored[name] for name in rows if name != "schema_version"
    }


def test_its_file_is_never_encrypted(
    filled: Path, kind: FileKind, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's is refused in a sentence; a lake's files are already, and what else there is can be encrypted."""
    before = standard(kind, filled).path.read_bytes()
    code, _, err = run("encrypt")
    assert (code, "cannot be encrypted" in err) == ((1, True) if kind == "sqlite" else (0, False))
    monkeypatch.setenv("EXPIRYTRACK_ENCRYPTION", "on")
    code, _, err = run("keys", "rotate", "--archive")
    assert (code, "cannot be encrypted" in err, "has a key of its own" in err) == (
        (1, True, False) if kind == "sqlite" else (1, False, True)
    )
    assert standard(kind, filled).path.read_bytes() == before


@pytest.mark.usefixtures("filled")
def test_a_lake_is_asked_as_it_was(kind: FileKind, run: Command) -> None:
    """The history names what was written and by which run; a past state answers, a file has none and says so."""
    code, out, err = run("snapshots", "NIFTY", "--json")
    if kind == "sqlite":
        assert (code, out) == (1, "")
        assert "is one file, which has no snapshots" in err
        assert "holds nothing of what it was" in run("query", "SELECT 1", "--snapshot", "3")[2]
        assert "is one file, which has no snapshots" in run("maintain")[2]
        return
    found = json.loads(out)["snapshots"]
    assert [one["what"] for one in found] == ["candles", "contracts", "expiries"]
    assert all(len(one["run_id"]) == 36 for one in found)
    before, candles = found[1]["number"], stored("SELECT count(*) FROM candles")
    count = "SELECT count(*) AS n FROM candles"
    assert json.loads(run("query", count, "--snapshot", str(before), "--json")[1]) == [{"n": 0}]
    assert json.loads(run("query", count, "--snapshot", found[0]["at"], "--json")[1]) == [{"n": candles}]
    assert archive.sql(count, snapshot=before).df()["n"].tolist() == [0]
    with pytest.raises(duckdb.BinderException, match="nothing"):
        archive.sql("SELECT nothing FROM candles")
    assert "is not kept as it was at 99" in run("query", count, "--snapshot", "99")[2]
    assert "candles  NIFTY 2025-08-28" in run("snapshots", "--limit", "1")[1]
    assert run("maintain")[0] == 0
    assert run("maintain")[1].startswith("Nothing to do")
    assert run("verify", "NIFTY")[0] == 0


@pytest.mark.skipif(os.name != "posix", reason="Windows keeps other users out by inherited rights")
def test_an_open_home_is_closed(filled: Path, run: Command) -> None:
    """Nothing that a collection has made in it is taken for somebody else's, so that the home itself is closed too."""
    for path in (filled, *filled.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    code, _, err = run("status")
    assert (code, "it is closed now" in err) == (0, True)
    assert not {path.name for path in filled.iterdir() if not any(path.match(name) for name in OURS)}
    assert not [path for path in (filled, *filled.rglob("*")) if path.stat().st_mode & 0o077]
