"""A cell is one run's among all hosts; a holder that dies gives it back, and one that was away is kept from writing."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from datetime import date
from typing import TYPE_CHECKING, TypeVar

import pytest
from sqlalchemy import insert, select, update

from expirytrack_dagster.collect import leases
from expirytrack_dagster.collect.leases import (
    LIFE,
    Holder,
    handed_on,
    has_fallen_silent,
    held,
    holders,
    named,
    process_alive,
)
from expirytrack_dagster.errors import CellBusy, CellLost
from expirytrack_dagster.processes import this_process
from expirytrack_dagster.state import StateDatabase
from expirytrack_dagster.state.tables import leases as table
from expirytrack_dagster.state_address import StateAddress
from expirytrack_dagster.upstox.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlalchemy import Connection

T = TypeVar("T")

NAME = named(("NIFTY", date(2025, 8, 28)))
ELSEWHERE = "7 since 1790000000 on trader-2~abc123"
CLOCK = SystemClock()

TAKE = """
import sys
import time
from datetime import date
from expirytrack_dagster import processes
from expirytrack_dagster.collect import leases
from expirytrack_dagster.errors import CellBusy
from expirytrack_dagster.state import StateDatabase
from expirytrack_dagster.settings import load_settings
from expirytrack_dagster.upstox.clock import SystemClock
host = sys.argv[1]
processes.this_host = lambda: host  # as if each process had a machine of its own
state = StateDatabase(load_settings().state_address)
print("ready", flush=True)
sys.stdin.readline()
taken = 0
for day in range(1, 21):
    try:
        with leases.held(state, leases.named(("NIFTY", date(2025, 8, day))), "run", SystemClock()) as lease:
            print(day, lease.number, flush=True)
            sys.stdin.readline()
    except CellBusy:
        pass
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> StateAddress:
    """Return where the state database is, in both engines."""
    if request.param == "sqlite":
        return StateAddress.of_file(tmp_path / "state.sqlite")
    return StateAddress("postgresql", request.getfixturevalue("postgres"))


@pytest.fixture
def state(address: StateAddress) -> Iterator[StateDatabase]:
    """Return the database, as every host sees it."""
    with StateDatabase(address) as opened:
        yield opened


def environment(address: StateAddress) -> dict[str, str]:
    """Return the environment of a program that uses this database."""
    return {**os.environ, "EXPIRYTRACK_STATE": str(address)}


def elsewhere(state: StateDatabase, left: float, name: str = NAME, process: str = ELSEWHERE) -> None:
    """Let another host hold a lease for so many more seconds."""
    row = {"name": name, "number": 3, "process": process, "run_id": "their", "until": state.now() + left}
    state.write(lambda connection: connection.execute(insert(table), row))


def taken_over(state: StateDatabase) -> None:
    """Let another host take the lease, as it may once it has run out."""
    row = update(table).where(table.c.name == NAME)
    changed = row.values(number=table.c.number + 1, process=ELSEWHERE, until=state.now() + LIFE)
    state.write(lambda connection: connection.execute(changed))


def test_a_cell_is_one_runs_alone_until_it_is_given_back(state: StateDatabase) -> None:
    """A second run is told whose it is; afterwards it gets it, with the next number."""
    with held(state, NAME, "run-1", CLOCK) as first:
        assert holders(state, CLOCK) == {NAME: Holder(this_process(), "run-1")}
        with pytest.raises(CellBusy, match=f"collecting {NAME} on "), held(state, NAME, "run-2", CLOCK):
            pass
    assert holders(state, CLOCK) == {}
    with held(state, NAME, "run-2", CLOCK) as second:
        assert second.number == first.number + 1


def test_what_is_handed_on_is_held_already(state: StateDatabase) -> None:
    """A command takes a cell and then starts its run, which gives nothing back that it did not take."""
    with held(state, NAME, "", CLOCK) as first, handed_on(first):
        with held(state, NAME, "run", CLOCK) as second:
            assert second is first
        assert list(holders(state, CLOCK)) == [NAME]


def test_what_could_not_be_given_back_keeps_nobody_of_this_process_out(state: StateDatabase) -> None:
    """The database had no room at the end of the block; the row says that this process has what it has not."""
    elsewhere(state, LIFE, process=this_process())
    assert holders(state, CLOCK) == {}
    with held(state, NAME, "run", CLOCK) as lease:
        assert lease.number == 4


def test_threads_of_one_process_are_kept_apart(address: StateAddress) -> None:
    """Also one that comes when another has taken the cell, and had no time yet to do anything with it."""
    ended: list[str] = []
    attempts: list[threading.Thread] = []

    def take(state: StateDatabase) -> None:
        try:
            with state, held(state, NAME, "run", CLOCK):
                ended.append("held")
                for attempt in attempts:
                    attempt.join()
        except CellBusy:
            ended.append("busy")

    class Preempted(StateDatabase):
        """Lets another thread try its luck between the commit and the next step of this one."""

        def write(self, work: Callable[[Connection], T], *, alone: bool = True) -> T:
            row = super().write(work, alone=alone)
            if not attempts:
                attempts.append(threading.Thread(target=take, args=(StateDatabase(address),)))
                attempts[0].start()
                attempts[0].join(0.2)
            return row

    take(Preempted(address))
    assert ended == ["held", "busy"]


