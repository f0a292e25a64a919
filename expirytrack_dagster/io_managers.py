"""How assets are written to and read from the archive: one transaction an asset and partition.

The stock DuckDB I/O manager cannot be used: it crashes on a dynamic dimension, deletes and inserts in two
transactions, inserts by position, and takes its types from the first frame. The SQL is in `warehouse/`; here is only
which writer takes which asset.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

import dagster as dg

from expirytrack_dagster.failures import readable_failures
from expirytrack_dagster.partitions import cell_of
from expirytrack_dagster.resources import WarehouseResource

if TYPE_CHECKING:
    import pandas as pd

    from expirytrack_dagster.collect.leases import Lease
    from expirytrack_dagster.collect.staging import Batch, CellStaging
    from expirytrack_dagster.warehouse.connection import Warehouse
    from expirytrack_dagster.warehouse.versions import Change


@dataclass(frozen=True, slots=True)
class ListedContracts:
    """What the asset `contracts` hands over: columns of `contracts`, to be written only as long as `lease` holds."""

    frame: pd.DataFrame
    lease: Lease


@dataclass(frozen=True, slots=True)
class StagedCandles:
    """What the asset `candles` hands over: files, not rows; `statuses` as columns of `contract_status`.

    `started` is the reading of the monotonic clock at which the cell's work began. They may be written only as long as
    `lease` holds. Whoever takes the files over must call `let_go`, whereupon nobody is told of the cell's progress.
    """

    batches: list[Batch]
    statuses: pd.DataFrame
    staging: CellStaging
    started: float
    lease: Lease
    let_go: Callable[[], None]


class ArchiveIOManager(dg.ConfigurableIOManager):
    """Writes `expiries`, `contracts` and `candles` to DuckDB and reads `contracts` back."""

    warehouse: WarehouseResource

    def handle_output(self, context: dg.OutputContext, obj: pd.DataFrame | ListedContracts | StagedCandles) -> None:
        """Replace the partition's rows; a failure leaves the old ones."""
        with readable_failures():
            self._write(context, obj)

    def load_input(self, context: dg.InputContext) -> pd.DataFrame:
        """Return the contracts of the cell, in the order of their keys."""
        from expirytrack_dagster.warehouse import reader

        underlying, expiry = cell_of(context.asset_partition_key)
        with readable_failures():
            return reader.contracts(self.warehouse.open(), underlying, date.fromisoformat(expiry))

    def _write(self, context: dg.OutputContext, obj: pd.DataFrame | ListedContracts | StagedCandles) -> None:
        from expirytrack_dagster.warehouse import cells
        from expirytrack_dagster.warehouse.published import publish

        warehouse, partition = self.warehouse.open(), context.asset_partition_key
        if isinstance(obj, StagedCandles):
            underlying, day = cell_of(partition)
            files = [batch.path for batch in obj.batches]
            run_id = context.run_id
            try:
                written = cells.write_candles(
                    warehouse,
                    underlying,
                    date.fromisoformat(day),
                    files,
                    obj.statuses,
                    run_id=run_id,
                    key=obj.staging.key,
                    at_last=obj.lease.confirm,
                )
                obj.staging.clear()
                _count_cell(len(obj.statuses), time.monotonic() - obj.started)
            finally:
                obj.let_go()
            tell_candles(context, warehouse, underlying, date.fromisoformat(day), written.change)
        elif isinstance(obj, ListedContracts):
            underlying, day = cell_of(partition)
            cells.write_contracts(
                warehouse, underlying, date.fromisoformat(day), obj.frame, context.run_id, at_last=obj.lease.confirm
            )
            publish(warehouse, underlying, date.fromisoformat(day))
        else:
            cells.write_expiries(warehouse, partition, obj, context.run_id)
            publish(warehouse, partition)


def _count_cell(contracts: int, seconds: float) -> None:
    from expirytrack_dagster.observe.metrics import metrics

    metrics().cell_seconds.observe(seconds)
    if contracts and seconds:
        metrics().contracts_per_hour.observe(contracts * 3600 / seconds)


def tell_candles(
    context: dg.OutputContext, warehouse: Warehouse, underlying: str, expiry: date, counted: Change | None
) -> None:
    """Publish a cell, make the hash of its content the asset's data version, and tell what that changed."""
    from expirytrack_dagster.warehouse.published import publish_candles

    version, change = publish_candles(warehouse, underlying, expiry, counted)
    # The version is known only now that the rows are stored, so it cannot be given with the output.
    context.step_context.set_data_version(context.asset_key, dg.DataVersion(version or "none"))
    context.add_output_metadata(
        {
            "candles_added": change.added if change else 0,
            "candles_removed": change.removed if change else 0,
            "candles_changed": change.changed if change else 0,
            **({"previous_version": change.previous} if change and change.previous else {}),
        }
    )
