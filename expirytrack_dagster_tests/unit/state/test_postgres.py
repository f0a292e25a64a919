"""A state database in PostgreSQL when something is wrong: faults of a real server are waited out or one sentence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest
from sqlalchemy import func, insert, select, text

from expirytrack_dagster.errors import (
    SchemaTooNew,
    StateLocked,
    StateLost,
    StateUnreachable,
    StorageError,
)
from expirytrack_dagster.servers import free_port
from expirytrack_dagster.settings import RateLimit
from expirytrack_dagster.state import StateDatabase
from expirytrack_dagster.state import postgres as server
from expirytrack_dagster.state.tables import learned, requests
from expirytrack_dagster.state_address import StateAddress
from expirytrack_dagster.upstox.calls import Call, Receipt
from expirytrack_dagster.upstox.ledger import RequestLedger
from expirytrack_dagster_tests.postgres import ended_by_the_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

    from expirytrack_dagster_tests.postgres import PostgresServer

COUNT = select(func.count()).select_from(learned)


@pytest.fixture
def address(postgres: str) -> StateAddress:
    """Give the address of an empty database."""
    return StateAddress("postgresql", postgres)


@pytest.fixture
def state(address: StateAddress) -> Iterator[StateDatabase]:
    """Give an empty database whose user is not patient for ever."""
    with StateDatabase(address, timeout=10.0) as database:
        yield database


def row(name: str) -> dict[str, object]:
    """Return a row to write."""
    return {"name": name, "value": "", "learned_at": 0.0}


def at(address: StateAddress, **changed: str) -> StateAddress:
    """Return an address in which words are replaced."""
    place = address.place
    for old, new in changed.items():
        place = place.replace(old, new)
    return StateAddress("postgresql", place)


def test_a_server_that_is_not_there_is_waited_for_and_named() -> None:
    """Within the timeout; the sentence says what to do."""
    nobody = StateAddress("postgresql", f"postgresql://me@127.0.0.1:{free_port()}/home")
    began = time.monotonic()
    with StateDatabase(nobody, timeout=0.5) as state, pytest.raises(StateUnreachable, match=r"cannot be reached .*run"):
        state.query(COUNT)
    assert 0.5 <= time.monotonic() - began < 5


def test_a_refusal_is_told_at_once(address: StateAddress) -> None:
    """An unknown user or database is not waited for."""
    for wrong in (at(address, expirytrack="stranger"), at(address, test="nothing")):
        began = time.monotonic()
        with (
            StateDatabase(wrong, timeout=20.0) as state,
            pytest.raises(StorageError, match=r"refuses .*check the user"),
        ):
            state.query(COUNT)
        assert time.monotonic() - began < 5


def test_a_name_that_is_not_known_for_a_moment_is_waited_for() -> None:
    """A container that is being replaced has no name; the sentence says what to look at if it never gets one."""
    nobody = StateAddress("postgresql", f"postgresql://me@{'x' * 64}/home")  # too long to be asked for anywhere
    began = time.monotonic()
    with StateDatabase(nobody, timeout=0.5) as state, pytest.raises(StateUnreachable, match="or check the address"):
        state.query(COUNT)
    assert time.monotonic() - began >= 0.5


@pytest.mark.parametrize(
    "words", ["/%zz", "/home?sslmod=prefer", "/home?sslmode=perhaps", "/home?port=1,2", "/home?service=nobodys"]
)
def test_an_address_that_libpq_cannot_read_is_told_at_once(words: str) -> None:
    """No server that comes back would make it better."""
    began = time.monotonic()
    with (
        StateDatabase(StateAddress("postgresql", f"postgresql://me@127.0.0.1{words}"), timeout=20.0) as state,
        pytest.raises(StorageError, match=r"refuses .*the address"),
    ):
        state.query(COUNT)
    assert time.monotonic() - began < 5


def test_of_several_hosts_the_one_that_answers_is_used(address: StateAddress) -> None:
    """And what it refuses is told at once, although others are away."""
    several = at(address, **{"@127.0.0.1": f"@127.0.0.1:{free_port()},127.0.0.1"})
    with StateDatabase(several) as state:
        assert state.query(COUNT) == [(0,)]
    began = time.monotonic()
    with (
        StateDatabase(at(several, expirytrack="stranger"), timeout=20.0) as state,
        pytest.raises(StorageError, match=r'role "stranger" does not exist'),
    ):
        state.query(COUNT)
    assert time.monotonic() - began < 5


def test_what_an_address_asks_of_the_session_is_done(address: StateAddress) -> None:
    """Beside what the program itself needs; only its own isolation, zone and patience stay what they are."""
    options = "-c%20work_mem%3D7MB%20-c%20timezone%3DAsia/Kolkata"
    asked = f"?options={options}&connect_timeout=7&keepalives_idle=11&application_name=desk"
    expected = {"work_mem": "7MB", "TimeZone": "UTC", "lock_timeout": "10s", "application_name": "desk"}
    with StateDatabase(StateAddress("postgresql", f"{address.place}{asked}"), timeout=10.0) as state:
        for name, value in expected.items():
            assert state.query(text(f"SHOW {name}")) == [(value,)]
        driver: Any = state._connection().connection.driver_connection  # noqa: SLF001 -- nobody else knows it
        given = driver.info.dsn_parameters
        assert (given["connect_timeout"], given["keepalives_idle"], given["keepalives_count"]) == ("7", "11", "3")


def test_a_session_without_words_of_its_own_bears_our_name(state: StateDatabase) -> None:
    """So that whoever looks at the server sees whose it is."""
    assert state.query(text("SHOW application_name")) == [("expirytrack",)]


def test_whoever_only_reads_may_be_silent_for_long(state: StateDatabase) -> None:
    """A snapshot holds nobody up; it waits while a copy of it is compared elsewhere."""
    shown = text("SHOW idle_in_transaction_session_timeout")
    with state.snapshot() as connection:
        assert connection.execute(shown).scalar_one() == "0"
    with state.transaction() as connection:
        assert connection.execute(shown).scalar_one() != "0"


def test_a_password_is_never_told(monkeypatch: pytest.MonkeyPatch, address: StateAddress) -> None:
    """It reaches libpq through the environment and no sentence."""
    monkeypatch.setenv("PGPASSWORD", "of-the-vault")
    with StateDatabase(at(address, expirytrack="stranger")) as state, pytest.raises(StorageError) as caught:
        state.query(COUNT)
    assert "of-the-vault" not in f"{caught.value}{caught.value.__cause__}"


def test_newer_schema_is_refused(state: StateDatabase, postgres: str) -> None:
    """A database of a later version is not touched."""
    state.query(COUNT)
    with closing(psycopg2.connect(postgres)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("UPDATE schema_version SET version = 999")
    with StateDatabase(state.address) as other, pytest.raises(SchemaTooNew, match="999"):
        other.query(COUNT)


def test_who_may_not_write_is_told(state: StateDatabase, postgres: str) -> None:
    """A server that only reads, such as a standby, is no place for a state."""
    state.query(COUNT)
    name = postgres.rpartition("/")[2]
    with closing(psycopg2.connect(postgres)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    with StateDatabase(state.address) as other, pytest.raises(StorageError, match="does not let us write"):
        other.write(lambda connection: connection.execute(insert(learned), row("x")))


def test_a_text_that_cannot_be_kept_is_told(state: StateDatabase) -> None:
    """A file keeps a NUL in a text, a server does not; nothing is kept, and the next step works."""
    with pytest.raises(StorageError, match=r"cannot keep a text .*NUL"):
        state.write(lambda connection: connection.execute(insert(learned), row("UDAPI\x001")))
    state.write(lambda connection: connection.execute(insert(learned), row("x")))
    assert state.query(COUNT) == [(1,)]


def test_a_server_of_another_encoding_is_told(postgres_server: PostgresServer) -> None:
    """What its letters lack cannot be kept; the sentence says what the database needs."""
    with closing(psycopg2.connect(postgres_server.url("postgres"))) as connection:
        connection.autocommit = True
        connection.cursor().execute("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0")
    try:
        with (
            StateDatabase(StateAddress("postgresql", postgres_server.url("latin"))) as state,
            pytest.raises(StorageError, match=r"cannot keep a text .*latin-1.*UTF8"),
        ):
            state.write(lambda connection: connection.execute(insert(learned), row("निफ्टी")))
    finally:
        postgres_server.drop("latin")


def test_a_transaction_cut_in_the_middle_leaves_nothing_and_says_so(state: StateDatabase) -> None:
    """The block cannot be repeated for its caller; the next one works."""

    def cut() -> None:
        with state.transaction() as connection:
            connection.execute(insert(learned), row("x"))
            ended_by_the_server(connection)
            connection.execute(insert(learned), row("y"))

    with pytest.raises(StateLost, match="nothing of this step was kept"):
        cut()
    assert state.query(COUNT) == [(0,)]


def test_a_question_inside_a_transaction_that_is_cut_is_not_asked_elsewhere(state: StateDatabase) -> None:
    """Another connection does not see what the block wrote, and the block's own is of no more use."""

    def cut() -> None:
        with state.transaction() as connection:
            connection.execute(insert(learned), row("x"))
            assert state.query(COUNT) == [(1,)]
            ended_by_the_server(connection)
            state.query(COUNT)

    with pytest.raises(StateLost, match="nothing of this step was kept"):
        cut()
    assert state.query(COUNT) == [(0,)]


