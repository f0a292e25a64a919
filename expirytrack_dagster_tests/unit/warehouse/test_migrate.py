"""The schema: applied once and in order, repeated at no cost, refused when it is newer, documented in itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import duckdb
import pytest

from expirytrack_dagster.errors import SchemaTooNew
from expirytrack_dagster.warehouse import migrate as module
from expirytrack_dagster.warehouse.migrate import Migration, is_current, migrate, migrations
from expirytrack_dagster.warehouse.seals import HASHES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from expirytrack_dagster.warehouse.connection import Warehouse

AS_THEN = """SELECT underlying, expiry, instrument_key, ts, open, high, low, close, volume, open_interest
FROM candles ORDER BY rowid"""
TYPES_OF_CANDLES = {
    "underlying": "VARCHAR",
    "expiry": "DATE",
    "instrument_key": "VARCHAR",
    "minute": "INTEGER",
    "ts": "TIMESTAMP WITH TIME ZONE",
    "open": "DOUBLE",
    "high": "DOUBLE",
    "low": "DOUBLE",
    "close": "DOUBLE",
    "volume": "BIGINT",
    "open_interest": "BIGINT",
}


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Give an empty database."""
    with duckdb.connect(tmp_path / "a.duckdb") as opened:
        yield opened


def applied(connection: duckdb.DuckDBPyConnection) -> list[Any]:
    """Return the versions that the file says it has."""
    return connection.execute("SELECT version, name FROM schema_version ORDER BY version").fetchall()


def test_steps_are_numbered_without_gaps() -> None:
    """A number that is missing or used twice would be skipped in some files and applied in others."""
    assert [migration.version for migration in migrations()] == list(range(1, len(migrations()) + 1))
    assert migrations()[0].name == "initial"


