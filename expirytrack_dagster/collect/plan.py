"""What it costs to collect what is missing, before anything is asked: requests, rows, bytes, and when it is done.

The questions are the collector's own (`questions.py`), the times the limiter's own (`upstox/forecast.py`). What nobody
can know before asking - how many contracts a cell lists, which of them never traded, how long they lived - is taken
from cells that were collected, of the same underlying where there are any; each figure says what it rests on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING

import pandas as pd

from expirytrack_dagster.collect.proof import AT_THE_MONEY
from expirytrack_dagster.ist import IST

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import date

    from expirytrack_dagster.collect.due import Cell
    from expirytrack_dagster.collect.questions import Questions
    from expirytrack_dagster.upstox.forecast import Forecast

LIST_REQUESTS = 2
"""A contract list is two requests: options and futures."""

GUESSED_CONTRACTS = 200
GUESSED_ROWS = 3000
"""Of a cell when none at all was collected yet: contracts, and candles of each. A recorded index chain has 194
contracts; weekly options that trade half of the minutes of their last weeks have some thousand candles."""

BYTES_A_ROW = 62
"""Of the API's JSON, decompressed; replaced by what was received as soon as anything was."""


class Basis(StrEnum):
    """What a planned figure rests on, the surest first."""

    KNOWN = "known"
    ESTIMATED = "estimated"
    GUESSED = "guessed"


@dataclass(frozen=True, slots=True)
class Experience:
    """What collected cells cost, summed up: cells, contracts, requests for candles, candles received."""

    cells: int = 0
    contracts: int = 0
    requests: int = 0
    rows: int = 0

    def __add__(self, other: Experience) -> Experience:
        """Join the experience with two underlyings."""
        return Experience(
            self.cells + other.cells,
            self.contracts + other.contracts,
            self.requests + other.requests,
            self.rows + other.rows,
        )

    @property
    def contracts_a_cell(self) -> float:
        """Contracts that a cell lists."""
        return self.contracts / self.cells if self.cells else GUESSED_CONTRACTS

    @property
    def rows_a_contract(self) -> float:
        """Candles of a contract."""
        return self.rows / self.contracts if self.contracts else GUESSED_ROWS

    @property
    def basis(self) -> Basis:
        """What a figure rests on that is taken from here."""
        return Basis.ESTIMATED if self.contracts else Basis.GUESSED

    def unforeseen(self, share: float) -> float:
        """Return the requests a contract beyond those that are known before: proofs, narrow windows, retries."""
        if not self.contracts:
            return 0.0
        foreseen = self.contracts + self.cells * compared(self.contracts_a_cell, share)
        return max(0.0, (self.requests - foreseen) / self.contracts)


@dataclass(frozen=True, slots=True)
class CellPlan:
    """What one cell will cost: `requests` include those for its list. `finish` is UTC, None until it is scheduled."""

    underlying: str
    expiry: date
    leaves: date | None
    contracts: int
    requests: int
    rows: int
    bytes: int
    basis: Basis
    finish: datetime | None = None

    @property
    def in_time(self) -> bool:
        """It is complete before the API may withdraw it."""
        return self.leaves is None or self.finish is None or self.finish.date() < self.leaves


@dataclass(frozen=True, slots=True)
class Plan:
    """The cells that are missing in the order in which they are collected, against the clock.

    `until_token_dies` is how many requests can leave before `token_dies`; all times are UTC.
    """

    cells: tuple[CellPlan, ...]
    made: datetime
    token_dies: datetime
    until_token_dies: int

    @property
    def requests(self) -> int:
        """Requests of all cells."""
        return sum(cell.requests for cell in self.cells)

    @property
    def finish(self) -> datetime:
        """When the last request of all can leave."""
        return max((cell.finish for cell in self.cells if cell.finish), default=self.made)

    @property
    def tonight(self) -> list[CellPlan]:
        """Cells that are complete before the token dies."""
        return [cell for cell in self.cells if cell.finish and cell.finish < self.token_dies]

    @property
    def late(self) -> list[CellPlan]:
        """Cells that may leave the list before they are complete."""
        return [cell for cell in self.cells if not cell.in_time]


def compared(contracts: float, share: float) -> float:
    """Return how many contracts of a cell of this size are compared with daily candles."""
    around = 2 * (2 * AT_THE_MONEY + 1) + 1
    return min(contracts, around + share * contracts)


