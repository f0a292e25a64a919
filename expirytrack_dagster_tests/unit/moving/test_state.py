"""The state database moved to another address is equal there, on both engines, and no other one is written into."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import delete, insert, select, update

from expirytrack_dagster.collect import tracking
from expirytrack_dagster.collect.leases import held
from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.moving import state as moving
from expirytrack_dagster.moving.state import move_state
from expirytrack_dagster.state import StateDatabase, copying
from expirytrack_dagster.state.copying import copy_state, state_sums
from expirytrack_dagster.state.tables import METADATA, alert_deliveries, alerts, listings, metrics
from expirytrack_dagster.state_address import StateAddress
from expirytrack_dagster.upstox.calls import Call, Receipt
from expirytrack_dagster.upstox.clock import SystemClock
from expirytrack_dagster.upstox.ledger import RequestLedger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ASKED = 25
CELL = "NIFTY 2025-08-28"
CLOCK = SystemClock()


def ask(state: StateDatabase, count: int) -> list[int]:
    """Ask and answer so often, and return the numbers of the requests."""
    ledger, numbers = RequestLedger(state, ()), []
    for number in range(count):
        slot = ledger.acquire(Call("candles", f"NSE_FO|{number}|28-08-2025", {"interval": "1minute"}))
        assert isinstance(slot, int)
        ledger.settle(slot, Receipt(outcome="ok", counted_at=state.now() + 0.1, status=200, bytes=10, rows=1))
        numbers.append(slot)
    return numbers


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare so few requests at once that there are several steps."""
    monkeypatch.setattr(moving, "_LOOKED_AT", 10)


@pytest.fixture
def source(tmp_path: Path) -> Iterator[StateDatabase]:
    """Give a state database with rows in tables of every kind."""
    with StateDatabase(tmp_path / "state.sqlite") as state:
        _fill(state)
        yield state


def _fill(state: StateDatabase) -> None:
    tracking.track(state, "NIFTY", "NSE_INDEX|Nifty 50")
    ask(state, ASKED)
    with state.transaction() as connection:
        connection.execute(insert(listings).values(underlying="NIFTY", expiry="2025-08-28", first_at=1.5, last_at=2))
        connection.execute(insert(metrics).values(saved_at=3, name="a", labels="{}", value=1e300, added=None))
        told = {"subject": "x", "value": 0, "threshold": 1, "sentence": "It's 'so'\n|", "todo": "₹", "raised_at": 1}
        connection.execute(insert(alerts).values(id=7, name="disk_free", **told))
        connection.execute(
            insert(alert_deliveries).values(alert=7, event="raised", channel="mail", attempts=0, due_at=1.25)
        )


