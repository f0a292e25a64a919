"""The asset `parquet_archive`: a collected cell as Parquet files, for programs that should not open the database."""

import time
from datetime import date

import dagster as dg

from expirytrack_dagster.assets.candles import candles
from expirytrack_dagster.assets.common import OWNERS, documents
from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.failures import readable_failures
from expirytrack_dagster.partitions import cell_of, cells
from expirytrack_dagster.resources import UpstoxResource, WarehouseResource


@dg.asset(
    partitions_def=cells,
    deps=[candles],
    backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=1),
    group_name="archive",
    kinds={"parquet"},
    owners=OWNERS,
    metadata=documents("exports"),
    description="The cell's candles and contracts as Parquet files with a manifest, in parquet_archive/SYMBOL/EXPIRY "
    "below the home; a new materialization replaces them as a whole. They are plain files, so there are none where "
    "the archive is encrypted. No request.",
)
def parquet_archive(
    context: dg.AssetExecutionContext, upstox: UpstoxResource, warehouse: WarehouseResource
) -> dg.MaterializeResult[None]:
    """Write the cell's files in the place of the old ones; a cell without a candle has files without a row."""
    from expirytrack_dagster.export.exporting import export_cell

    started = time.monotonic()
    symbol, day = cell_of(context.partition_key)
    with readable_failures():
        settings = upstox.settings()
        if settings.encryption:
            raise ConfigurationError(
                "EXPIRYTRACK_ENCRYPTION is on, and parquet_archive would lie in the home unencrypted: use 'expirytrack "
                "export' with a place of your choice."
            )
        target = settings.home / "parquet_archive" / symbol / day
        made = export_cell(settings, warehouse.open(), target, symbol, date.fromisoformat(day))
    return dg.MaterializeResult(
        data_version=dg.DataVersion(made.manifest.cells[0]["version"]),
        metadata={
            "dagster/partition_row_count": made.bars,
            "complete": not made.incomplete,
            "bytes": sum(file.bytes for file in made.manifest.files),
            "folder": dg.MetadataValue.path(target),
            "manifest": dg.MetadataValue.json(
                [{"path": file.path, "sha256": file.sha256} for file in made.manifest.files]
            ),
            "seconds": round(time.monotonic() - started, 3),
        },
    )
