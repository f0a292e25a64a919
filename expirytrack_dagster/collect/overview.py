"""How much of what Upstox lists is in the archive: cells and contracts, counted by what is left to do.

Only cells that exist are counted, never the cross product of the grid. What is due next is `due.py`'s business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Sequence

    from expirytrack_dagster.collect.due import Cell

_COUNTED = ["cells", "complete", "begun", "not_begun", "waiting", "lost", "contracts", "final_contracts"]


@dataclass(frozen=True, slots=True)
class Overview:
    """The figures: `numbers` under stable names, and a row an underlying in `table`.

    Of the cells, `complete` need nothing more; `waiting` have contracts that Upstox could not give in full; `begun` and
    `not_begun` are due; `lost` were withdrawn from the list before they were complete.
    """

    numbers: dict[str, int | float]
    table: pd.DataFrame


def overview(cells: Sequence[Cell]) -> Overview:
    """Count the cells; the percentages are of the cells, and of the contracts of cells whose list is known."""
    rows = pd.DataFrame(
        [
            (
                cell.underlying,
                1,
                cell.sealed,
                cell.is_due and cell.contracts > 0,
                cell.is_due and cell.contracts == 0,
                cell.waits_for_the_api,
                not cell.sealed and not cell.listed,
                cell.contracts,
                cell.final,
            )
            for cell in cells
        ],
        columns=["underlying", *_COUNTED],
    ).astype(dict.fromkeys(_COUNTED, "int64"))
    table = rows.groupby("underlying", as_index=False).sum()
    total = rows[_COUNTED].sum()
    numbers: dict[str, int | float] = {name: int(total[name]) for name in _COUNTED}
    numbers["completeness_percent"] = _percent(numbers["complete"], numbers["cells"])
    numbers["contracts_percent"] = _percent(numbers["final_contracts"], numbers["contracts"])
    table["completeness_percent"] = [
        _percent(done, of) for done, of in zip(table["complete"], table["cells"], strict=True)
    ]
    return Overview(numbers, table)


def _percent(part: float, whole: float) -> float:
    return round(100 * part / whole, 2) if whole else 100.0
