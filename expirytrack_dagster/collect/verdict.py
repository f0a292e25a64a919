"""The judgement of a whole cell: what this run staged together with what the archive held before.

The rules are in `quality/`; here the evidence is brought together, and the one question is answered that no row can
answer: is every listed contract accounted for?
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from expirytrack_dagster.collect.cell import evidence_of
from expirytrack_dagster.collect.states import SEALED, State, status_frame
from expirytrack_dagster.quality.candles import candle_outcomes
from expirytrack_dagster.quality.continuity import assess_continuity, merge_minutes
from expirytrack_dagster.quality.outcome import MAX_SHOWN, CheckOutcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from expirytrack_dagster.collect.staging import Batch


@dataclass(frozen=True, slots=True)
class CellVerdict:
    """Check outcomes, the states to write, and numbers with stable names for the UI's charts.

    `unfit` is the reason for which the cell must not be written, if there is one; `sessions` are those of
    `quality.continuity.ContinuityReport`.
    """

    outcomes: list[CheckOutcome]
    unfit: CheckOutcome | None
    fresh_statuses: pd.DataFrame
    numbers: dict[str, int | float]
    sessions: pd.DataFrame


def judge_cell(
    *,
    listed: Sequence[str],
    batches: Sequence[Batch],
    archived: pd.DataFrame,
    archived_bad: pd.DataFrame,
    archived_minutes: pd.DataFrame,
    threshold: float,
) -> CellVerdict:
    """Judge a cell before anything is written.

    Args:
        listed: instrument keys of the contract list.
        batches: what is staged for the cell.
        archived: `contract_status` rows of contracts that are not staged again.
        archived_bad: their rows in quarantine.
        archived_minutes: their minutes (ts, contracts, traded).
        threshold: share of bad rows above which the cell must not be written.
    """
    evidence = evidence_of(batches)
    fresh = status_frame([status for batch in batches for status in batch.statuses])
    statuses = pd.concat([archived, fresh], ignore_index=True) if len(archived) else fresh
    continuity = assess_continuity(merge_minutes([evidence.minutes, archived_minutes]))
    counts = statuses[["received", "candles", "quarantined", "duplicates", "discarded"]].sum()
    received = int(counts["received"])
    bad = [frame for frame in (evidence.bad, archived_bad) if len(frame)]
    outcomes = candle_outcomes(
        pd.concat(bad, ignore_index=True) if bad else evidence.bad,
        received=received,
        exact_duplicates=int(counts["duplicates"]),
        continuity=continuity,
        threshold=threshold,
    )
    completeness = check_completeness(listed, statuses)
    numbers = {
        "dagster/partition_row_count": int(counts["candles"]),
        **completeness.counts,
        "rows_received": received,
        "quarantined": int(counts["quarantined"]),
        "exact_duplicates": int(counts["duplicates"]),
        "discarded_in_review": int(counts["discarded"]),
        "sessions": len(continuity.sessions),
        "rows_outside_sessions": int(continuity.outside["contracts"].sum()),
        "minutes_missing_across_chain": len(continuity.missing),
        **_proofs(statuses),
    }
    unfit = next((outcome for outcome in outcomes if outcome.fatal and not outcome.passed), None)
    return CellVerdict([*outcomes, completeness], unfit, fresh, numbers, continuity.sessions)


def _proofs(statuses: pd.DataFrame) -> dict[str, int | float]:
    """Count the contracts whose minutes, or lack of them, were compared with daily candles, and the share that agreed.

    The share of none is left out: a chart of it must not show a zero that nobody measured.
    """
    compared = statuses["agrees"].dropna()
    proofs: dict[str, int | float] = {"compared_with_days": len(compared)}
    if len(compared):
        proofs["agreed_with_days_percent"] = round(100 * float(compared.astype("bool").mean()), 2)
    return proofs


def check_completeness(listed: Sequence[str], statuses: pd.DataFrame) -> CheckOutcome:
    """Say whether listed = complete + proven empty, and name the contracts that are neither.

    `statuses` has the columns of `contract_status`; only its rows of listed contracts count.
    """
    own = statuses[statuses["instrument_key"].isin(list(listed))]
    by_state = own["status"].value_counts()
    states = {str(state): int(by_state.get(str(state), 0)) for state in State}
    final = sum(states[str(state)] for state in SEALED)
    counts: dict[str, int | float] = {
        "completeness_percent": round(100 * final / len(listed), 2) if listed else 100.0,
        "contracts": len(listed),
        **states,
        "unasked": len(listed) - len(own),
    }
    unfinished = own.loc[
        ~own["status"].isin([str(state) for state in SEALED]), ["instrument_key", "status", "error_code", "message"]
    ]
    missing = len(listed) - final
    if not listed:
        summary = "The API lists no contract in this cell: there is nothing to collect."
    elif missing:
        summary = (
            f"{missing} of {len(listed)} contracts are not complete yet: collect the cell again, "
            "only these are asked. Their states and reasons are in the table."
        )
    else:
        summary = (
            f"All {len(listed)} listed contracts are accounted for: {counts['complete']} complete, "
            f"{counts['empty_proven']} proven empty."
        )
    return CheckOutcome(
        name="completeness",
        passed=missing == 0,
        fatal=True,
        summary=summary,
        counts=counts,
        failing=unfinished.head(MAX_SHOWN),
    )
