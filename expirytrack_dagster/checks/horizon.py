"""The check `leaving_soon` on `coverage`: no expiry is about to leave Upstox's list with contracts missing.

What is about to leave is `collect/horizon.py`; people are told by the alert `horizon` (`observe/readings.py`).
"""

import dagster as dg
import pandas as pd

from expirytrack_dagster.checks.results import failing_table
from expirytrack_dagster.failures import readable_failures
from expirytrack_dagster.resources import UpstoxResource, WarehouseResource


@dg.asset_check(
    asset=dg.AssetKey("coverage"),
    description="No expiry may leave Upstox's list within EXPIRYTRACK_HORIZON_DAYS with contracts missing.",
)
def leaving_soon(upstox: UpstoxResource, warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """Look for incomplete cells near the end of the list."""
    from expirytrack_dagster.collect.due import about_to_leave
    from expirytrack_dagster.planning import outlook

    with readable_failures():
        look = outlook(upstox.settings(), warehouse.open(), upstox.ledger(), upstox.now())
    leaving = about_to_leave(look.cells, look.today, look.warning)
    metadata: dict[str, dg.MetadataValue | int] = {"cells_leaving_incomplete": len(leaving)}
    if leaving:
        rows = [(cell.underlying, str(cell.expiry), str(cell.on), cell.missing, cell.sentence) for cell in leaving]
        columns = ["underlying", "expiry", "leaves_on", "missing_contracts", "what_to_do"]
        metadata["leaving"] = failing_table(pd.DataFrame(rows, columns=columns))
    return dg.AssetCheckResult(
        passed=not leaving,
        severity=dg.AssetCheckSeverity.WARN,
        description=leaving[0].sentence if leaving else "No incomplete expiry is about to leave Upstox's list.",
        metadata=metadata,
    )