def test_an_empty_file_gets_every_step(connection: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    """The version table names each step that was applied."""
    assert not is_current(connection, tmp_path)
    migrate(connection, tmp_path)
    assert is_current(connection, tmp_path)
    assert applied(connection) == [(migration.version, migration.name) for migration in migrations()]


def test_repeating_changes_nothing(connection: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    """Rows and the instants of application stay what they were."""
    migrate(connection, tmp_path)
    connection.execute("INSERT INTO main.expiries VALUES ('NIFTY', DATE '2025-08-28', 'NSE_INDEX|Nifty 50', now())")
    before = connection.execute("SELECT version, epoch_us(applied_at) FROM schema_version ORDER BY 1").fetchall()
    migrate(connection, tmp_path)
    assert (
        connection.execute("SELECT version, epoch_us(applied_at) FROM schema_version ORDER BY 1").fetchall() == before
    )
    assert connection.execute("SELECT count(*) FROM expiries").fetchall() == [(1,)]


@pytest.mark.parametrize("version", range(1, len(migrations())))
def test_a_file_of_an_older_program_is_brought_up_to_date(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    """Only the missing steps are applied, and the rows of the older version are kept."""
    every = migrations()
    older = every[:version]
    with monkeypatch.context() as patch:
        patch.setattr(module, "migrations", lambda: older)
        migrate(connection, tmp_path)
    connection.execute("INSERT INTO main.expiries VALUES ('NIFTY', DATE '2025-08-28', 'NSE_INDEX|Nifty 50', now())")
    assert not is_current(connection, tmp_path)
    migrate(connection, tmp_path)
    assert [version for version, _ in applied(connection)] == [migration.version for migration in every]
    assert connection.execute("SELECT count(*) FROM expiries").fetchall() == [(1,)]


def test_a_newer_file_is_refused_and_left_alone(connection: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    """What a newer program means by its tables is unknown here; the sentence names both versions."""
    migrate(connection, tmp_path)
    connection.execute("INSERT INTO main.schema_version (version, name) VALUES (99, 'of the future')")
    with pytest.raises(SchemaTooNew, match=rf"version 99, and this program knows only {len(migrations())}"):
        migrate(connection, tmp_path)
    with pytest.raises(SchemaTooNew):
        is_current(connection, tmp_path)
    assert applied(connection)[-1] == (99, "of the future")


def test_a_step_that_fails_leaves_nothing_of_itself(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The statements before the bad one are undone, the steps before it are kept, and it can be tried again."""
    good = migrations()
    number = len(good) + 1
    bad = Migration(number, "bad", "CREATE TABLE half (i BIGINT); INSERT INTO half VALUES ('no number');")
    monkeypatch.setattr(module, "migrations", lambda: (*good, bad))
    with pytest.raises(duckdb.ConversionException):
        migrate(connection, tmp_path)
    assert len(applied(connection)) == len(good)
    assert connection.execute("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'half'").fetchall() == [(0,)]
    mended = Migration(number, "mended", "CREATE TABLE half (i BIGINT);")
    monkeypatch.setattr(module, "migrations", lambda: (*good, mended))
    migrate(connection, tmp_path)
    assert applied(connection)[-1] == (number, "mended")


def test_candles_of_an_older_file_keep_their_rows_order_and_seal(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only how the minute is stored changes: what is read, and the checksum over it, are what they were."""
    first_two = migrations()[:2]
    with monkeypatch.context() as patch:
        patch.setattr(module, "migrations", lambda: first_two)
        migrate(connection, tmp_path)
    connection.execute(
        "INSERT INTO main.candles SELECT 'NIFTY', DATE '2025-08-28', 'b' || i // 1000 % 2, "
        "TIMESTAMPTZ '2025-08-01 03:45:00+00' + to_minutes(i % 1000), i + 0.05, i + 1, i, i + 0.5, i * 75, i "
        "FROM range(3000) AS numbers(i)"
    )
    checksum = f"SELECT count(*), {HASHES} FROM candles"  # noqa: S608 -- our own constant
    before = (connection.execute(AS_THEN).fetchall(), connection.execute(checksum).fetchall())
    migrate(connection, tmp_path)
    assert (connection.execute(AS_THEN).fetchall(), connection.execute(checksum).fetchall()) == before


def test_a_candle_off_the_minute_stops_the_step_and_stays(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a row never passed the rules; a step that rounded it would change data in silence."""
    first_two = migrations()[:2]
    with monkeypatch.context() as patch:
        patch.setattr(module, "migrations", lambda: first_two)
        migrate(connection, tmp_path)
    connection.execute(
        "INSERT INTO main.candles VALUES ('NIFTY', '2025-08-28', 'b', '2025-08-01 03:45:30+00', 1, 1, 1, 1, 1, 1)"
    )
    with pytest.raises(duckdb.Error, match="a candle of b is not on the minute"):
        migrate(connection, tmp_path)
    assert len(applied(connection)) == 2
    assert connection.execute("SELECT epoch_ms(ts) % 60000 FROM candles").fetchall() == [(30_000,)]


def test_candles_have_the_documented_types(rows: Callable[[str], list[dict[str, Any]]]) -> None:
    """Instants with a zone, 64-bit counts; no stored column may be null, and `ts` is made of one of them."""
    columns = rows("SELECT column_name, data_type, is_nullable FROM duckdb_columns() WHERE table_name = 'candles'")
    assert {column["column_name"]: column["data_type"] for column in columns} == TYPES_OF_CANDLES
    assert [column["column_name"] for column in columns if column["is_nullable"]] == ["ts"]


def test_candles_have_neither_key_nor_index(rows: Callable[[str], list[dict[str, Any]]]) -> None:
    """A key would cost four times the room; adding one for tidiness is the tempting mistake."""
    kinds = "SELECT DISTINCT constraint_type AS kind FROM duckdb_constraints() WHERE table_name = 'candles'"
    assert rows(kinds) == [{"kind": "NOT NULL"}]
    assert rows("SELECT * FROM duckdb_indexes() WHERE table_name = 'candles'") == []


def test_every_table_and_column_says_what_it_holds(rows: Callable[[str], list[dict[str, Any]]]) -> None:
    """The archive documents itself, so a table without comments is unfinished."""
    assert rows("SELECT table_name FROM duckdb_tables() WHERE comment IS NULL") == []
    bare = """SELECT table_name, column_name FROM duckdb_columns() JOIN duckdb_tables() USING (table_name)
    WHERE duckdb_columns.comment IS NULL"""
    assert rows(bare) == []


def test_times_say_their_zone(rows: Callable[[str], list[dict[str, Any]]]) -> None:
    """Whoever reads a time has to know that it is UTC."""
    found = rows("SELECT comment FROM duckdb_columns() WHERE data_type = 'TIMESTAMP WITH TIME ZONE' AND NOT internal")
    assert len(found) >= 8
    assert [column for column in found if "UTC" not in column["comment"]] == []


@pytest.mark.parametrize("status", ["complete", "empty_proven", "partial", "refused", "failed"])
def test_the_states_are_a_closed_set(warehouse: Warehouse, status: str) -> None:
    """The five states can be stored; the same word in another spelling cannot."""
    row = "INSERT INTO main.contract_status BY NAME SELECT 'N' AS underlying, DATE '2025-08-28' AS expiry, 'k' AS "
    row += "instrument_key, ? AS status, 1 AS requests, 0 AS candles, 0 AS quarantined, 0 AS duplicates, now() AS "
    row += "checked_at"
    with warehouse.writing() as connection:
        connection.execute(row, [status])
        with pytest.raises(duckdb.ConstraintException):
            connection.execute(row, [status.upper()])