def test_work_cut_in_the_middle_is_done_again_as_a_whole(state: StateDatabase) -> None:
    """Once, with nothing doubled."""
    tries: list[int] = []

    def work(connection: Connection) -> str:
        tries.append(len(tries))
        connection.execute(insert(learned), row("x"))
        if len(tries) == 1:
            ended_by_the_server(connection)
        connection.execute(insert(learned), row("y"))
        return "done"

    assert state.write(work) == "done"
    assert len(tries) == 2
    assert state.query(COUNT) == [(2,)]


@pytest.mark.parametrize("arrives", [True, False])
def test_an_end_that_is_lost_is_looked_up(
    state: StateDatabase, monkeypatch: pytest.MonkeyPatch, *, arrives: bool
) -> None:
    """Whether a commit reached the server is asked of the server: work that was kept is not done twice."""
    engine: Any = state._engine  # noqa: SLF001 -- the instant between a commit and its answer is nowhere else
    commit, tries = engine.commit, list[int]()

    def cut(connection: Connection) -> None:
        tries.append(len(tries))
        if arrives:
            commit(connection)
        if len(tries) == 1:
            ended_by_the_server(connection)
            connection.exec_driver_sql("SELECT 1")  # finds the connection broken
        if not arrives:
            commit(connection)

    monkeypatch.setattr(engine, "commit", cut)
    state.write(lambda connection: connection.execute(insert(learned), row("x")))
    assert len(tries) == (1 if arrives else 2)
    assert state.query(COUNT) == [(1,)]


