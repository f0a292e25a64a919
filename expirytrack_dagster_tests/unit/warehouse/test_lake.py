"""A lake: what keys keep out, who waits for whom, what is done again, and that nothing can be read off its files.

That it holds and answers what any archive does is proved by the tests of the other modules, which run on it too.
"""

from __future__ import annotations

import os
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from threading import Barrier, Event
from typing import TYPE_CHECKING, Any

import duckdb
import pandas as pd
import psycopg2
import pytest

from expirytrack_dagster.address import Address
from expirytrack_dagster.errors import (
    ConfigurationError,
    DatabaseLocked,
    DatabaseUnreachable,
    QueryRefused,
    StorageError,
)
from expirytrack_dagster.servers import free_port
from expirytrack_dagster.warehouse import transfer
from expirytrack_dagster.warehouse.cells import write_contracts, write_expiries
from expirytrack_dagster.warehouse.connection import Warehouse
from expirytrack_dagster.warehouse.data_path import DataPath
from expirytrack_dagster.warehouse.history import snapshots
from expirytrack_dagster.warehouse.lake import Lake
from expirytrack_dagster.warehouse.lake_room import LakeRoom
from expirytrack_dagster.warehouse.maintenance import maintain
from expirytrack_dagster.warehouse.query import answered
from expirytrack_dagster.warehouse.stores import Commit, store_of
from expirytrack_dagster.warehouse.sums import table_sums

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from expirytrack_dagster_tests.postgres import PostgresServer
    from expirytrack_dagster_tests.unit.warehouse.conftest import Cell

PLACES = ("lake on a server",)
MORE_PLACES = dict.fromkeys(
    (
        "test_who_writes_the_same_cell_sees_what_was_there_first",
        "test_readers_wait_for_no_writer",
        "test_a_transaction_that_is_overtaken_is_done_again",
        "test_a_query_stays_in_the_archive",
        "test_a_lake_that_another_has_just_made_is_opened",
        "test_a_copy_is_of_one_moment_whatever_is_merged",
        "test_what_it_was_is_kept_for_as_long_as_was_said",
    ),
    ("lake",),
)
EXPIRY, OTHER = date(2025, 8, 28), date(2025, 9, 2)
CELL, ANOTHER = Commit("candles", (("NIFTY", EXPIRY),)), Commit("candles", (("NIFTY", OTHER),))
ADD = "INSERT INTO main.candles BY NAME SELECT $underlying AS underlying, $expiry AS expiry, $key AS instrument_key, "
ADD += "range AS minute, 1 AS open, 1 AS high, 1 AS low, 1 AS close, 1 AS volume, 1 AS open_interest FROM range(200)"


def adding(expiry: date, key: str) -> Callable[[duckdb.DuckDBPyConnection], None]:
    """Return work that adds 200 candles to a cell."""

    def work(connection: duckdb.DuckDBPyConnection) -> None:
        connection.execute(ADD, {"underlying": "NIFTY", "expiry": expiry, "key": key})

    return work


def count(warehouse: Warehouse) -> int:
    """Return how many candles there are."""
    with warehouse.reading() as connection:
        return int((connection.execute("SELECT count(*) FROM candles").fetchone() or (0,))[0])


def chain(*keys: str, kind: str = "CE") -> pd.DataFrame:
    """Return a contract list."""
    return pd.DataFrame({"instrument_key": list(keys), "instrument_type": kind})


@pytest.fixture
def lake(warehouse: Warehouse) -> Warehouse:
    """Give a lake that is made already, before anybody counts the time."""
    assert count(warehouse) == 0
    return warehouse


def test_several_may_make_it_at_once(warehouse: Warehouse) -> None:
    """The first uses on several hosts: one makes it, and nobody fails."""
    start = Barrier(4)

    def first(number: int) -> None:
        start.wait()
        warehouse.write(adding(EXPIRY + timedelta(days=number), "a"), Commit("candles", (("NIFTY", EXPIRY),)))

    warehouse.lock_timeout = 60.0
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(first, range(4)))
    assert count(warehouse) == 800
    with warehouse.reading() as connection:
        assert connection.execute("SELECT count(*) = max(version) FROM schema_version").fetchone() == (True,)


