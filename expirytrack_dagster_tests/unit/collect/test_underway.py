"""What a collection tells of its cells while it works, and that telling never costs it anything."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from datetime import date
from typing import TYPE_CHECKING, Any

import pytest

from expirytrack_dagster.collect.contract import Answer
from expirytrack_dagster.collect.underway import KEPT, recorded, underway
from expirytrack_dagster.processes import is_alive, this_process
from expirytrack_dagster.state import StateDatabase
from expirytrack_dagster.state_address import StateAddress
from expirytrack_dagster_tests.postgres import ended_by_the_server

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Connection

CELL = ("NIFTY", date(2025, 8, 28))


class Hands:
    """A clock that is set by hand."""

    at = 1_000_000.0

    def now(self) -> float:
        """Return the time."""
        return self.at

    async def sleep(self, seconds: float) -> None:
        """Nobody sleeps here."""
        raise NotImplementedError


class Shown:
    """Counts what it is told."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.told: list[str] = []

    def begin(self, label: str, total: int) -> None:
        """Note it."""
        self.told.append(f"{label} {total}")

    def advance(self, answer: Answer) -> None:
        """Note it."""
        self.told.append(answer.instrument_key)

    def end(self) -> None:
        """Note it."""
        self.told.append("end")


@pytest.fixture
def state(tmp_path: Path) -> StateDatabase:
    """Return a state database."""
    return StateDatabase(tmp_path / "state.sqlite")


def test_a_cell_is_seen_from_when_it_is_taken_until_it_is_let_go(state: StateDatabase) -> None:
    """Its phases, contracts and answers are in the row, at most a second old; the bars are told everything at once."""
    clock, shown = Hands(), Shown()
    with recorded(state, CELL, "run-1", shown, clock) as follower:
        (cell,) = underway(state, clock.at)
        assert (cell.underlying, cell.expiry, cell.run_id, cell.phase) == (*CELL, "run-1", "reading")
        assert is_alive(cell.process)
        follower.begin("NIFTY 2025-08-28", 3)
        assert [(c.phase, c.contracts, c.answered) for c in underway(state, clock.at)] == [("asking", 3, 0)]
        clock.at += 0.4
        follower.advance(Answer("A"))
        assert [c.answered for c in underway(state, clock.at)] == [0], "at most once a second"
        clock.at += 0.7
        follower.advance(Answer("B"))
        (cell,) = underway(state, clock.at)
        assert (cell.answered, cell.seen_at, cell.began_at) == (2, clock.at, Hands.at)
        follower.advance(Answer("C"))
        follower.end()
        assert [(c.phase, c.answered) for c in underway(state, clock.at)] == [("storing", 3)]
    assert underway(state, clock.at) == []
    assert shown.told == ["NIFTY 2025-08-28 3", "A", "B", "C", "end"]


def test_an_error_ends_the_row_too(state: StateDatabase) -> None:
    """Whatever ends the cell, its row goes, and the error is the caller's."""
    with pytest.raises(KeyboardInterrupt), recorded(state, CELL, "run-1", Shown(), Hands()):
        raise KeyboardInterrupt
    assert underway(state, Hands.at) == []


COLLECTOR = """
import sys
from datetime import date
from pathlib import Path
from expirytrack_dagster.collect.underway import recorded
from expirytrack_dagster.state import StateDatabase
from expirytrack_dagster_tests.unit.collect.test_underway import CELL, Hands, Shown
with recorded(StateDatabase(Path(sys.argv[1])), CELL, "run-0", Shown(), Hands()) as follower:
    follower.begin("NIFTY 2025-08-28", 9)
    print("holding", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_leaves_is_told_from_work(state: StateDatabase) -> None:
    """Its row stays for a day, its process is no more, and the next run of the cell has the row for itself."""
    command = [sys.executable, "-c", COLLECTOR, str(state.address.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as collector:
        assert collector.stdout is not None
        assert collector.stdout.readline() == b"holding\n"
        (left,) = underway(state, Hands.at)
        assert (left.phase, left.contracts, is_alive(left.process)) == ("asking", 9, True)
        collector.kill()
        collector.wait()
    assert underway(state, Hands.at + KEPT - 1) == [left]
    assert not is_alive(left.process)
    assert underway(state, Hands.at + KEPT + 1) == []
    with recorded(state, CELL, "run-1", Shown(), Hands()):
        assert [(cell.run_id, cell.process) for cell in underway(state, Hands.at)] == [("run-1", this_process())]
    assert underway(state, Hands.at) == []


def test_a_busy_database_holds_no_collection_up(state: StateDatabase) -> None:
    """While another process writes, rows are left out; the cell goes on, and the next second makes up for it."""
    clock, shown = Hands(), Shown()
    with recorded(state, CELL, "run-1", shown, clock) as follower:
        with sqlite3.connect(state.address.path, isolation_level=None) as other:
            other.execute("BEGIN IMMEDIATE")
            follower.begin("NIFTY 2025-08-28", 2)
            clock.at += 2
            follower.advance(Answer("A"))
            other.execute("ROLLBACK")
        other.close()
        assert [cell.phase for cell in underway(state, clock.at)] == ["reading"]
        clock.at += 2
        follower.advance(Answer("B"))
        assert [(cell.phase, cell.answered) for cell in underway(state, clock.at)] == [("asking", 2)]
    assert shown.told == ["NIFTY 2025-08-28 2", "A", "B"]


def test_a_connection_that_breaks_costs_no_collection_anything(postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in the middle of writing a row: that is left out, and the next one goes through another connection."""
    clock, state = Hands(), StateDatabase(StateAddress("postgresql", postgres))
    with state, recorded(state, CELL, "run-1", Shown(), clock) as follower:
        engine: Any = follower._state._engine  # type: ignore[attr-defined]  # noqa: SLF001 -- that instant is nowhere else
        begin = engine.begin

        def cut(connection: Connection, *, alone: bool) -> None:
            begin(connection, alone=alone)
            ended_by_the_server(connection)

        with monkeypatch.context() as patch:
            patch.setattr(engine, "begin", cut)
            follower.begin("NIFTY 2025-08-28", 2)
        assert [cell.phase for cell in underway(state, 0.0)] == ["reading"]
        follower.end()
        assert [cell.phase for cell in underway(state, 0.0)] == ["storing"]
