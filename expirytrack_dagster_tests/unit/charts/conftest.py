"""A copy of the archive that exports are tested with; deriving writes into it."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from expirytrack_dagster.warehouse.connection import Warehouse
from expirytrack_dagster_tests.unit.export.conftest import stocked

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["stocked", "warehouse"]


@pytest.fixture
def warehouse(stocked: Path, tmp_path: Path) -> Warehouse:
    """Give a copy of the archive."""
    copy = tmp_path / "archive.duckdb"
    shutil.copy(stocked, copy)
    return Warehouse(copy, lock_timeout=5.0)
