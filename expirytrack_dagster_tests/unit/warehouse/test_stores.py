"""What an archive in SQLite is beyond what every archive is: bare columns in the file, the rest in the session."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pytest

from expirytrack_dagster.address import Address
from expirytrack_dagster.errors import (
    ConfigurationError,
    DatabaseCorrupt,
    DatabaseLocked,
    SchemaTooNew,
    StorageError,
)
from expirytrack_dagster.settings import load_settings
from expirytrack_dagster.warehouse import migrate, schema
from expirytrack_dagster.warehouse.connection import Warehouse, open_warehouse
from expirytrack_dagster.warehouse.migrate import migrations
from expirytrack_dagster.warehouse.seals import HASHES
from expirytrack_dagster.warehouse.stores import store_of
from expirytrack_dagster.warehouse.sums import table_sums
from expirytrack_dagster_tests.unit.conftest import SmallArchive, fill

ADD = "INSERT INTO main.expiries VALUES (?, DATE '2025-08-28', 'NSE_INDEX|Nifty 50', now())"
HOLD = """
import sqlite3, sys
held = sqlite3.connect(sys.argv[1])
held.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""
DESCRIBED = """
SELECT table_name, column_name, data_type, comment FROM duckdb_columns()
WHERE database_name = current_database() AND schema_name = current_schema() ORDER BY ALL
"""
OLD_CANDLES = """
INSERT INTO main.candles SELECT 'NIFTY', DATE '2025-08-28', 'b' || i // 1000 % 2,
    TIMESTAMPTZ '2025-08-01 03:45:00+00' + to_minutes(i % 1000), i + 0.05, i + 1, i, i + 0.5, i * 75, i
FROM range(3000) AS numbers(i)
"""
CONTENT = f"SELECT count(*), min(ts), {HASHES} FROM candles"  # noqa: S608 -- our own constant


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return where the SQLite file is to be."""
    return tmp_path / "home" / "expirytrack.sqlite"


@pytest.fixture
def warehouse(file: Path) -> Warehouse:
    """Give an archive in SQLite that does not exist yet."""
    return Warehouse(store_of(Address("sqlite", file), None), lock_timeout=5.0)


def asked(warehouse: Warehouse, sql: str) -> list[tuple[Any, ...]]:
    """Return the answer to a query."""
    with warehouse.reading() as connection:
        return connection.execute(sql).fetchall()


def as_of(patch: pytest.MonkeyPatch, version: int) -> None:
    """Let the program be the one of an older version of the schema."""
    older = migrations()[:version]
    for module in (migrate, schema):
        patch.setattr(module, "migrations", lambda: older)


def test_a_session_sees_what_a_duckdb_file_describes(warehouse: Warehouse, tmp_path: Path) -> None:
    """Tables, views, their columns, types and comments are the same, and so are sums over the same rows."""
    other = Warehouse(tmp_path / "a.duckdb")
    fill(SmallArchive(warehouse, tmp_path / "one"))
    fill(SmallArchive(other, tmp_path / "two"))
    assert asked(warehouse, DESCRIBED) == asked(other, DESCRIBED) != []
    sums = table_sums(warehouse), table_sums(other)
    for table in ("candles", "contracts", "expiries", "quarantine"):
        assert sums[0][table].rows == sums[1][table].rows
    assert sums[0]["candles"] == sums[1]["candles"]


@pytest.mark.parametrize("status", ["complete", "empty_proven", "partial", "refused", "failed"])
def test_the_file_itself_refuses_what_the_schema_forbids(warehouse: Warehouse, status: str) -> None:
    """Keys and checks stand in the file; the rest of the transaction goes with what was refused."""
    row = (
        "INSERT INTO main.contract_status BY NAME SELECT 'N' AS underlying, DATE '2025-08-28' AS expiry, 'k' || $1 AS "
        "instrument_key, $1 AS status, 1 AS requests, 0 AS candles, 0 AS quarantined, 0 AS duplicates, now() AS "
        "checked_at"
    )
    with warehouse.writing() as connection:
        connection.execute(row, [status])

    def store(again: str) -> None:
        with warehouse.writing() as connection:
            connection.execute(ADD, ["NIFTY"])
            connection.execute(row, [again])

    for again in (status, status.upper()):
        with pytest.raises(StorageError, match=r"nothing was changed.*constraint failed"):
            store(again)
    both = "SELECT (SELECT count(*) FROM contract_status), (SELECT count(*) FROM expiries)"
    assert asked(warehouse, both) == [(1, 0)]


def test_threads_write_one_after_the_other(warehouse: Warehouse) -> None:
    """All of them succeed and no row is lost."""
    warehouse.lock_timeout = 30.0

    def write(number: int) -> None:
        for step in range(2):
            with warehouse.writing() as connection:
                connection.execute(ADD, [f"U{number}-{step}"])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert asked(warehouse, "SELECT count(*) FROM expiries") == [(8,)]


def test_another_program_that_writes_is_waited_for_and_named(warehouse: Warehouse, file: Path) -> None:
    """What was to be written is not written in part."""
    assert asked(warehouse, "SELECT count(*) FROM expiries") == [(0,)]
    impatient = Warehouse(store_of(Address("sqlite", file), None), lock_timeout=0.2)
    with subprocess.Popen([sys.executable, "-c", HOLD, file], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(DatabaseLocked, match="close it there"), impatient.writing() as connection:
            connection.execute(ADD, ["NIFTY"])
        other.communicate()
    assert asked(warehouse, "SELECT count(*) FROM expiries") == [(0,)]


def test_a_newer_file_is_refused(warehouse: Warehouse) -> None:
    """An old program would misread it."""
    with warehouse.writing() as connection:
        connection.execute("INSERT INTO main.schema_version VALUES (99, 'of the future', now())")
    for use in (warehouse.reading, warehouse.writing):
        with pytest.raises(SchemaTooNew), use():
            pass


@pytest.mark.parametrize("version", range(1, len(migrations())))
def test_an_older_file_keeps_its_rows(
    warehouse: Warehouse, file: Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    """They pass through every step that is missing, as in a DuckDB file; a step that dies leaves the file as it was."""
    with monkeypatch.context() as patch:
        as_of(patch, version)
        with warehouse.writing() as connection:
            connection.execute(ADD, ["NIFTY"])
            if version <= 2:
                connection.execute(OLD_CANDLES)
    before = file.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", stopped)
        with pytest.raises(KeyboardInterrupt):
            asked(warehouse, "SELECT 1")
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir() if path.suffix != ".lock"] == [file.name]
    assert asked(warehouse, "SELECT underlying, underlying_key FROM expiries") == [("NIFTY", "NSE_INDEX|Nifty 50")]
    if version <= 2:
        with closing(duckdb.connect()) as memory:
            memory.execute(migrations()[0].sql)
            memory.execute(OLD_CANDLES)
            for migration in migrations()[1:]:
                memory.execute(migration.sql)
            memory.execute("SET TimeZone = 'UTC'")
            assert asked(warehouse, CONTENT) == memory.execute(CONTENT).fetchall()
    assert asked(warehouse, "SELECT version FROM schema_version ORDER BY 1") == [
        (migration.version,) for migration in migrations()
    ]


def stopped(*_: object) -> None:
    """Stand for the moment in which a process ends."""
    raise KeyboardInterrupt


def test_leftovers_of_a_killed_step_are_no_obstacle(warehouse: Warehouse, file: Path) -> None:
    """The half written file is thrown away."""
    file.parent.mkdir()
    file.with_name(f"{file.name}.migrating").write_bytes(b"half")
    assert asked(warehouse, "SELECT count(*) FROM expiries") == [(0,)]
    assert not file.with_name(f"{file.name}.migrating").exists()


@pytest.mark.parametrize("damage", ["something else", "cut off", "no header", "bits flipped"])
def test_a_damaged_file_is_named_and_left_alone(warehouse: Warehouse, file: Path, damage: str) -> None:
    """Reading and writing both say so; not a byte is changed, so that it can be rescued."""
    with warehouse.writing() as connection:
        connection.execute(
            "INSERT INTO main.expiries SELECT 'U' || i, DATE '2025-08-28', md5(i::TEXT), now() FROM range(9000) t(i)"
        )
    sound = file.read_bytes()
    spoilt = {
        "something else": b"PAR1" * 4000,
        "cut off": sound[:20000],
        "no header": b"\0" * 12288 + sound[12288:],
        "bits flipped": sound[:4096] + bytes(byte ^ 0xFF for byte in sound[4096:]),
    }[damage]
    file.write_bytes(spoilt)
    with pytest.raises(DatabaseCorrupt, match=r"expirytrack\.sqlite is damaged .*restore a backup"):
        asked(warehouse, "SELECT max(underlying), max(underlying_key) FROM expiries")
    with pytest.raises(DatabaseCorrupt), warehouse.writing():
        pass
    assert file.read_bytes() == spoilt


def test_a_file_of_another_purpose_is_never_replaced(warehouse: Warehouse, file: Path) -> None:
    """One mistyped address must not cost the state database."""
    file.parent.mkdir()
    with closing(sqlite3.connect(file)) as other, other:
        other.execute("CREATE TABLE requests (id INTEGER PRIMARY KEY)")
    before = file.read_bytes()
    with pytest.raises(ConfigurationError, match="a SQLite file of another purpose: name a new file"):
        asked(warehouse, "SELECT 1")
    assert file.read_bytes() == before


def test_an_address_of_the_other_kind_is_told(tmp_path: Path) -> None:
    """The sentence says what to write."""
    for made, wrong in (("duckdb", "sqlite"), ("sqlite", "duckdb")):
        path = tmp_path / f"{made}.file"
        assert asked(Warehouse(store_of(Address(made, path), None)), "SELECT 1") == [(1,)]  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match=rf"set EXPIRYTRACK_WAREHOUSE to {made}:"):
            asked(Warehouse(store_of(Address(wrong, path), None)), "SELECT 1")  # type: ignore[arg-type]


def test_a_folder_is_no_archive(tmp_path: Path) -> None:
    """A file has to be named."""
    for kind in ("duckdb", "sqlite"):
        with pytest.raises(ConfigurationError, match=r"is a folder, not a .* file: name a file"):
            asked(Warehouse(store_of(Address(kind, tmp_path), None)), "SELECT 1")


def test_sqlite_is_never_encrypted(file: Path) -> None:
    """Rather than plain where somebody believes otherwise."""
    with pytest.raises(ConfigurationError, match="cannot be encrypted"):
        store_of(Address("sqlite", file), bytes(32))


@pytest.mark.parametrize(("first", "then"), [("duckdb", "sqlite"), ("sqlite", "duckdb")])
def test_a_home_has_one_archive(home: Path, first: str, then: str) -> None:
    """What is tracked, published and recorded of runs would otherwise be told of rows that are elsewhere."""
    with open_warehouse(load_settings(warehouse=f"{first}:{home / f'expirytrack.{first}'}")).writing():
        pass
    with pytest.raises(ConfigurationError, match=f"set EXPIRYTRACK_WAREHOUSE to {first}:.*or EXPIRYTRACK_HOME"):
        open_warehouse(load_settings(warehouse=f"{then}:{home / f'expirytrack.{then}'}"))


def test_a_missing_wheel_is_told(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the package to install; nothing is fetched by the engine itself."""
    monkeypatch.setitem(sys.modules, "duckdb_extension_sqlite_scanner", None)
    with pytest.raises(ConfigurationError, match=r"install duckdb-extension-sqlite-scanner==1\."):
        asked(warehouse, "SELECT 1")
