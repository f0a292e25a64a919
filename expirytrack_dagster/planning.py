"""What is missing, in which order it is collected and what that costs: archive, ledger and rules together.

The order is `collect/due.py`, the costs `collect/plan.py`, the limits `upstox/forecast.py`; here they are given what
the archive and the state database know. Sensors, `expirytrack plan` and `expirytrack collect` all ask here, so that
they agree. Nothing is asked of the API, nothing of Dagster is known here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, cast

import pandas as pd

from expirytrack_dagster.collect import due
from expirytrack_dagster.collect.horizon import listings
from expirytrack_dagster.collect.plan import (
    BYTES_A_ROW,
    CellPlan,
    Experience,
    Plan,
    experience_with,
    of_cell,
    of_questions,
    scheduled,
)
from expirytrack_dagster.collect.questions import Questions, questions
from expirytrack_dagster.collect.staging import CellStaging
from expirytrack_dagster.collect.states import SEALED, State
from expirytrack_dagster.ist import IST
from expirytrack_dagster.security.parquet import staging_key
from expirytrack_dagster.state import open_state
from expirytrack_dagster.upstox.tokens import daily_death, token_state
from expirytrack_dagster.warehouse import reader

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from expirytrack_dagster.collect.cell import CellRequest
    from expirytrack_dagster.collect.due import Cell
    from expirytrack_dagster.settings import Settings
    from expirytrack_dagster.upstox.ledger import RequestLedger
    from expirytrack_dagster.warehouse.connection import Warehouse

COUNTED = 200
"""Cells whose questions are counted one by one, a hundredth of a second each; more of them are estimated."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """Every cell that was ever listed, as it stands now; `now` is UTC."""

    settings: Settings
    archive: Warehouse
    ledger: RequestLedger
    now: datetime
    cells: list[Cell]

    @property
    def today(self) -> date:
        """The day in India."""
        return self.now.astimezone(IST).date()

    @property
    def warning(self) -> timedelta:
        """How long before it may leave the list a cell goes before all others."""
        return timedelta(days=self.settings.horizon_days)

    def ordered(self, cells: Sequence[Cell]) -> list[Cell]:
        """Put cells in the order in which they are collected."""
        return due.ordered(cells, self.today, self.warning)

    def missing(self, symbols: Collection[str] = ()) -> list[Cell]:
        """Return the cells of these underlyings (of all, if none is named) that can be asked and are not complete."""
        oldest = since(self.settings, self.now)
        return self.ordered(
            [
                cell
                for cell in self.cells
                if cell.is_open
                and (not symbols or cell.underlying in symbols)
                and (oldest is None or cell.expiry >= oldest)
            ]
        )

    def costs(self, cells: Sequence[Cell]) -> list[CellPlan]:
        """Return what each of these cells will cost, in their order."""
        known = _experience(self.archive)
        asked = _questions(self.settings, self.archive, cells)
        bytes_a_row = self.ledger.bytes_a_row() or BYTES_A_ROW
        share = self.settings.proof_share
        return [
            of_cell(
                cell,
                asked.get(cell.key),
                experience_with(known, cell.underlying),
                share=share,
                bytes_a_row=bytes_a_row,
            )
            for cell in cells
        ]

    def plan(self, cells: Sequence[Cell]) -> Plan:
        """Say what these cells cost and when they are done, if they are begun now and nothing else is asked."""
        forecast = self.ledger.forecast(self.ledger.scope_of("candles"))
        return scheduled(self.costs(cells), forecast, self.now, token_dies(self.settings, self.now))


def outlook(
    settings: Settings, archive: Warehouse, ledger: RequestLedger, now: datetime, *, sealed: bool = True
) -> Outlook:
    """Look at the archive and at what the API has listed; one short read of each, shorter without sealed cells.

    Raises:
        DatabaseLocked: another program held the archive for longer than its `lock_timeout`.
        StorageError, StateBusy: the archive or the state database cannot be read.
    """
    rows = reader.cells(archive) if sealed else reader.unsealed(archive)
    cells = due.survey(rows, listings(open_state(settings)))
    return Outlook(settings, archive, ledger, now, cells)


def since(settings: Settings, now: datetime) -> date | None:
    """Return the oldest expiry that is collected, None where everything listed is."""
    if settings.lookback_days is None:
        return None
    return now.astimezone(IST).date() - timedelta(days=settings.lookback_days)


def token_dies(settings: Settings, now: datetime) -> datetime:
    """Return when the present token dies; where its life is not known, at half past three of the coming night."""
    known = token_state(settings, now).expires_at
    return known if known is not None and known > now else daily_death(now)


def planned_requests(request: CellRequest, staging: CellStaging, archive: Warehouse) -> int:
    """Return how many requests for candles a cell will cost, a moment before it is collected."""
    asked = questions(
        request.contracts,
        final=request.sealed,
        partial=request.partial,
        staged=staging.peek(),
        share=request.proof_share,
    )
    symbol = staging.folder.parent.name
    return of_questions(asked, experience_with(_experience(archive), symbol), request.proof_share)


def _experience(archive: Warehouse) -> dict[str, Experience]:
    rows = reader.experience(archive).itertuples(index=False, name=None)
    return {str(name): Experience(*map(int, figures)) for name, *figures in rows}


def _questions(settings: Settings, archive: Warehouse, cells: Sequence[Cell]) -> dict[tuple[str, date], Questions]:
    """Return what the collector would ask about the first cells whose contract list is known."""
    listed = [cell.key for cell in cells if cell.contracts][:COUNTED]
    if not listed:
        return {}
    frame = reader.open_contracts(archive, listed)
    frame["expiry"] = pd.to_datetime(frame["expiry"]).dt.date
    opener = staging_key(settings)
    found = {}
    for key, contracts in frame.groupby(["underlying", "expiry"]):
        name, day = cast("tuple[str, date]", key)
        staging = CellStaging(settings.staging / name / day.isoformat(), opener)
        found[name, day] = _of_known(contracts, staging, settings.proof_share)
    return found


def _of_known(contracts: pd.DataFrame, staging: CellStaging, share: float) -> Questions:
    final = contracts["status"].isin([str(state) for state in SEALED])
    partial = contracts["status"] == str(State.PARTIAL)
    return questions(
        contracts,
        final=set(contracts.loc[final, "instrument_key"]),
        partial=set(contracts.loc[partial, "instrument_key"]),
        staged=staging.peek(),
        share=share,
    )
