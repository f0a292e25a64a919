"""Queries of people: they read the archive, and nothing that they write can change it or look outside."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest

from expirytrack_dagster.errors import QueryRefused
from expirytrack_dagster.warehouse.connection import Warehouse
from expirytrack_dagster.warehouse.query import answered

if TYPE_CHECKING:
    from pathlib import Path

    from expirytrack_dagster_tests.unit.conftest import SmallArchive

KEY = bytes(range(32))


def rows(warehouse: Warehouse, sql: str) -> list[dict[str, Any]]:
    """Return the answer to a query."""
    with answered(warehouse, sql) as answer:
        return answer.read_all().to_pylist()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "sql",
    [
        *("SELECT count(*) FROM candles", "FROM contracts", "WITH one AS (SELECT 1) FROM one", "SHOW TABLES;"),
        *("DESCRIBE candles", "SUMMARIZE contracts", "EXPLAIN SELECT 1", "SELECT 1 -- ; DELETE FROM main.candles"),
    ],
)
def test_what_reads_is_answered(archive: SmallArchive, sql: str) -> None:
    """All forms of looking at tables."""
    assert rows(archive.warehouse, sql)


@pytest.mark.parametrize(
    "sql",
    [
        *(
            "DELETE FROM main.candles",
            "UPDATE main.candles SET open = 0",
            "INSERT INTO main.expiries SELECT * FROM expiries",
        ),
        *("DROP TABLE candles", "CREATE TEMP TABLE mine AS SELECT 1", "ALTER TABLE candles DROP volume"),
        *("SELECT 1; DELETE FROM main.candles", "", "-- nothing", "EXPLAIN ANALYZE DELETE FROM main.candles"),
        *("COPY candles TO '{out}'", "EXPORT DATABASE '{out}'", "ATTACH '{out}'", "INSTALL httpfs", "LOAD httpfs"),
        *("SET lock_configuration = false", "SET enable_external_access = true", "RESET memory_limit", "CHECKPOINT"),
        *("SELECT * FROM read_csv('{secret}')", "FROM '{secret}'", "SELECT * FROM read_text('{secret}')"),
        *("SELECT * FROM glob('{secret}*')", "FROM sniff_csv('{secret}')", "FROM query('DELETE FROM main.candles')"),
        *("FROM secret_frame", "SELECT getenv('HOME')", "PREPARE p AS DELETE FROM main.candles", "BEGIN", "VACUUM"),
        *("SELECT * FROM nosuch", "SELEC 1", "SELECT 'a'::INT", "SELECT $1", "CALL pragma_version()"),
    ],
)
@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
def test_nothing_else_is(archive: SmallArchive, tmp_path: Path, sql: str, *, encrypted: bool) -> None:
    """One sentence for what writes, reaches outside or is no SQL; the file is the same, byte for byte."""
    secret, out = tmp_path / "secret.csv", tmp_path / "out"
    secret.write_text("secret\n1\n")
    secret_frame = archive.rows("SELECT 1")
    assert secret_frame
    warehouse = archive.warehouse
    if encrypted:
        warehouse = Warehouse(tmp_path / "sealed.duckdb", key=KEY)
        with warehouse.writing():
            pass
    before = hashlib.sha256(warehouse.database.read_bytes()).hexdigest()
    with pytest.raises(QueryRefused) as refused:
        rows(warehouse, sql.format(secret=secret, out=out))
    assert "\n" not in str(refused.value)
    assert not out.exists()
    assert hashlib.sha256(warehouse.database.read_bytes()).hexdigest() == before


def test_the_connection_itself_is_confined(archive: SmallArchive, tmp_path: Path) -> None:
    """What a reader in Python is given holds without the check of the statement's kind."""
    with archive.warehouse.querying() as connection:
        for sql in ("DELETE FROM main.candles", f"ATTACH '{tmp_path / 'x'}'", "SET enable_external_access = true"):
            with pytest.raises(Exception, match=r"read-only|disabled|locked"):
                connection.execute(sql)
