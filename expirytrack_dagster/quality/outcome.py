"""The result of one in-asset check, in plain data.

Only the result's shape belongs here; what is checked is in `expiries`, `contracts` and `candles`, and how a result is
shown to people is the caller's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

MAX_SHOWN = 50


@dataclass(frozen=True)
class CheckOutcome:
    """What one check found.

    Attributes:
        name: the check's name.
        passed: nothing is wrong.
        fatal: the cell must not be written; otherwise a failed check is a warning.
        summary: one sentence that says what was found and what to do.
        counts: figures under stable names, for charts.
        failing: at most `MAX_SHOWN` of the failing rows, scalars only; empty when the check passed.
    """

    name: str
    passed: bool
    fatal: bool
    summary: str
    counts: dict[str, int | float]
    failing: pd.DataFrame


def shown(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the first `MAX_SHOWN` rows as plain Python scalars, with None for what is missing."""
    head = frame.head(MAX_SHOWN).reset_index(drop=True).astype(object)
    return head.where(head.notna(), None)


def plural(number: int, noun: str) -> str:
    """Return the number with its noun, such as `1 row` or `2,000 rows`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
