"""The closed set of states in which a listed contract can be.

Every contract that the API lists is in exactly one of them, so that listed = sum of the states; an HTTP error never
counts as "no data" (`docs/decisions/`). Only the states and the record of one contract belong here; how a contract
reaches a state is in `contract.py`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Sequence


class State(StrEnum):
    """What is known of a contract's minutes."""

    COMPLETE = "complete"
    EMPTY_PROVEN = "empty_proven"
    PARTIAL = "partial"
    REFUSED = "refused"
    FAILED = "failed"


SEALED = frozenset({State.COMPLETE, State.EMPTY_PROVEN})
"""States that are final: such a contract is never asked again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContractStatus:
    """One row of `contract_status`; times are UTC, counts are rows.

    `received` is counted where the rows arrive, and must be `candles + quarantined + duplicates + discarded`; only a
    review of the quarantine discards rows. `agrees` says whether daily candles tell the same as the minutes (or as
    their absence), None where they were not compared.
    """

    instrument_key: str
    status: State
    checked_at: datetime
    requests: int = 0
    received: int = 0
    candles: int = 0
    quarantined: int = 0
    duplicates: int = 0
    discarded: int = 0
    first_ts: datetime | None = None
    last_ts: datetime | None = None
    error_code: str | None = None
    message: str | None = None
    agrees: bool | None = None


_TIMES = ("first_ts", "last_ts", "checked_at")


def status_frame(statuses: Sequence[ContractStatus]) -> pd.DataFrame:
    """Lay statuses out as the columns of `contract_status`; times are datetime64[us, UTC], absent ones NaT."""
    frame = pd.DataFrame([asdict(status) for status in statuses], columns=list(ContractStatus.__slots__))
    for column in _TIMES:
        frame[column] = pd.to_datetime(frame[column], utc=True).astype("datetime64[us, UTC]")
    for column in ("requests", "received", "candles", "quarantined", "duplicates", "discarded"):
        frame[column] = frame[column].astype("int64")
    for column in ("instrument_key", "status", "error_code", "message"):
        frame[column] = frame[column].astype("str")
    return frame.astype({"agrees": "boolean"})