def test_a_first_read_that_meets_another_is_done_again(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """It makes the lake, as a write would; what DuckLake says when it finds half of another's is no reason to fail."""
    met = [duckdb.InvalidInputException("Catalog Error: Table with name ducklake_inlined_data_2_1 does not exist!")]
    real = Lake.migrate

    def migrate(lake: Lake, connection: duckdb.DuckDBPyConnection) -> None:
        if met:
            raise met.pop()
        real(lake, connection)

    monkeypatch.setattr(Lake, "migrate", migrate)
    assert count(warehouse) == 0


def test_a_missing_package_is_named(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever uses files alone does not need it."""

    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr("expirytrack_dagster.warehouse.encryption.files", missing)
    monkeypatch.setattr("expirytrack_dagster.warehouse.lake.load_extension", lambda _connection: None)
    with pytest.raises(ConfigurationError, match=r"pip install 'expirytrack-dagster\[scale\]'"):
        count(warehouse)


def test_keys_and_checks_hold_without_being_there(lake: Warehouse) -> None:
    """A key twice in a list, one of another cell and an unknown type are refused as in a file; the old rows stay."""
    write_contracts(lake, "NIFTY", OTHER, chain("elsewhere"))
    for wrong, told in (
        (chain("new", "new"), 'Duplicate key "instrument_key: new" violates primary key'),
        (chain("elsewhere"), 'Duplicate key "instrument_key: elsewhere" violates primary key'),
        (chain("new", kind="XX"), "CHECK constraint failed"),
    ):
        with pytest.raises(StorageError, match=told):
            write_contracts(lake, "NIFTY", EXPIRY, wrong)
    with lake.reading() as connection:
        assert connection.execute("SELECT instrument_key, expiry FROM contracts").fetchall() == [("elsewhere", OTHER)]


def test_who_writes_the_same_cell_sees_what_was_there_first(lake: Warehouse) -> None:
    """Two that bring a cell for the first time at once: neither is lost, and the second begins after the first."""
    seen: list[int] = []
    start = Barrier(2)

    def work(connection: duckdb.DuckDBPyConnection, key: str) -> None:
        seen.append((connection.execute("SELECT count(*) FROM candles").fetchone() or (0,))[0])
        time.sleep(0.2)  # long enough that the other would meet it
        adding(EXPIRY, key)(connection)

    def write(key: str) -> None:
        start.wait()
        lake.write(lambda connection: work(connection, key), CELL)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, ("a", "b")))
    assert seen == [0, 200]
    assert count(lake) == 400


def test_readers_wait_for_no_writer(lake: Warehouse, place: str) -> None:
    """They see the last commit while another is made; and in PostgreSQL other cells are written meanwhile."""
    begun, end = Event(), Event()

    def slowly(connection: duckdb.DuckDBPyConnection) -> None:
        adding(EXPIRY, "a")(connection)
        begun.set()
        assert end.wait(30)

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(lake.write, slowly, CELL)
        try:
            assert begun.wait(30)
            assert count(lake) == 0
            if place == "lake on a server":
                lake.write(adding(OTHER, "b"), ANOTHER)
                assert count(lake) == 200
            lake.lock_timeout = 0.1
            with pytest.raises(DatabaseLocked, match="try again, nothing was changed"):
                lake.write(adding(EXPIRY, "c"), CELL)
        finally:
            end.set()
        writing.result()
    assert count(lake) == (400 if place == "lake on a server" else 200)


def overtake(lake: Warehouse) -> None:
    """Commit what conflicts with any change of a cell, as a program would that takes no turn."""
    with closing(lake.store.connect(read_only=False, config={})) as connection:
        connection.execute("UPDATE store.main.candles SET volume = volume + 1")


def test_a_transaction_that_is_overtaken_is_done_again(lake: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """From its start, with what the other has stored; if that never ends, the error may be tried again later."""
    lake.write(adding(EXPIRY, "a"), CELL)
    seen: list[int] = []

    def work(connection: duckdb.DuckDBPyConnection, times: int) -> None:
        seen.append((connection.execute("SELECT max(volume) FROM candles").fetchone() or (0,))[0])
        connection.execute("DELETE FROM main.candles")
        adding(EXPIRY, "b")(connection)
        if len(seen) <= times:
            overtake(lake)

    lake.write(lambda connection: work(connection, 1), CELL)
    assert seen == [1, 2]
    assert count(lake) == 200
    seen.clear()
    lake.lock_timeout = 0.0
    monkeypatch.setattr("expirytrack_dagster.warehouse.connection._ATTEMPTS", 2)
    with pytest.raises(DatabaseLocked, match="Others were first each time") as caught:
        lake.write(lambda connection: work(connection, 99), CELL)
    assert caught.value.retryable
    assert len(seen) == 2
    assert count(lake) == 200


def test_a_server_that_restarts_loses_nothing(lake: Warehouse, postgres_server: PostgresServer) -> None:
    """Killed in the middle of a transaction and started again: it is done anew, once, and readers go on."""
    lake.write(adding(EXPIRY, "a"), CELL)
    lake.lock_timeout = 30.0
    begun: list[int] = []
    room = LakeRoom(lake)
    before = room.snapshot()

    def work(connection: duckdb.DuckDBPyConnection) -> None:
        adding(EXPIRY, "b")(connection)
        begun.append(1)
        if len(begun) == 1:
            postgres_server.stop(at_once=True)
            for ask in (room.snapshot, lambda: room.rows("candles", "NIFTY", EXPIRY)):
                with pytest.raises(DatabaseUnreachable, match="does not answer"):
                    ask()
            postgres_server.start()

    lake.write(work, CELL)
    assert len(begun) == 2
    assert count(lake) == len(room.rows("candles", "NIFTY", EXPIRY)) == 400
    assert room.snapshot() == before + 1


def test_a_server_that_does_not_answer_is_waited_for_once(tmp_path: Path) -> None:
    """By readers and writers alike, with the reason in the sentence; whoever calls may try again."""
    address = Address("ducklake:postgres", f"postgresql://expirytrack@127.0.0.1:{free_port()}/none")
    away = Warehouse(store_of(address, data=DataPath(f"{tmp_path}/lake/")), lock_timeout=0.6)
    for use in (lambda: count(away), lambda: away.write(adding(EXPIRY, "a"), CELL)):
        began = time.monotonic()
        with pytest.raises(DatabaseUnreachable, match=r"\(connection to .* failed: Connection refused\)") as caught:
            use()
        assert caught.value.retryable
        assert time.monotonic() - began < 3.0  # five times over it would be more


def test_a_turn_that_is_lost_is_noticed_before_the_commit(lake: Warehouse, postgres: str) -> None:
    """Somebody else has had it meanwhile, so that the work is done anew, upon what that one has stored."""
    seen: list[int] = []

    def work(connection: duckdb.DuckDBPyConnection) -> None:
        seen.append((connection.execute("DELETE FROM main.candles").fetchone() or (0,))[0])
        adding(EXPIRY, "a")(connection)
        if len(seen) == 1:
            end_turns(postgres)
            lake.write(adding(EXPIRY, "a"), CELL)

    lake.write(work, CELL)
    assert seen == [0, 200]
    assert count(lake) == 200


def end_turns(database: str) -> None:
    """End the connections that hold turns, as a server does that is told to, or a network that forgets them."""
    with closing(psycopg2.connect(database)) as other, other.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_locks WHERE locktype = 'advisory'")


def test_a_failed_transaction_leaves_nothing(lake: Warehouse) -> None:
    """Not a row, and not a snapshot; the work's own error comes out."""
    before = snapshots(lake)

    def fail(connection: duckdb.DuckDBPyConnection) -> None:
        adding(EXPIRY, "a")(connection)
        raise KeyError

    with pytest.raises(KeyError):
        lake.write(fail, CELL)
    assert (count(lake), snapshots(lake)) == (0, before)


def test_nothing_can_be_read_off_the_files(lake: Warehouse, new_cell: Callable[[], Cell], tmp_path: Path) -> None:
    """No key, symbol or column stands in them, in the clear or as Parquet that anybody opens."""
    new_cell().add("NSE_FO|40001|28-08-2025", good=500).write(lake)
    write_expiries(lake, "NIFTY", pd.DataFrame({"expiry": [EXPIRY], "underlying_key": "NSE_INDEX|Nifty 50"}))
    maintain(lake, timedelta(days=1))
    files = [path for path in (tmp_path / "home" / "lake").rglob("*") if path.is_file()]
    assert len(files) >= 3
    for path in files:
        content = path.read_bytes()
        assert content.startswith(b"PARE")
        assert not [word for word in (b"NSE_", b"NIFTY", b"Nifty", b"40001", b"instrument_key") if word in content]
        assert "NIFTY" not in str(path.relative_to(tmp_path))


def test_maintenance_disturbs_nobody(lake: Warehouse, new_cell: Callable[[], Cell], tmp_path: Path) -> None:
    """A query under way goes on, an unfinished file stays, and what is left behind for a day goes."""
    for number in range(3):
        new_cell().add(f"k{number}", good=150).write(lake)
    rows = table_sums(lake)
    folder = tmp_path / "home" / "lake" / "main" / "candles"
    left, young = folder / "left.parquet", folder / "young.parquet"
    for path in (left, young):
        path.write_bytes(b"PARE")
    day_before = time.time() - 90_000
    os.utime(left, (day_before, day_before))
    with lake.reading() as reader:
        reader.begin()
        before = reader.execute("SELECT count(*), sum(minute) FROM candles").fetchall()
        done = maintain(lake, timedelta(0))
        assert (done.files_before, done.files_after, done.files_removed) == (5, 3, 1)
        assert done.snapshots_expired > 3
        assert reader.execute("SELECT count(*), sum(minute) FROM candles").fetchall() == before
    assert (left.exists(), young.exists()) == (False, True)
    assert table_sums(lake) == rows
    with pytest.raises(ConfigurationError, match="is not kept as it was"):
        count(lake.at(2))
    assert maintain(lake, timedelta(0), safe=timedelta(0)).files_removed >= 3
    assert table_sums(lake) == rows
    assert not maintain(lake, timedelta(days=1)).anything


def test_what_it_was_is_kept_for_as_long_as_was_said(lake: Warehouse) -> None:
    """To the second, also on the day itself: at no later time is it anything else, and files go a day after that."""
    lake.write(adding(EXPIRY, "a"), CELL)
    between = datetime.now(tz=UTC)
    lake.write(adding(EXPIRY, "b"), CELL)
    there = [one.number for one in snapshots(lake)]
    assert maintain(lake, timedelta(minutes=5)).snapshots_expired == 0
    assert maintain(lake, datetime.now(tz=UTC) - between).snapshots_expired
    assert [one.number for one in snapshots(lake) if one.number in there] == there[:2]
    assert (count(lake.at(between)), count(lake)) == (200, 400)
    assert maintain(lake, timedelta(0)).files_removed == 0
    assert maintain(lake, timedelta(0), safe=timedelta(days=-1)).files_removed
    assert count(lake) == 400


def test_a_lake_that_another_has_just_made_is_opened(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look for it and the making, in which its tables and files are not those of a stranger."""
    others = [Warehouse(warehouse.store, lock_timeout=5.0)]
    real = Lake._require_new  # noqa: SLF001 -- there is no other way into that moment

    def require_new(lake: Lake, connection: duckdb.DuckDBPyConnection) -> None:
        if others:
            others.pop().write(adding(EXPIRY, "a"), CELL)
        real(lake, connection)

    monkeypatch.setattr(Lake, "_require_new", require_new)
    assert count(warehouse) == 200


def test_a_copy_is_of_one_moment_whatever_is_merged(
    lake: Warehouse, tmp_path: Path, new_cell: Callable[[], Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backup, in whose middle another cell is written and files are merged."""
    for number in range(3):
        new_cell().add(f"k{number}", good=150).write(lake)
    rows, copied = count(lake), transfer.copy_rows

    def copied_while_others_work(*arguments: Any, **named: Any) -> int:
        calls.append(1)
        if len(calls) == 2:
            lake.write(adding(OTHER, "z"), ANOTHER)
            maintain(lake, timedelta(days=1))
        return copied(*arguments, **named)

    calls: list[int] = []
    monkeypatch.setattr(transfer, "copy_rows", copied_while_others_work)
    target = Warehouse(tmp_path / "copy.duckdb")
    transfer.copy_all(lake, target)
    assert (count(target), count(lake)) == (rows, rows + 200)


def test_two_lakes_do_not_share_a_folder(lake: Warehouse, tmp_path: Path) -> None:
    """Each would remove the files of the other as left behind."""
    lake.write(adding(EXPIRY, "a"), CELL)
    second = Warehouse(store_of(Address("ducklake:sqlite", tmp_path / "second.sqlite"), data=lake.store.data))  # type: ignore[attr-defined]
    for use in (count, lambda warehouse: warehouse.write(adding(EXPIRY, "a"), CELL)):
        with pytest.raises(ConfigurationError, match="holds Parquet files already"):
            use(second)


def test_another_programs_file_is_not_made_a_lake(tmp_path: Path) -> None:
    """It stays as it is, and a sentence says what it is."""
    with closing(sqlite3.connect(tmp_path / "state.sqlite")) as other:
        other.execute("CREATE TABLE requests (a TEXT)")
    with pytest.raises(ConfigurationError, match="of another purpose"):
        count(Warehouse(store_of(Address("ducklake:sqlite", tmp_path / "state.sqlite"))))
    with closing(sqlite3.connect(tmp_path / "state.sqlite")) as other:
        assert other.execute("SELECT name FROM sqlite_master").fetchall() == [("requests",)]
    duckdb.connect(str(tmp_path / "file.duckdb")).close()
    with pytest.raises(ConfigurationError, match="is a DuckDB file, not"):
        count(Warehouse(store_of(Address("ducklake:sqlite", tmp_path / "file.duckdb"))))


def test_a_query_stays_in_the_archive(lake: Warehouse, tmp_path: Path) -> None:
    """It reads the lake's tables and files, and neither another file, nor the catalogue, nor a server."""
    lake.write(adding(EXPIRY, "a"), CELL)
    (tmp_path / "other.csv").write_text("a\n1\n")
    with closing(sqlite3.connect(tmp_path / "state.sqlite")) as other:
        other.execute("CREATE TABLE secrets (a TEXT)")
    with answered(lake, "SELECT count(*) AS n FROM candles WHERE ts IS NOT NULL") as answer:
        assert answer.read_all().to_pylist() == [{"n": 200}]
    for sql in (
        f"FROM read_csv('{tmp_path}/other.csv')",
        "FROM sqlite_scan('other.sqlite', 'a')",
        "FROM postgres_query('__ducklake_metadata_store', 'SELECT 1')",
        "FROM __ducklake_metadata_store.ducklake_data_file",
        f"""FROM "sqlite_scan"('{tmp_path}/state.sqlite', 'secrets')""",
        f"FROM sqlite_scan/**/('{tmp_path}/state.sqlite', 'secrets')",
        f"FROM query('FROM sqlite_' || 'scan(''{tmp_path}/state.sqlite'', ''secrets'')')",
        "FROM query_table('__ducklake_' || 'metadata_store.ducklake_metadata')",
        """FROM "postgres_query"('__ducklake_' || 'metadata_store', 'SELECT 1')""",
        "FROM ducklake_expire_snapshots('store', versions => [1])",
        "DELETE FROM main.candles",
    ):
        with pytest.raises(QueryRefused), answered(lake, sql):
            pass
    assert count(lake) == 200


def test_files_are_looked_for_where_they_are(lake: Warehouse, tmp_path: Path) -> None:
    """A host whose data path is another one is told which it is, instead of beginning a second heap of files."""
    elsewhere = Warehouse(store_of(lake.store.address, data=DataPath(f"{tmp_path}/elsewhere/")))  # type: ignore[attr-defined]
    with pytest.raises(ConfigurationError, match=rf"keeps its files in {tmp_path}/home/lake/, not in .*DATA_PATH"):
        count(elsewhere)
    with pytest.raises(ConfigurationError, match="keeps its files in"):
        elsewhere.exists()
