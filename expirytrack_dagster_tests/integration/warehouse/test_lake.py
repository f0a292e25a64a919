"""Several processes write to a lake and read from it at once, with a real PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from expirytrack_dagster.address import Address
from expirytrack_dagster.warehouse.connection import Warehouse
from expirytrack_dagster.warehouse.data_path import DataPath
from expirytrack_dagster.warehouse.stores import store_of
from expirytrack_dagster_tests.soak import prepare, prove, soak

if TYPE_CHECKING:
    from pathlib import Path


def test_every_cell_is_exact_and_no_reader_sees_half_of_one(postgres: str, tmp_path: Path) -> None:
    """Cells of their own and cells that all write: every look is a whole version, and the last one stays."""
    address, data = Address("ducklake:postgres", postgres), DataPath(f"{tmp_path}/lake/")
    warehouse = Warehouse(store_of(address, data=data))
    prepare(warehouse)
    environment = {
        "EXPIRYTRACK_HOME": str(tmp_path),
        "EXPIRYTRACK_WAREHOUSE": str(address),
        "EXPIRYTRACK_DATA_PATH": data.place,
    }
    found = soak(environment, writers=3, readers=2, seconds=4.0)
    assert prove(found, warehouse, tmp_path / "staging") == []
    assert len({cell for cell, *_ in found.writes}) > 3
    assert [look for look in found.looks if look[1]]
