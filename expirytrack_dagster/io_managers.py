"""How assets are written to and read from the archive: one transaction an asset and partition.

The stock DuckDB I/O manager cannot be used: it crashes on a dynamic dimension, deletes and inserts in two
transactions, inserts by position, and takes its types from the first frame. The SQL is in `warehouse/`; here is only
which writer takes which asset.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

import dagster as dg

from expirytrack_dagster.partitions import cell_of
from expirytrack_dagster.resources import WarehouseResource

if TYPE_CHECKING:
    import pandas as pd

    from expirytrack_dagster.collect.staging import Batch, CellStaging


@dataclass(frozen=True, slots=True)
class StagedCandles:
    """What the asset `candles` hands over: files, not rows; `statuses` as columns of `contract_status`."""

    batches: list[Batch]
    statuses: pd.DataFrame
    staging: CellStaging


class ArchiveIOManager(dg.ConfigurableIOManager):
    """Writes `expiries`, `contracts` and `candles` to DuckDB and reads `contracts` back."""

    warehouse: WarehouseResource

    def handle_output(self, context: dg.OutputContext, obj: pd.DataFrame | StagedCandles) -> None:
        """Replace the partition's rows; a failure leaves the old ones."""
        from expirytrack_dagster.warehouse import cells

        warehouse = self.warehouse.open()
        table = context.asset_key.path[-1]
        if isinstance(obj, StagedCandles):
            underlying, expiry = cell_of(context.asset_partition_key)
            files = [batch.path for batch in obj.batches]
            cells.write_candles(
                warehouse, underlying, date.fromisoformat(expiry), files, obj.statuses, run_id=context.run_id
            )
            obj.staging.clear()
        elif table == "contracts":
            underlying, expiry = cell_of(context.asset_partition_key)
            cells.write_contracts(warehouse, underlying, date.fromisoformat(expiry), obj)
        else:
            cells.write_expiries(warehouse, context.asset_partition_key, obj)

    def load_input(self, context: dg.InputContext) -> pd.DataFrame:
        """Return the contracts of the cell, in the order of their keys."""
        from expirytrack_dagster.warehouse import reader

        underlying, expiry = cell_of(context.asset_partition_key)
        return reader.contracts(self.warehouse.open(), underlying, date.fromisoformat(expiry))
