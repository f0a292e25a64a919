"""The asset `archive_maintenance`: compaction, snapshot expiry and orphan clean-up of a lake.

It has no rows of its own. Of an archive in one file there is nothing to do, and that is what it says.
"""

import dagster as dg

from expirytrack_dagster.assets.common import OWNERS, documents
from expirytrack_dagster.failures import readable_failures
from expirytrack_dagster.resources import WarehouseResource


@dg.asset(
    group_name="overview",
    kinds={"duckdb"},
    owners=OWNERS,
    metadata=documents("automation"),
    description="Compacts a lake: merges small files, expires snapshots older than snapshot_days, deletes orphaned "
    "files. An archive in one file needs none of this.",
)
def archive_maintenance(warehouse: WarehouseResource) -> dg.MaterializeResult[None]:
    """Do it, and report how much it was."""
    from dataclasses import asdict
    from datetime import timedelta

    from expirytrack_dagster.settings import load_settings
    from expirytrack_dagster.warehouse.maintenance import maintain

    settings = load_settings()
    if not settings.address.is_lake:
        return dg.MaterializeResult(metadata={"done": f"Nothing: {settings.address.place} is one file, and no lake."})
    with readable_failures():
        done = maintain(warehouse.open(), timedelta(days=settings.snapshot_days))
    return dg.MaterializeResult(metadata=asdict(done))
