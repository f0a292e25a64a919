"""Sessions that are kept: each use finds them as the first did, and none outlives its last one unseen."""

from __future__ import annotations

from weakref import ref

import duckdb
import pytest

from expirytrack_dagster.warehouse.sessions import Sessions

CONFIG: dict[str, str | int] = {"memory_limit": "4000MB", "threads": 2}


@pytest.fixture
def made() -> list[ref[duckdb.DuckDBPyConnection]]:
    """Give the list of what was opened."""
    return []


@pytest.fixture
def sessions() -> Sessions:
    """Give none."""
    return Sessions()


def take(sessions: Sessions, made: list[ref[duckdb.DuckDBPyConnection]]) -> duckdb.DuckDBPyConnection:
    """Begin a use."""

    def make() -> duckdb.DuckDBPyConnection:
        connection = duckdb.connect(config={**CONFIG})
        made.append(ref(connection))
        return connection

    return sessions.take("key", CONFIG, make)


def settings(cursor: duckdb.DuckDBPyConnection) -> set[tuple[str, str]]:
    """Return the settings that a cursor does not have for itself."""
    return set(cursor.execute("SELECT name, value FROM duckdb_settings() WHERE scope = 'GLOBAL'").fetchall())


def test_whatever_a_use_sets_is_set_back(sessions: Sessions, made: list[ref[duckdb.DuckDBPyConnection]]) -> None:
    """Limits do not become less from one use to the next, and choices of the optimizer do not stay."""
    cursor = take(sessions, made)
    before = settings(cursor)
    for _ in range(3):
        cursor.execute("SET memory_limit = '128MB'; SET threads = 1; SET preserve_insertion_order = false")
        cursor.execute("SET disabled_optimizers = 'join_order,build_side_probe_side'")
        sessions.give_back(cursor)
        cursor = take(sessions, made)
        assert settings(cursor) == before
    assert len(made) == 1


@pytest.mark.parametrize("setting", ["lock_configuration = true", "enable_external_access = false"])
def test_what_cannot_be_set_back_is_not_used_again(
    sessions: Sessions, made: list[ref[duckdb.DuckDBPyConnection]], setting: str
) -> None:
    """A session that was confined ends."""
    cursor = take(sessions, made)
    cursor.execute(f"SET {setting}")
    sessions.give_back(cursor)
    take(sessions, made)
    assert len(made) == 2


def test_whoever_goes_without_a_word_takes_the_session_along(
    sessions: Sessions, made: list[ref[duckdb.DuckDBPyConnection]]
) -> None:
    """Nothing of it stays open, such as threads and connections to a server."""
    cursor = take(sessions, made)
    assert made[0]() is not None
    del cursor
    assert made[0]() is None
