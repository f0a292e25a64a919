"""What the I/O manager writes of a cell, and that a run which lost its cell to another host writes nothing."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

import dagster as dg
import pandas as pd
import pytest
from dagster_duckdb import DuckDBResource
from sqlalchemy import update

from expirytrack_dagster.collect.leases import LIFE, held, named
from expirytrack_dagster.io_managers import ArchiveIOManager, ListedContracts
from expirytrack_dagster.partitions import cell_key
from expirytrack_dagster.resources import WarehouseResource
from expirytrack_dagster.state import StateDatabase
from expirytrack_dagster.state.tables import leases
from expirytrack_dagster.upstox.clock import SystemClock
from expirytrack_dagster.warehouse import reader

if TYPE_CHECKING:
    from pathlib import Path

EXPIRY = date(2025, 8, 28)
LISTED = pd.DataFrame({"instrument_key": ["NSE_FO|1|28-08-2025"], "instrument_type": "CE", "strike_price": 1.5})


def test_contracts_are_written_only_under_their_lease(tmp_path: Path) -> None:
    """As long as it holds they are; once another host has taken it over, the list of that one stays."""
    archive = WarehouseResource(duckdb=DuckDBResource(database=str(tmp_path / "archive.duckdb")))
    manager = ArchiveIOManager(warehouse=archive)
    cell = cell_key("NIFTY", EXPIRY.isoformat())
    context = dg.build_output_context(
        asset_key=dg.AssetKey("contracts"),
        partition_key=cell,
        asset_partitions_def=dg.StaticPartitionsDefinition([cell]),
        run_id="run",
    )
    with (
        StateDatabase(tmp_path / "state.sqlite") as state,
        held(state, named(("NIFTY", EXPIRY)), "run", SystemClock()) as lease,
    ):
        manager.handle_output(context, ListedContracts(LISTED, lease))
        taken = update(leases).values(number=lease.number + 1, process="7 since 1 on trader-2~abc123", until=LIFE)
        state.write(lambda connection: connection.execute(taken))
        with pytest.raises(dg.Failure, match="taken over by another host"):
            manager.handle_output(context, ListedContracts(LISTED.assign(strike_price=2.5), lease))
    assert reader.contracts(archive.open(), "NIFTY", EXPIRY)["strike_price"].tolist() == [1.5]