@pytest.fixture(params=["sqlite", "postgresql"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StateDatabase]:
    """Give a state database of each engine, which is not there yet."""
    address = StateAddress.of_file(tmp_path / "target" / "state.sqlite")
    if request.param == "postgresql":
        address = StateAddress("postgresql", request.getfixturevalue("postgres"))
    with StateDatabase(address) as state:
        yield state


def test_there_and_back_nothing_is_different(source: StateDatabase, target: StateDatabase, tmp_path: Path) -> None:
    """Every row of every table, and the next request gets the next number."""
    before = state_sums(source)
    with StateDatabase(tmp_path / "back.sqlite") as back:
        assert move_state(source, target).equal
        assert move_state(target, back).equal
        assert state_sums(source) == state_sums(target) == state_sums(back) == before
        assert before["requests"].rows == ASKED
        for table in METADATA.tables.values():
            rows = [sorted(map(repr, state.query(select(table)))) for state in (source, back)]
            assert rows[0] == rows[1]
        assert ask(target, 1) == ask(back, 1) == [ASKED + 1]


def test_what_is_there_is_not_copied_again(source: StateDatabase, target: StateDatabase) -> None:
    """The second time nothing is written."""
    first, again = move_state(source, target), move_state(source, target)
    assert (first.there, again.there) == (False, True)
    assert (again.rows, again.equal) == (0, True)


def test_an_earlier_copy_is_brought_up_to_date(source: StateDatabase, target: StateDatabase) -> None:
    """Whatever was added, changed and removed at the source since."""
    move_state(source, target)
    ask(source, 1)
    with source.transaction() as connection:
        connection.execute(update(listings).values(gone_at=9))
        connection.execute(delete(metrics))
    assert move_state(source, target).equal
    assert state_sums(target)["metrics"].rows == 0


def test_a_copy_that_is_cut_off_leaves_the_earlier_one(
    source: StateDatabase, target: StateDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed when some of the tables were there anew; the same command makes the copy again."""
    move_state(source, target)
    before = state_sums(target)
    ask(source, 1)
    copy, calls = copying._copy, count()  # noqa: SLF001 -- the middle of a transaction is nowhere else

    def killed(*arguments: Any) -> None:
        if next(calls) == 3:
            raise KeyboardInterrupt
        copy(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(copying, "_copy", killed)
        with pytest.raises(KeyboardInterrupt):
            move_state(source, target)
    assert state_sums(target) == before
    assert move_state(source, target).equal


def test_what_changes_meanwhile_is_told(
    source: StateDatabase, target: StateDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table is named, and not taken for equal."""

    def copied_while_collecting(*arguments: Any) -> object:
        copied = copy_state(*arguments)
        ask(source, 1)
        return copied

    with monkeypatch.context() as patch:
        patch.setattr(moving, "copy_state", copied_while_collecting)
        copied = move_state(source, target)
    assert not copied.equal
    assert "requests" in copied.changed
    assert move_state(source, target).equal


@pytest.mark.parametrize("count", [ASKED, ASKED + 1])
def test_another_state_is_not_written_into(source: StateDatabase, target: StateDatabase, count: int) -> None:
    """Requests of other moments under the same numbers, or of later numbers, are of another one."""
    ask(target, count)
    before = state_sums(target)
    with pytest.raises(ConfigurationError, match=r"are not of|later requests than"):
        move_state(source, target)
    assert state_sums(target) == before


def test_an_underlying_of_another_moment_is_of_another_state(source: StateDatabase, target: StateDatabase) -> None:
    """It tells where nothing was asked yet."""
    tracking.track(target, "NIFTY", "NSE_INDEX|Nifty 50")
    with pytest.raises(ConfigurationError, match="are not of"):
        move_state(source, target)


def _track_another(state: StateDatabase) -> None:
    tracking.track(state, "RELIANCE", "NSE_EQ|INE002A01018")


def _alert(state: StateDatabase) -> None:
    told = {"subject": "x", "value": 0, "threshold": 1, "sentence": "x", "todo": "", "raised_at": 1}
    state.write(lambda connection: connection.execute(insert(alerts).values(name="disk_free", **told)))


def _listing(state: StateDatabase) -> None:
    row = {"underlying": "NIFTY", "expiry": "2025-08-28", "first_at": 1.5, "last_at": 2}
    state.write(lambda connection: connection.execute(insert(listings), row))


def _lease(state: StateDatabase) -> None:
    with held(state, CELL, "run", CLOCK):
        pass


@pytest.mark.parametrize("used", [_track_another, _alert, _listing, _lease])
def test_one_that_has_asked_nothing_yet_is_another_one_all_the_same(
    source: StateDatabase, target: StateDatabase, used: Callable[[StateDatabase], None]
) -> None:
    """Whatever it holds, nothing shows that it came from this one."""
    used(target)
    before = state_sums(target)
    with pytest.raises(ConfigurationError, match="are not of"):
        move_state(source, target)
    assert state_sums(target) == before


def test_what_is_not_tracked_any_more_goes_from_the_copy_too(source: StateDatabase, target: StateDatabase) -> None:
    """The requests tell that the copy is one of this very state."""
    tracking.track(source, "RELIANCE", "NSE_EQ|INE002A01018")
    move_state(source, target)
    tracking.untrack(source, "RELIANCE")
    assert move_state(source, target).equal


def test_one_that_collects_is_not_written_into(source: StateDatabase, target: StateDatabase) -> None:
    """Somebody has switched to an earlier copy and begun a cell there."""
    move_state(source, target)
    ask(source, 1)
    with (
        StateDatabase(target.address) as theirs,
        held(theirs, CELL, "run", CLOCK),
        pytest.raises(ConfigurationError, match=rf"is in use: .* has {CELL}"),
    ):
        move_state(source, target)
    assert move_state(source, target).equal


def test_a_lease_that_came_with_an_earlier_copy_is_nobodys_there(source: StateDatabase, target: StateDatabase) -> None:
    """A move while the source is collected for leaves such rows, and may be repeated."""
    with held(source, CELL, "run", CLOCK):
        move_state(source, target)
        ask(source, 1)
        assert move_state(source, target).equal


def _through_its_folder(path: Path) -> StateAddress:
    (path.parent / "x").mkdir()
    return StateAddress.of_file(path.parent / "x" / ".." / path.name)


def _through_a_link(path: Path) -> StateAddress:
    (link := path.with_name("link.sqlite")).symlink_to(path)
    return StateAddress.of_file(link)


@pytest.mark.parametrize("spelled", [_through_its_folder, _through_a_link])
def test_the_same_file_is_not_moved_onto_itself(
    source: StateDatabase, spelled: Callable[[Path], StateAddress], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However its path is written, and even if it changes between two looks: nothing of it is lost."""
    _refuses_itself(source, spelled(source.address.path), monkeypatch)


def test_the_same_database_of_a_server_is_not_moved_onto_itself(postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However its address is written."""
    with StateDatabase(StateAddress("postgresql", postgres)) as state:
        _fill(state)
        _refuses_itself(state, StateAddress("postgresql", f"{postgres}?sslmode=prefer"), monkeypatch)


def _refuses_itself(state: StateDatabase, itself: StateAddress, monkeypatch: pytest.MonkeyPatch) -> None:
    sums = copying._sums  # noqa: SLF001 -- the instant between two looks is nowhere else

    with StateDatabase(state.address) as collector, StateDatabase(itself) as target, monkeypatch.context() as patch:

        def summed_while_collecting(connection: Any) -> Any:
            found = sums(connection)
            ask(collector, 1)
            return found

        patch.setattr(copying, "_sums", summed_while_collecting)
        with pytest.raises(ConfigurationError, match=r"is at .* already"):
            move_state(state, target)
    after = state_sums(state)
    assert after["requests"].rows > ASKED
    assert after["underlyings"].rows == after["alerts"].rows == after["metered"].rows == 1
