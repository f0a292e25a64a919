"""The contract list of a cell: options and futures, asked at once, or taken from the archive.

The list of an expired cell does not change, so it is asked once. What makes a list sound is `quality/contracts.py`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from expirytrack_dagster.quality.contracts import drop_exact_duplicates
from expirytrack_dagster.upstox.wire import Contract, contracts_frame

if TYPE_CHECKING:
    from datetime import date

    import pandas as pd

    from expirytrack_dagster.collect.tracking import Underlying


class ContractSource(Protocol):
    """The two calls of the API client that a contract list needs."""

    async def get_option_contracts(self, instrument_key: str, expiry_date: date) -> list[Contract]:
        """Return the calls and puts."""
        ...

    async def get_future_contracts(self, instrument_key: str, expiry_date: date) -> list[Contract]:
        """Return the futures; an empty list on a weekly expiry."""
        ...


@dataclass(frozen=True, slots=True)
class ContractList:
    """A cell's contracts with the columns of the table `contracts`; `listed` is False for a cell that never was."""

    frame: pd.DataFrame
    requests: int = 0
    duplicates: int = 0
    listed: bool = True


async def ask_contracts(source: ContractSource, underlying: Underlying, expiry: date) -> ContractList:
    """Ask for options and futures side by side; rows that the API repeats exactly are dropped and counted.

    The first error of the two ends the other and is raised as it is.
    """
    try:
        async with asyncio.TaskGroup() as group:
            options = group.create_task(source.get_option_contracts(underlying.instrument_key, expiry))
            futures = group.create_task(source.get_future_contracts(underlying.instrument_key, expiry))
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    found = [*options.result(), *futures.result()]
    frame, duplicates = drop_exact_duplicates(contracts_frame(found, underlying.symbol))
    return ContractList(frame, requests=2, duplicates=duplicates)


def from_archive(frame: pd.DataFrame) -> ContractList:
    """Wrap a list that the archive already holds; it costs no request."""
    return ContractList(frame)


def not_listed() -> ContractList:
    """Return the list of a cell that its exchange never listed; it costs no request."""
    return ContractList(contracts_frame([], ""), listed=False)