def test_a_connection_that_broke_while_idle_costs_nothing(state: StateDatabase) -> None:
    """Reading and writing open another one."""
    for use in (lambda: state.query(COUNT), lambda: state.write(lambda connection: connection.execute(COUNT).all())):
        state.query(COUNT)
        ended_by_the_server(state._connection())  # noqa: SLF001 -- nobody else knows it
        assert use() == [(0,)]


def test_a_lock_of_another_is_named_within_the_timeout(state: StateDatabase) -> None:
    """Whether all wait for it or one row's users."""
    state.write(lambda connection: connection.execute(insert(learned), row("x")))
    locked = select(learned).with_for_update()
    with state.patient(0.2) as other, state.transaction(alone=False) as connection:
        connection.execute(locked)
        with pytest.raises(StateLocked, match=r"0\.2 s: try again"):
            other.write(lambda connection: connection.execute(locked), alone=False)
        other.write(lambda connection: connection.execute(COUNT))


def test_a_host_that_freezes_inside_a_transaction_ends_nobodys_wait(
    state: StateDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server gives its lock back while the others still wait for it, and the frozen one has kept nothing."""
    assert StateDatabase(state.address).timeout >= 1.5 * server._ABANDONED  # noqa: SLF001 -- it is a matter of the two
    monkeypatch.setattr(server, "_ABANDONED", 1)

    def freeze() -> None:
        with state.transaction() as connection:
            connection.execute(insert(learned), row("x"))
            with state.patient(5.0) as other:
                other.write(lambda connection: connection.execute(insert(learned), row("y")))
            connection.execute(insert(learned), row("z"))

    with pytest.raises(StateLost):
        freeze()
    assert state.query(COUNT) == [(1,)]


CALL = Call("candles", "NSE_FO|1|28-08-2025")
KILLED = """
import os, signal, sys
from sqlalchemy import insert
from expirytrack_dagster.state import StateDatabase
from expirytrack_dagster.state.tables import learned
from expirytrack_dagster.state_address import StateAddress

with StateDatabase(StateAddress("postgresql", sys.argv[1])).transaction() as connection:
    connection.execute(insert(learned), {"name": "x", "value": "", "learned_at": 0})
    print("inside", flush=True)
    sys.stdin.read()
"""


def test_a_process_killed_inside_a_transaction_leaves_nothing_and_holds_nobody(state: StateDatabase) -> None:
    """Its lock is free and its rows are gone."""
    state.query(COUNT)
    command = [sys.executable, "-c", KILLED, state.address.place]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "inside\n"
        os.kill(process.pid, signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    began = time.monotonic()
    state.write(lambda connection: connection.execute(insert(learned), row("x")))
    assert time.monotonic() - began < 5
    assert state.query(COUNT) == [(1,)]


@pytest.mark.parametrize("at_once", [False, True])
def test_requests_go_on_when_the_server_is_restarted(
    postgres_server: PostgresServer, address: StateAddress, *, at_once: bool
) -> None:
    """Three threads ask and settle while it goes down and comes up: every slot is settled, none is lost."""
    taken: list[int] = []
    stop = threading.Event()
    with StateDatabase(address, timeout=30.0) as state:
        ledger = RequestLedger(state, (RateLimit(0.001, 1000),))

        def ask() -> None:
            while not stop.is_set():
                slot = ledger.acquire(CALL)
                if isinstance(slot, int):
                    ledger.settle(slot, Receipt("ok", counted_at=time.time(), status=200))
                    taken.append(slot)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        postgres_server.stop(at_once=at_once)
        time.sleep(0.3)
        before = len(taken)
        postgres_server.start()
        deadline = time.monotonic() + 20
        while len(taken) < before + 30 and time.monotonic() < deadline:
            time.sleep(0.05)
        stop.set()
        for thread in threads:
            thread.join(30)
        assert len(taken) >= before + 30
        assert len(set(taken)) == len(taken)
        counts = select(func.count(), func.count(requests.c.outcome)).select_from(requests)
        ((rows, settled),) = state.query(counts)
        assert settled == len(taken)
        assert 0 <= rows - settled <= 3, "a slot whose end was lost is taken again, and the first one counts too"
