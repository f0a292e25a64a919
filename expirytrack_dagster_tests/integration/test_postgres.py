"""The server that tests use: real, apart for each test, and there again after a crash."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg2
import pytest

if TYPE_CHECKING:
    from expirytrack_dagster_tests.postgres import PostgresServer


def ask(url: str, statement: str) -> list[tuple[Any, ...]]:
    """Return a statement's rows, in a transaction of its own; none if it has no rows."""
    connection = psycopg2.connect(url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []
    finally:
        connection.close()


def test_a_database_survives_a_crash_and_is_gone_for_the_next(postgres_server: PostgresServer, postgres: str) -> None:
    """What was committed is there again after the server was cut off."""
    ask(postgres, "CREATE TABLE kept AS SELECT 7 AS number")
    postgres_server.stop(at_once=True)
    with pytest.raises(psycopg2.OperationalError, match="refused"):
        ask(postgres, "SELECT 1")
    postgres_server.start()
    assert ask(postgres, "SELECT number FROM kept") == [(7,)]


def test_each_test_has_a_database_of_its_own(postgres: str) -> None:
    """Nothing of another test is in it."""
    assert ask(postgres, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]