def test_another_host_is_named(state: StateDatabase) -> None:
    """By the name that people call it."""
    elsewhere(state, LIFE)
    with (
        pytest.raises(CellBusy, match=f"Another run is collecting {NAME} on trader-2: "),
        held(state, NAME, "run", CLOCK),
    ):
        pass
    assert [holder.host for holder in holders(state, CLOCK).values()] == ["trader-2"]


def test_what_another_host_does_not_renew_is_free(state: StateDatabase) -> None:
    """Its time has run out by the database's clock."""
    elsewhere(state, -0.001)
    assert holders(state, CLOCK) == {}
    with held(state, NAME, "run", CLOCK) as lease:
        assert lease.number == 4


def test_a_process_of_this_host_that_was_killed_gives_its_cell_back_at_once(state: StateDatabase) -> None:
    """As long as it lived the cell was its own, even if its time had run out."""
    with subprocess.Popen(
        [sys.executable, "-c", NAMES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as it:
        assert it.stdout is not None
        elsewhere(state, -LIFE, process=it.stdout.readline().strip())
        with pytest.raises(CellBusy), held(state, NAME, "run", CLOCK):
            pass
        it.kill()
    with held(state, NAME, "run", CLOCK):
        pass


NAMES = """
from expirytrack_dagster.processes import this_process
print(this_process(), flush=True)
input()
"""


def test_a_holder_renews_while_it_works(state: StateDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself: nothing that the holder does, or waits for, holds it up."""
    monkeypatch.setattr(leases, "EVERY", 0.02)
    with held(state, NAME, "run", CLOCK) as lease:
        shortened = update(table).values(until=1.0)
        state.write(lambda connection: connection.execute(shortened))
        for _ in range(1000):
            time.sleep(0.01)
            (until,) = state.query(select(table.c.until))[0]
            if until > state.now() + LIFE - 5:
                break
        else:
            pytest.fail("it was not renewed")
        lease.check()


def test_a_holder_that_was_away_is_kept_from_writing(state: StateDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    """It learns that another came when it wants to write, at the latest, and takes nothing back."""
    monkeypatch.setattr(leases, "EVERY", 0.02)
    with held(state, NAME, "run", CLOCK) as lease:
        taken_over(state)
        with pytest.raises(CellLost, match="taken over by another host"):
            lease.confirm()
        with pytest.raises(CellLost):
            lease.check()
    assert [holder.process for holder in holders(state, CLOCK).values()] == [ELSEWHERE]


def test_a_renewal_tells_of_the_loss(state: StateDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a collector asks for nothing more, long before it would write."""
    monkeypatch.setattr(leases, "EVERY", 0.02)
    with held(state, NAME, "run", CLOCK) as lease:
        taken_over(state)
        lease._thread.join(10)  # noqa: SLF001 -- ends by itself once the lease is lost
        with pytest.raises(CellLost):
            lease.check()


def test_a_lease_outlives_a_database_that_was_made_anew(state: StateDatabase) -> None:
    """Nobody else can have taken what the new one does not know."""
    with held(state, NAME, "run", CLOCK) as lease:
        state.write(lambda connection: connection.execute(table.delete()))
        lease.confirm()
        assert list(holders(state, CLOCK)) == [NAME]


def test_a_process_tells_that_it_lives(state: StateDatabase) -> None:
    """Another host's is judged by it alone: alive, silent for too long, or never heard of."""
    with process_alive(state, CLOCK):
        assert not has_fallen_silent(state, this_process(), CLOCK)
    assert not has_fallen_silent(state, ELSEWHERE, CLOCK)
    elsewhere(state, 5.0, name=ELSEWHERE)
    assert not has_fallen_silent(state, ELSEWHERE, CLOCK)
    state.write(lambda connection: connection.execute(update(table).values(until=state.now() - 1)))
    assert has_fallen_silent(state, ELSEWHERE, CLOCK)


def test_hosts_that_come_together_share_the_cells(address: StateAddress) -> None:
    """Four hosts ask for the same twenty cells at once: each has one for itself, and none the same."""
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", TAKE, f"host-{number}~{number}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(address),
        )
        for number in range(4)
    ]
    try:
        for program in programs:
            assert program.stdout is not None
            assert program.stdout.readline() == "ready\n"
        for program in programs:
            assert program.stdin is not None
            program.stdin.write("go\n")
            program.stdin.flush()
        first = []
        for program in programs:
            assert program.stdout is not None
            first.append(program.stdout.readline().split())  # each holds a cell now, and none lets go yet
        assert sorted(day for day, _ in first) == ["1", "2", "3", "4"]
        assert {number for _, number in first} == {"1"}
    finally:
        for program in programs:
            program.kill()
            program.communicate()
