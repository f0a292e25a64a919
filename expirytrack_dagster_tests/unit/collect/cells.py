"""A chain over a source, for the tests of a cell: collected as often as a test likes, and what came out of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow.parquet as pq

from expirytrack_dagster.collect.cell import CellRequest, collect_cell
from expirytrack_dagster.collect.contract import DAYS
from expirytrack_dagster.collect.windows import Windows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from expirytrack_dagster.collect.contract import Answer
    from expirytrack_dagster.collect.staging import Batch, CellStaging
    from expirytrack_dagster.collect.states import ContractStatus
    from expirytrack_dagster.state import StateDatabase
    from expirytrack_dagster_tests.unit.collect.conftest import Source

EXPIRY = date(2025, 8, 28)
NOW = datetime(2025, 9, 1, 12, tzinfo=UTC)
MINUTES = 5


@dataclass
class Followed:
    """Remembers what was told of the progress."""

    told: list[tuple[str, Any]] = field(default_factory=list)

    def begin(self, label: str, total: int) -> None:
        """Remember the beginning."""
        self.told.append((label, total))

    def advance(self, answer: Answer) -> None:
        """Remember the contract."""
        self.told.append(("advance", answer.instrument_key))

    def end(self) -> None:
        """Remember the end."""
        self.told.append(("end", None))


def keys_of(size: int) -> list[str]:
    """Return the keys of a chain of this size."""
    return [f"NSE_FO|{35_000 + number}|28-08-2025" for number in range(size)]


@dataclass
class Cell:
    """A chain over a source, collected into one folder as often as a test likes."""

    source: Source
    state: StateDatabase
    staging: CellStaging
    size: int = 6
    share: float = 0.0
    followed: Followed = field(default_factory=Followed)

    def __post_init__(self) -> None:
        """Let every contract have traded on its last day."""
        self.keys = keys_of(self.size)
        self.source.minutes = MINUTES
        self.source.days = {key: [EXPIRY] for key in self.keys}
        self.contracts = pd.DataFrame(
            {
                "instrument_key": self.keys,
                "instrument_type": "CE",
                "strike_price": [24_000.0 + 50 * number for number in range(self.size)],
            }
        )

    def collect(
        self,
        *,
        sealed: Sequence[str] = (),
        traded: Sequence[str] = (),
        partial: Sequence[str] = (),
        odd: Sequence[str] = (),
        oldest: date | None = None,
        workers: int = 1,
        batch_rows: int = 100_000,
    ) -> list[Batch]:
        """Run once."""
        request = CellRequest(
            label="NIFTY 2025-08-28",
            contracts=self.contracts,
            expiry=EXPIRY,
            sealed=sealed,
            traded=traded,
            partial=partial,
            odd=odd,
            oldest=oldest,
            proof_share=self.share,
            minutes=Windows(self.state, 1830),
            days=Windows(self.state, 1830, DAYS),
            workers=workers,
            batch_rows=batch_rows,
        )
        return asyncio.run(collect_cell(self.source, request, self.staging, self.followed, now=lambda: NOW))

    def minutes_asked(self) -> int:
        """Return the number of requests for minutes since the last call of `asked`."""
        return sum(interval == "1minute" for _, interval, *_ in self.source.asked)

    def asked(self, interval: str | None = None) -> list[str]:
        """Return the contracts asked since the last call, for an interval or for any, in order, each once."""
        keys = list(dict.fromkeys(key for key, kind, *_ in self.source.asked if interval in {None, kind}))
        self.source.asked.clear()
        return keys


def states(batches: Sequence[Batch]) -> dict[str, ContractStatus]:
    """Return the staged states by contract; each contract must have one."""
    found = [status for batch in batches for status in batch.statuses]
    assert len({status.instrument_key for status in found}) == len(found)
    return {status.instrument_key: status for status in found}


def staged_rows(batches: Sequence[Batch]) -> dict[str, int]:
    """Return the number of staged rows by contract."""
    columns = [pq.read_table(batch.path, columns=["instrument_key"]).to_pandas() for batch in batches]
    return pd.concat(columns)["instrument_key"].value_counts().to_dict() if columns else {}
