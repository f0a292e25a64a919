"""Which contracts of a cell are asked, in which order, and which of them twice: minutes, and daily candles as proof.

The collector asks these questions and the planner counts them, so that the two cannot drift apart. Asking is
`cell.py`'s business, counting `plan.py`'s, what the answers prove `proof.py`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from expirytrack_dagster.collect.proof import to_reconcile
from expirytrack_dagster.collect.states import SEALED, ContractStatus, State

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import pandas as pd

UNPROVEN = "UNPROVEN"
"""Marks a staged contract whose minutes are known to be empty and whose proof is still to be asked; never archived."""


@dataclass(frozen=True, slots=True)
class Questions:
    """What is asked about a cell.

    `keys` are the contracts to ask for minutes, the most useful first; `compared` those whose minutes are held against
    daily candles (final ones too); `kept` the states of an earlier run that are staged and stand.
    """

    keys: list[str]
    compared: set[str]
    kept: dict[str, ContractStatus]

    @property
    def requests(self) -> int:
        """Requests when every answer is whole and every contract traded; proofs that are outstanding are counted."""
        proofs = sum(status.error_code == UNPROVEN for status in self.kept.values())
        return len(self.keys) + len(self.compared.intersection(self.keys)) + proofs


def questions(
    contracts: pd.DataFrame,
    *,
    final: Collection[str],
    partial: Collection[str],
    staged: Sequence[ContractStatus],
    share: float,
) -> Questions:
    """Choose what to ask about a cell.

    Args:
        contracts: the cell's list: `instrument_key`, `strike_price` (missing for futures).
        final: contracts of the archive that are never asked again.
        partial: contracts of the archive that were found partial: their daily candles are asked too.
        staged: what an earlier run has staged and not stored.
        share: of all contracts, 0 to 1, that are compared beyond need.
    """
    kept = {s.instrument_key: s for s in staged if s.status in SEALED or s.error_code == UNPROVEN}
    doubtful = {*partial, *(s.instrument_key for s in staged if s.status == State.PARTIAL)}
    return Questions(
        keys=[key for key in asking_order(contracts) if key not in final and key not in kept],
        compared=to_reconcile(contracts, share) | doubtful,
        kept=kept,
    )


def asking_order(contracts: pd.DataFrame) -> list[str]:
    """Return the keys, the most useful first: the future, then options from the middle strike outwards.

    A run that is stopped early leaves the strikes that traded most, not all strikes of one side.
    """
    middle = contracts["strike_price"].median()
    distance = (contracts["strike_price"] - middle).abs().fillna(-1.0)
    return [str(key) for key in contracts.loc[distance.sort_values(kind="stable").index, "instrument_key"]]