def of_questions(asked: Questions, experience: Experience, share: float) -> int:
    """Return the requests for candles that these questions will cost."""
    return asked.requests + round(len(asked.keys) * experience.unforeseen(share))


def of_cell(
    cell: Cell, asked: Questions | None, experience: Experience, *, share: float, bytes_a_row: float
) -> CellPlan:
    """Plan one cell.

    Args:
        cell: as it stands.
        asked: the collector's questions; None where its list is not known, or was not looked at.
        experience: with cells of the same underlying, or with all where there are none.
        share: of all contracts that are compared beyond need, as in the settings.
        bytes_a_row: size of a candle on its way.
    """
    if asked is None:
        contracts = cell.contracts - cell.final if cell.contracts else round(experience.contracts_a_cell)
        each = 1 + experience.unforeseen(share)
        requests, basis = round(contracts * each + compared(contracts, share)), experience.basis
        requests += 0 if cell.contracts else LIST_REQUESTS
        rows = contracts * experience.rows_a_contract
    else:
        contracts, requests = len(asked.keys), of_questions(asked, experience, share)
        rows = contracts * experience.rows_a_contract
        basis = Basis.KNOWN if experience.contracts or not asked.keys else Basis.ESTIMATED
    return CellPlan(
        cell.underlying,
        cell.expiry,
        cell.leaves,
        contracts,
        requests,
        round(rows),
        round(rows * bytes_a_row),
        basis,
    )


def scheduled(cells: Iterable[CellPlan], forecast: Forecast, made: datetime, token_dies: datetime) -> Plan:
    """Say when each cell is complete, when they are collected one after another in this order from now on."""
    spent, timed = 0, []
    for cell in cells:
        spent += cell.requests
        timed.append(replace(cell, finish=datetime.fromtimestamp(forecast.finish(spent), UTC)))
    return Plan(tuple(timed), made, token_dies, forecast.until(token_dies.timestamp()))


def numbers(plan: Plan) -> dict[str, int]:
    """Return the plan's figures under stable names."""
    return {
        "cells": len(plan.cells),
        "requests": plan.requests,
        "rows": sum(cell.rows for cell in plan.cells),
        "bytes": sum(cell.bytes for cell in plan.cells),
        "requests_until_token_dies": plan.until_token_dies,
        "cells_before_token_dies": len(plan.tonight),
        "cells_too_late": len(plan.late),
    }


def table(plan: Plan) -> pd.DataFrame:
    """Return the plan as a table, one row a cell in the order of the work; times are ISO text in UTC."""
    columns = ["underlying", "expiry", "contracts", "requests", "rows", "bytes", "basis", "finish", "tonight", "leaves"]
    rows = [
        (
            cell.underlying,
            cell.expiry.isoformat(),
            cell.contracts,
            cell.requests,
            cell.rows,
            cell.bytes,
            str(cell.basis),
            cell.finish.isoformat(timespec="seconds") if cell.finish else None,
            bool(cell.finish and cell.finish < plan.token_dies),
            cell.leaves.isoformat() if cell.leaves else None,
        )
        for cell in plan.cells
    ]
    return pd.DataFrame(rows, columns=columns)


def warning(plan: Plan) -> str | None:
    """Return one sentence when the work cannot end before the token dies, None when it can."""
    if plan.finish < plan.token_dies:
        return None
    dies, done = (moment.astimezone(IST) for moment in (plan.token_dies, plan.finish))
    return (
        f"About {plan.requests:,} requests are needed and {plan.until_token_dies:,} can leave before the token dies at "
        f"{dies:%H:%M} IST: {len(plan.tonight):,} of {len(plan.cells):,} cells will be complete by then, the last not "
        f"before {done:%d %B %H:%M} IST. Log in again tomorrow and run the same command: it goes on where it stopped."
    )


def cost(requests: int, rows: int) -> dict[str, int | float]:
    """Return what a run spent as numbers with stable names, for the UI's charts."""
    return {"requests": requests, "requests_per_1000_rows": round(1000 * requests / rows, 3) if rows else 0.0}


def experience_with(known: Mapping[str, Experience], underlying: str) -> Experience:
    """Return the experience with an underlying, or that with all others when there is none."""
    return known.get(underlying) or sum(known.values(), Experience())
