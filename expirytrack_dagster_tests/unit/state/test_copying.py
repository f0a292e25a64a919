"""A state database copied between the engines: equal, all or nothing, and told apart from another one."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import BigInteger, Double, delete, insert, select

from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.settings import RateLimit
from expirytrack_dagster.state import StateDatabase
from expirytrack_dagster.state.copying import copy_state, state_sums
from expirytrack_dagster.state.tables import METADATA, alert_deliveries, cooldowns, metered, requests, underlyings
from expirytrack_dagster.upstox.calls import Call
from expirytrack_dagster.upstox.ledger import RequestLedger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from expirytrack_dagster_tests.engines import Engine

PAUSES = st.lists(
    st.fixed_dictionaries(
        {
            "scope": st.sampled_from(["account", "a'b", "É\u0928"]),
            "set_at": st.floats(allow_nan=False, allow_infinity=False),
            "until": st.floats(0, 2e9),
            "reason": st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20),
            "newest_request": st.integers(0, 2**62),
        }
    ),
    max_size=8,
)


@pytest.fixture
def source(tmp_path: Path) -> Iterator[StateDatabase]:
    """Give a file with a row in every table."""
    with StateDatabase(tmp_path / "source" / "state.sqlite") as state:
        state.write(lambda connection: connection.execute(delete(metered)))
        for table in METADATA.tables.values():
            row = {column.name: value_of(column) for column in table.columns}
            with state.transaction() as connection:
                connection.execute(insert(table), row)
        yield state


def value_of(column: Any) -> object:
    """Return a value that every rule of the tables allows."""
    if isinstance(column.type, BigInteger):
        return 7
    if isinstance(column.type, Double):
        return 1_795_592_796.844229
    return {"event": "raised", "phase": "asking", "outcome": "ok", "open": "[]"}.get(column.name, column.name)


def test_a_copy_is_equal_and_goes_on(source: StateDatabase, engine: Engine, tmp_path: Path) -> None:
    """Every table, there and back again; the next request has a number that was never given."""
    with StateDatabase(engine.fresh()) as target, StateDatabase(tmp_path / "back.sqlite") as back:
        sums, there = copy_state(source, target)
        assert not there
        assert {one.rows for one in sums.values()} == {1}
        assert copy_state(target, back).sums == state_sums(back) == state_sums(source) == sums
        assert copy_state(source, target) == (sums, True), "a copy that is there already is done"
        ledger = RequestLedger(target, (RateLimit(1, 100),))
        target.write(lambda connection: connection.execute(delete(cooldowns)))
        assert ledger.acquire(Call("profile", "")) == 8


def test_another_state_is_not_written_over(source: StateDatabase, engine: Engine) -> None:
    """It stays as it is, and the sentence names it."""
    with StateDatabase(engine.fresh()) as target:
        row = {"symbol": "NIFTY", "instrument_key": "x", "tracked_at": 0.0}
        target.write(lambda connection: connection.execute(insert(underlyings), row))
        before = state_sums(target)
        with pytest.raises(ConfigurationError, match="holds records that are not of"):
            copy_state(source, target)
        assert state_sums(target) == before


def test_a_copy_that_fails_leaves_nothing(
    source: StateDatabase, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one begins anew."""
    calls = count()

    def broken(connection: Any, statement: Any, *parameters: Any) -> Any:
        if getattr(statement, "table", None) is alert_deliveries and statement.is_insert and not next(calls):
            raise KeyboardInterrupt
        return execute(connection, statement, *parameters)

    with StateDatabase(engine.fresh()) as target:
        target.query(select(requests.c.id))
        connection_class = type(target._connection())  # noqa: SLF001 -- where every statement passes
        execute = connection_class.execute
        monkeypatch.setattr(connection_class, "execute", broken)
        with pytest.raises(KeyboardInterrupt):
            copy_state(source, target)
        assert sum(one.rows for name, one in state_sums(target).items() if name != "metered") == 0
        assert copy_state(source, target).sums == state_sums(target)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=PAUSES)
def test_whatever_is_in_it(
    engine: Engine, tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    """Words of any language, signs, and numbers to the last digit."""
    with StateDatabase(tmp_path_factory.mktemp("source") / "state.sqlite") as state:
        if rows:
            state.write(lambda connection: connection.execute(insert(cooldowns), rows))
        with StateDatabase(engine.fresh()) as target:
            assert copy_state(state, target).sums == state_sums(state)
            assert target.query(select(cooldowns)) == state.query(select(cooldowns))
