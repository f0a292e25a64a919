"""The coverage of a whole cell: what this run staged together with what the archive held before.

What is counted, and what a minute without a trade means, is in `quality/coverage`; here the staged files are read once
more, one at a time, because the sessions are known only when every minute has been seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from expirytrack_dagster.collect.staging import rows_of
from expirytrack_dagster.quality.coverage import Coverage, assess_coverage, count_trades

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from expirytrack_dagster.collect.staging import Batch


def coverage_of(
    contracts: pd.DataFrame, batches: Sequence[Batch], archived: pd.DataFrame, sessions: pd.DataFrame
) -> Coverage:
    """Say what became of each contract's minutes.

    Args:
        contracts: the cell's list.
        batches: what is staged for the cell.
        archived: trades of the contracts that are not staged again: instrument_key, day, traded, outside.
        sessions: of the whole cell, as in a `ContinuityReport`.
    """
    staged = [
        count_trades(rows[rows["rule"].isna()], sessions)
        for rows in rows_of(batches, ["instrument_key", "ts", "volume", "rule"])
    ]
    return assess_coverage(contracts, [*staged, archived], sessions)
