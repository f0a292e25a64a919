"""Which cells are being collected by any process of this home, and how far each is.

The collector keeps a row in the state database for as long as it holds a cell (`recorded`); whoever watches, as a rule
another process, reads them (`underway`). A display must never cost a collection anything: a row that cannot be written
at once is left for the next time, and no error of it reaches the collector. A killed process leaves its row; that
it has ended is told by `process`, and the next run of the cell takes the row over.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import date
from typing import TYPE_CHECKING, Literal

from sqlalchemy import delete, select

from expirytrack_dagster.errors import StateBusy, StorageError
from expirytrack_dagster.processes import this_process
from expirytrack_dagster.state.tables import moment, progress, put

if TYPE_CHECKING:
    from collections.abc import Iterator

    from expirytrack_dagster.collect.contract import Answer
    from expirytrack_dagster.collect.progress import Progress
    from expirytrack_dagster.state import StateDatabase
    from expirytrack_dagster.upstox.clock import Clock

EVERY = 1.0
"""Seconds between two writings of a row."""
KEPT = 86_400.0
"""Seconds for which the row of a process that has ended is shown."""
_PATIENCE = 0.1
"""Seconds to wait for the state database; the row of a cell that is let go of may wait ten times as long."""

Phase = Literal["reading", "asking", "storing"]


@dataclass(frozen=True, slots=True)
class Underway:
    """A cell that a run holds, as it said last; times are seconds since the epoch.

    `contracts` have to be asked, `answered` of them are, with so many `candles`. While it asks and all are answered,
    it asks for proofs that the empty ones are empty.
    """

    underlying: str
    expiry: date
    run_id: str
    process: str
    phase: Phase
    contracts: int
    answered: int
    candles: int
    began_at: float
    seen_at: float


@contextmanager
def recorded(
    state: StateDatabase, cell: tuple[str, date], run_id: str, shown: Progress, clock: Clock
) -> Iterator[Progress]:
    """Yield a follower of the cell that tells `shown`, and every process that watches, until the block ends."""
    with state.patient(_PATIENCE) as quick:
        now = clock.now()
        follower = _Recorder(quick, shown, clock, Underway(*cell, run_id, this_process(), "reading", 0, 0, 0, now, now))
        follower.write()
        try:
            yield follower
        finally:
            with state.patient(10 * _PATIENCE) as patient, suppress(StateBusy, StorageError):
                _forget(patient, cell, run_id)


def underway(state: StateDatabase, now: float) -> list[Underway]:
    """Return the cells that are being collected, and those whose process was killed not long ago, the oldest first."""
    recent = select(progress).where(progress.c.seen_at > now - KEPT)
    rows = state.query(recent.order_by(progress.c.began_at, progress.c.underlying, progress.c.expiry))
    return [Underway(name, date.fromisoformat(day), *rest) for name, day, *rest in rows]


class _Recorder:
    def __init__(self, state: StateDatabase, shown: Progress, clock: Clock, first: Underway) -> None:
        self._state = state
        self._shown = shown
        self._clock = clock
        self._cell = first

    def begin(self, label: str, total: int) -> None:
        self._shown.begin(label, total)
        self._cell = replace(self._cell, phase="asking", contracts=total)
        self.write()

    def advance(self, answer: Answer) -> None:
        self._shown.advance(answer)
        cell = self._cell
        self._cell = replace(cell, answered=cell.answered + 1, candles=cell.candles + answer.rows)
        if abs(self._clock.now() - cell.seen_at) >= EVERY:
            self.write()

    def end(self) -> None:
        self._shown.end()
        self._cell = replace(self._cell, phase="storing")
        self.write()

    def write(self) -> None:
        """Write the row as it is now; what fails here is made up for by the next time."""
        self._cell = cell = replace(self._cell, seen_at=self._clock.now())
        key = {"underlying": cell.underlying, "expiry": cell.expiry.isoformat()}
        told = asdict(cell) | key
        with suppress(StateBusy, StorageError), self._state.transaction() as connection:
            now = float(connection.execute(select(moment()), {"now": cell.seen_at}).scalar_one())
            told |= {"seen_at": now, "began_at": now - (cell.seen_at - cell.began_at)}
            connection.execute(delete(progress).where(progress.c.seen_at < now - KEPT))
            put(connection, progress, key, {name: value for name, value in told.items() if name not in key})


def _forget(state: StateDatabase, cell: tuple[str, date], run_id: str) -> None:
    underlying, expiry = cell
    row = progress.c
    own = (row.underlying == underlying, row.expiry == expiry.isoformat(), row.run_id == run_id)
    state.write(lambda connection: connection.execute(delete(progress).where(*own)))
