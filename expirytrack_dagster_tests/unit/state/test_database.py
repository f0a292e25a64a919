"""The handle to the state database on both engines: tables, transactions, threads, processes, and whose time it is."""

from __future__ import annotations

import multiprocessing
import pickle
import re
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import BigInteger, Double, Text, create_engine, func, insert, inspect, select
from sqlalchemy.exc import IntegrityError

from expirytrack_dagster.errors import StateLocked
from expirytrack_dagster.state import StateDatabase, schema
from expirytrack_dagster.state.tables import METADATA, cooldowns, learned, put, requests, underlyings
from expirytrack_dagster_tests.engines import HostClock
from expirytrack_dagster_tests.statements import sql

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Connection

    from expirytrack_dagster.state_address import StateAddress
    from expirytrack_dagster_tests.engines import Engine

NIFTY = {"symbol": "NIFTY", "instrument_key": "NSE_INDEX|Nifty 50", "tracked_at": 0.0}
SENSEX = {"symbol": "SENSEX", "instrument_key": "BSE_INDEX|SENSEX", "tracked_at": 0.0}
SYMBOLS = select(underlyings.c.symbol).order_by(underlyings.c.symbol)
COUNT = select(func.count()).select_from(learned)


@pytest.fixture
def state(engine: Engine) -> Iterator[StateDatabase]:
    """Give an empty database."""
    with StateDatabase(engine.fresh()) as database:
        yield database


def name_of(kind: Any) -> str:
    """Return what a column's type is called here, whatever an engine calls it."""
    names = {BigInteger: "whole", Double: "real", Text: "text"}
    text = str(kind).upper()
    found = {"BIGINT": "whole", "INTEGER": "whole", "REAL": "real", "DOUBLE PRECISION": "real", "TEXT": "text"}
    return names.get(type(kind)) or found[text]


def test_the_described_tables_are_those_that_the_migrations_make(state: StateDatabase) -> None:
    """Names, columns and their order, types, and primary keys, on both engines; whole numbers and reals of 8 bytes."""
    state.query(COUNT)
    address = state.address
    url = f"sqlite:///{address.place}" if address.kind == "sqlite" else address.place.replace("://", "+psycopg2://")
    made = create_engine(url)
    seen = inspect(made)
    assert set(seen.get_table_names()) - {"schema_version"} == set(METADATA.tables)
    for name, table in METADATA.tables.items():
        columns = [(column["name"], name_of(column["type"])) for column in seen.get_columns(name)]
        assert columns == [(column.name, name_of(column.type)) for column in table.columns], name
        keys = seen.get_pk_constraint(name)["constrained_columns"]
        assert keys == [column.name for column in table.primary_key], name
        if address.kind == "postgresql":
            assert {str(column["type"]) for column in seen.get_columns(name)} <= {"BIGINT", "TEXT", "DOUBLE PRECISION"}
    made.dispose()


def test_the_indexes_of_the_migrations_are_there(state: StateDatabase) -> None:
    """By name, on both engines, and unique where they are; and what refers to an alert goes with it."""
    state.query(COUNT)
    if state.address.kind == "sqlite":
        made = sql("SELECT name, sql LIKE 'CREATE UNIQUE%' FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL")
    else:
        made = sql(
            "SELECT indexname, indexdef LIKE 'CREATE UNIQUE%' FROM pg_indexes"
            " WHERE schemaname = 'public' AND indexname NOT LIKE '%\\_key' AND indexname NOT LIKE '%\\_pkey'"
        )
    words = "\n".join(script.read_text(encoding="utf-8") for script in schema.scripts())
    named = re.findall(r"CREATE (UNIQUE )?INDEX (\w+)", words)
    assert sorted((name, bool(unique)) for name, unique in state.query(made)) == sorted(
        (name, bool(unique)) for unique, name in named
    )


def test_reals_keep_all_their_digits(state: StateDatabase) -> None:
    """Times to the microsecond, and numbers that no short decimal is equal to."""
    values = [1_795_592_796.844229, 0.1 + 0.2, 1e300, -5e-324]
    row = {"scope": "x", "until": 0.0, "reason": "", "newest_request": 2**60}
    state.write(lambda connection: connection.execute(insert(cooldowns), [row | {"set_at": value} for value in values]))
    assert [at for (at,) in state.query(select(cooldowns.c.set_at).order_by(cooldowns.c.id))] == values
    assert state.query(select(cooldowns.c.newest_request).limit(1)) == [(2**60,)]


def test_transaction_commits_or_rolls_back(state: StateDatabase) -> None:
    """What a block wrote stays if it ends well, and goes if it raises; a defect in the SQL stays as it is."""
    with state.transaction() as connection:
        connection.execute(insert(underlyings), NIFTY)

    def twice(connection: Connection) -> None:
        connection.execute(insert(underlyings), SENSEX)
        assert state.query(SYMBOLS) == [("NIFTY",), ("SENSEX",)], "a thread reads what it wrote"
        connection.execute(insert(underlyings), SENSEX | {"symbol": "OTHER"})

    with pytest.raises(IntegrityError):
        state.write(twice)
    assert state.query(SYMBOLS) == [("NIFTY",)]


