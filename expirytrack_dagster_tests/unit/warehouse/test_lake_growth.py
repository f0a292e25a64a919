"""A lake that an older version has made: its schema grows within it, in one transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from expirytrack_dagster.address import Address
from expirytrack_dagster.errors import StorageError
from expirytrack_dagster.warehouse import migrate, schema
from expirytrack_dagster.warehouse.connection import Warehouse
from expirytrack_dagster.warehouse.data_path import DataPath
from expirytrack_dagster.warehouse.stores import store_of
from expirytrack_dagster.warehouse.sums import table_sums

if TYPE_CHECKING:
    from pathlib import Path

    from expirytrack_dagster_tests.postgres import PostgresServer


def count(warehouse: Warehouse) -> int:
    """Return how many candles there are."""
    with warehouse.reading() as connection:
        return int((connection.execute("SELECT count(*) FROM candles").fetchone() or (0,))[0])


def test_an_older_schema_grows_within_the_lake(
    postgres_server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All steps or none, and the rows are those of a file that has grown the same way."""
    every = migrate.migrations()
    older = store_of(Address("ducklake:postgres", postgres_server.create("older")), data=DataPath(f"{tmp_path}/older/"))
    grown = {}
    for name, archive in (("lake", Warehouse(older)), ("file", Warehouse(tmp_path / "a.duckdb"))):
        with monkeypatch.context() as patch:
            known(patch, every[:1])
            with archive.writing() as connection:
                for statement in OLD:
                    connection.execute(statement)
        if name == "lake":
            with monkeypatch.context() as patch:
                broken = migrate.Migration(6, "broken", "CREATE TABLE new (a INTEGER); UPDATE candles SET nothing = 1;")
                known(patch, (*every, broken))
                with pytest.raises(StorageError, match="nothing was changed"):
                    count(archive)
            with monkeypatch.context() as patch:
                known(patch, every[:1])
                with archive.reading() as connection:
                    assert connection.execute("SELECT count(*), count(ts) FROM candles").fetchall() == [(300, 300)]
        assert count(archive) == 300
        with archive.reading() as connection:
            seal = connection.execute("SELECT candles, checksum, sealed_at IS NOT NULL FROM cell_seals").fetchone()
        timed = {"schema_version", "cell_seals"}  # when each was done
        grown[name] = seal, {table: found for table, found in table_sums(archive).items() if table not in timed}
    assert grown["lake"] == grown["file"]


OLD = (
    "INSERT INTO main.expiries VALUES ('NIFTY', '2025-08-28', 'x', '2025-09-01')",
    """
    INSERT INTO main.contracts BY NAME
    SELECT 'k' AS instrument_key, 'NIFTY' AS underlying, DATE '2025-08-28' AS expiry, 'CE' AS instrument_type
    """,
    """
    INSERT INTO main.candles
    SELECT 'NIFTY', '2025-08-28', 'k', to_timestamp(range * 60), 1, 1, 1, 1, 1, 1 FROM range(300)
    """,
    """
    INSERT INTO main.contract_status
    VALUES ('NIFTY', '2025-08-28', 'k', 'complete', 1, 300, 0, 0, NULL, NULL, NULL, NULL, '2025-09-01')
    """,
)


def known(patch: pytest.MonkeyPatch, steps: tuple[migrate.Migration, ...]) -> None:
    """Let this program be one that knows these steps."""
    for module in (migrate, schema):
        patch.setattr(module, "migrations", lambda: steps)
