"""The state database copied to another address is equal there, on both engines, and goes on from where it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import delete, insert, select, update

from expirytrack_dagster.collect import tracking
from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.moving import state as moving
from expirytrack_dagster.moving.state import contents, copy_state
from expirytrack_dagster.state import StateDatabase
from expirytrack_dagster.state.tables import METADATA, alert_deliveries, alerts, listings, metrics, requests, scopes
from expirytrack_dagster.state_address import StateAddress
from expirytrack_dagster.upstox.calls import Call, Receipt
from expirytrack_dagster.upstox.ledger import RequestLedger

if TYPE_CHECKING:
    from pathlib import Path

ASKED = 25


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
    """Copy so few rows at once that there are several steps."""
    monkeypatch.setattr(moving, "AT_ONCE", 10)


@pytest.fixture
def source(tmp_path: Path) -> StateDatabase:
    """Give a state database with rows in tables of every kind."""
    state = StateDatabase(tmp_path / "state.sqlite")
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
    return state


@pytest.fixture(params=["sqlite", "postgresql"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> StateDatabase:
    """Give a state database of each engine, which is not there yet."""
    if request.param == "sqlite":
        return StateDatabase(tmp_path / "target" / "state.sqlite")
    return StateDatabase(StateAddress("postgresql", request.getfixturevalue("postgres")))


def test_there_and_back_nothing_is_different(source: StateDatabase, target: StateDatabase, tmp_path: Path) -> None:
    """Every row of every table, and the next request gets the next number."""
    back = StateDatabase(tmp_path / "back.sqlite")
    before = contents(source)
    assert copy_state(source, target).equal
    assert copy_state(target, back).equal
    assert contents(source) == contents(target) == contents(back) == before
    assert before["requests"].rows == ASKED
    for table in METADATA.tables.values():
        rows = [sorted(map(repr, state.query(select(table)))) for state in (source, back)]
        assert rows[0] == rows[1]
    assert ask(target, 1) == ask(back, 1) == [ASKED + 1]


def test_a_copy_goes_on_where_it_was_cut_off(source: StateDatabase, target: StateDatabase) -> None:
    """What had arrived is not copied again, and the third time nothing is."""

    def stop(done: int, total: int) -> None:
        del total
        if done > ASKED // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy_state(source, target, stop)
    rest = copy_state(source, target)
    assert rest.equal
    assert 0 < rest.rows < ASKED
    again = copy_state(source, target)
    assert (again.rows, again.equal) == (0, True)


def test_what_has_changed_is_copied_anew(source: StateDatabase, target: StateDatabase) -> None:
    """Rows that were added, changed and removed at the source, and no others."""
    copy_state(source, target)
    ask(source, 1)
    with source.transaction() as connection:
        connection.execute(update(listings).values(gone_at=9))
        connection.execute(delete(metrics))
    again = copy_state(source, target)
    assert again.equal
    assert again.rows < ASKED
    assert contents(target)["metrics"].rows == 0


def test_what_changes_meanwhile_is_told(source: StateDatabase, target: StateDatabase) -> None:
    """The table is named and not taken for equal."""
    asked = iter([1])

    def collect(done: int, total: int) -> None:
        if done == total and next(asked, None):
            ask(source, 1)

    copied = copy_state(source, target, collect)
    assert not copied.equal
    assert "requests" in copied.changed
    assert copy_state(source, target).equal


@pytest.mark.parametrize("count", [ASKED, ASKED + 1])
def test_another_state_is_not_written_into(source: StateDatabase, target: StateDatabase, count: int) -> None:
    """Requests of other moments under the same numbers, or of later numbers, are of another one."""
    ask(target, count)
    before = contents(target)
    with pytest.raises(ConfigurationError, match=r"are not of|later requests than"):
        copy_state(source, target)
    assert contents(target) == before


def test_an_underlying_of_another_moment_is_of_another_state(source: StateDatabase, target: StateDatabase) -> None:
    """It tells where nothing was asked yet."""
    tracking.track(target, "NIFTY", "NSE_INDEX|Nifty 50")
    with pytest.raises(ConfigurationError, match="are not of"):
        copy_state(source, target)


def test_the_limits_are_kept_across_the_move(source: StateDatabase, target: StateDatabase) -> None:
    """The windows count what was asked before it; so does what paces requests."""
    copy_state(source, target)
    assert [tuple(row) for row in target.query(select(scopes))] == [tuple(row) for row in source.query(select(scopes))]
    counted = select(requests.c.id).where(requests.c.counted_at.is_not(None))
    assert len(target.query(counted)) == ASKED