def test_put_makes_a_row_or_changes_it(state: StateDatabase) -> None:
    """Whichever is needed."""
    for value in ("one", "two"):
        row = {"value": value, "learned_at": 1.0}
        state.write(partial(put, table=learned, key={"name": "x"}, values=row))
    assert state.query(select(learned)) == [("x", "two", 1.0)]


def test_each_thread_has_a_connection_of_its_own(state: StateDatabase) -> None:
    """Threads that write at once all succeed, and closing ends the connections of all."""

    def work(number: int) -> None:
        for step in range(20):
            add(state, f"{number}-{step}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert state.query(COUNT) == [(80,)]
    state.close()
    assert state.query(COUNT) == [(80,)]


def add(state: StateDatabase, name: str) -> None:
    """Write one row."""
    row = {"name": name, "value": "", "learned_at": 0.0}
    state.write(lambda connection: connection.execute(insert(learned), row))


def test_handle_survives_pickling(state: StateDatabase) -> None:
    """A handle sent to another process opens the same database."""
    state.write(lambda connection: connection.execute(insert(underlyings), NIFTY))
    with pickle.loads(pickle.dumps(state)) as copy:  # noqa: S301  our own bytes of this very line
        assert copy.query(SYMBOLS) == [("NIFTY",)]


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fork_leaves_the_connections_of_its_parent_alone(state: StateDatabase) -> None:
    """In the middle of a transaction of the parent, the child reads by a connection of its own, and ends."""
    add(state, "before")
    with state.transaction(alone=False) as connection:
        connection.execute(insert(underlyings), NIFTY)
        child = multiprocessing.get_context("fork").Process(target=read_in_child, args=(state,))
        child.start()
        child.join(30)
        assert child.exitcode == 0
        connection.execute(insert(underlyings), SENSEX)
    assert state.query(SYMBOLS) == [("NIFTY",), ("SENSEX",)]


def read_in_child(state: StateDatabase) -> None:
    """See what is committed and nothing else."""
    assert state.query(COUNT) == [(1,)]
    assert state.query(SYMBOLS) == []


def test_transactions_that_are_alone_come_one_after_another(state: StateDatabase) -> None:
    """Who reads and then writes what follows from it is not disturbed by others, and who waits too long is told."""

    def count_on() -> None:
        def work(connection: Connection) -> None:
            found = connection.execute(COUNT).scalar_one()
            row = {"name": str(found), "value": "", "learned_at": 0.0}
            connection.execute(insert(learned), row)

        for _ in range(25):
            state.write(work)

    threads = [threading.Thread(target=count_on) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert state.query(COUNT) == [(75,)]
    impatient = state.patient(0.05)
    with state.transaction(), pytest.raises(StateLocked, match=r"held by another process for 0\.05 s"):
        impatient.write(lambda connection: connection.execute(COUNT))
    impatient.close()


def test_many_processes_may_be_the_first(engine: Engine, tmp_path: Path) -> None:
    """The tables are made once, whoever comes first."""
    del tmp_path
    address = engine.fresh()
    context = multiprocessing.get_context("spawn")
    with context.Pool(4) as pool:
        assert pool.map(first_use, [address] * 4) == [0] * 4


def first_use(address: StateAddress) -> int:
    """Open a database and count what is in it."""
    with StateDatabase(address) as state:
        return int(state.query(select(func.count()).select_from(requests))[0][0])


def test_the_servers_clock_is_that_of_all_hosts(engine: Engine) -> None:
    """Where there is a server its time counts, whatever the local clock shows; a file has none."""
    clock = HostClock(engine, time=5_000.0, error=600.0)
    with StateDatabase(engine.fresh()) as state:
        assert state.now(clock.now()) == pytest.approx(5_000.0)


def test_a_file_without_a_clock_of_its_own_goes_by_the_machines(tmp_path: Path) -> None:
    """And so does a server whose clock nobody has moved."""
    with StateDatabase(tmp_path / "state.sqlite") as state:
        assert state.now() == pytest.approx(time.time(), abs=5)


def test_migrations_are_numbered_without_a_gap() -> None:
    """The n-th file leads to version n."""
    assert [int(script.name[:4]) for script in schema.scripts()] == list(range(1, len(schema.scripts()) + 1))


def test_text_of_statements_is_the_same_for_both(state: StateDatabase) -> None:
    """Values are bound, whatever an engine's own sign for them."""
    assert state.query(sql("SELECT CAST(? AS TEXT), CAST(? AS TEXT)", "a'b", "50%")) == [("a'b", "50%")]
