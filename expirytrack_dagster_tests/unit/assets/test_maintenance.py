"""The asset that keeps a lake small: what `expirytrack maintain` does, told as metadata."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

import pandas as pd

from expirytrack_dagster.definitions import build_defs
from expirytrack_dagster.settings import load_settings
from expirytrack_dagster.warehouse.cells import write_contracts
from expirytrack_dagster.warehouse.connection import open_warehouse

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def told() -> dict[str, object]:
    """Materialize it and return its metadata."""
    result = build_defs().resolve_job_def("maintenance").execute_in_process()
    (event,) = result.asset_materializations_for_node("archive_maintenance")
    return {name: entry.value for name, entry in event.metadata.items()}


def test_a_lake_is_compacted(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that lie in the catalogue are written out; done again, there is nothing to do."""
    monkeypatch.setenv("EXPIRYTRACK_WAREHOUSE", f"ducklake:sqlite:{home}/lake.sqlite")
    listed = pd.DataFrame({"instrument_key": ["a", "b"], "instrument_type": "CE"})
    write_contracts(open_warehouse(load_settings()), "NIFTY", date(2025, 8, 28), listed)
    assert int(str(told()["rows_written_out"])) >= 2
    again = told()
    assert (again["rows_written_out"], again["files_before"]) == (0, again["files_after"])


def test_a_file_needs_none_of_it(home: Path) -> None:
    """And says so instead of failing every night."""
    assert told() == {"done": f"Nothing: {home}/expirytrack.duckdb is one file, and no lake."}
