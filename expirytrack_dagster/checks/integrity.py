"""The check `archive_integrity` on `candles`: the stored cell proves itself, without a request.

It runs after every collection, and alone in the job `data_validation`. The questions are those of `expirytrack verify`;
that contracts are missing is the business of the check `completeness`, and only a warning here.
"""

import warnings
from datetime import date

import dagster as dg
import pandas as pd

from expirytrack_dagster.checks.results import failing_table
from expirytrack_dagster.failures import readable_failures
from expirytrack_dagster.partitions import cell_of, cells
from expirytrack_dagster.resources import WarehouseResource

with warnings.catch_warnings():
    # As in `specs.py`: the preview is what shows a check's result by cell.
    warnings.simplefilter("ignore", dg.PreviewWarning)

    @dg.asset_check(
        asset="candles",
        partitions_def=cells,
        description="States, counts, order, duplicates, checksum and sessions of the stored cell contradict nothing.",
    )
    def archive_integrity(context: dg.AssetCheckExecutionContext, warehouse: WarehouseResource) -> dg.AssetCheckResult:
        """Read the cell back and hold it against its books."""
        from expirytrack_dagster.verification import Severity, verify_cell

        underlying, day = cell_of(context.partition_key)
        with readable_failures():
            result = verify_cell(warehouse.open(), underlying, date.fromisoformat(day))
        contradicted = any(finding.severity is Severity.CONTRADICTION for finding in result.findings)
        metadata: dict[str, dg.MetadataValue | int | bool] = {
            "candles_read": result.totals.candles,
            "sealed": result.totals.sealed == 1,
        }
        if result.findings:
            lines = [(finding.severity, finding.found, finding.advice) for finding in result.findings]
            metadata["findings"] = failing_table(pd.DataFrame(lines, columns=["severity", "found", "what_to_do"]))
        return dg.AssetCheckResult(
            passed=not contradicted,
            severity=dg.AssetCheckSeverity.ERROR,
            description=result.summary,
            metadata=metadata,
        )
