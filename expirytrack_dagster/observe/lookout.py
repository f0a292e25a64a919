"""Looking at how everything stands at one moment, once or again and again.

`expirytrack status`, the dashboard and the alerts all look here. Reading and counting belong here; what is found is an
`Overview` (`overview.py`), drawn elsewhere (`dashboard.py`). A look must hold nobody up: what changes from second to
second is in the state database, which readers do not lock; the cells are counted anew only when a commit has changed
them, in the archive itself or, for whoever looks often, in its published copy. Of Dagster nothing is known here: its
runs tell of their cells themselves (`collect/underway.py`).
"""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

import pandas as pd

from expirytrack_dagster.collect import due
from expirytrack_dagster.collect.horizon import Listing, listings, reach
from expirytrack_dagster.collect.leases import holders, named
from expirytrack_dagster.collect.overview import overview as totals
from expirytrack_dagster.collect.tracking import tracked
from expirytrack_dagster.collect.underway import Underway, underway
from expirytrack_dagster.errors import DatabaseLocked, ExpiryTrackError
from expirytrack_dagster.ist import IST
from expirytrack_dagster.observe.alerts import Alert, recent, standing
from expirytrack_dagster.observe.overview import (
    CellCounts,
    Horizon,
    Overview,
    RunningCell,
    RunningPhase,
    Standing,
    cell_counts,
)
from expirytrack_dagster.processes import is_alive, is_here
from expirytrack_dagster.security.vault import rotation_finding
from expirytrack_dagster.state import StateDatabase, open_state
from expirytrack_dagster.upstox.activity import MINUTE, Activity, activity
from expirytrack_dagster.upstox.ledger import RequestLedger, open_ledger
from expirytrack_dagster.upstox.tokens import TokenState, token_state
from expirytrack_dagster.warehouse import published, reader
from expirytrack_dagster.warehouse.connection import open_warehouse
from expirytrack_dagster.warehouse.encryption import archive_key
from expirytrack_dagster.warehouse.lake_room import LakeRoom
from expirytrack_dagster.warehouse.standing import published_cells

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from expirytrack_dagster.settings import Settings

RECENT = 3
"""How many of the last alerts are shown."""
_TOKEN_AGE = 30.0
"""Seconds for which the vault is not opened again."""
_TELLING = 20
"""Contracts of a cell from which its pace is taken for that of the rest; the first ones cost more than the others."""
_SHORT = 0.2
"""Seconds to wait for an archive that is written just now, when it is looked at every second."""

_TOTALS = ("cells", "complete", "begun", "not_begun", "waiting", "lost", "contracts", "final_contracts")


class Counted(Protocol):
    """Where the counts of the cells come from."""

    def cells(self) -> pd.DataFrame | None:
        """Return the columns of `warehouse.reader.cells`, or None when nothing has changed since the last time."""
        ...


class InArchive:
    """Counts in the archive itself, waiting for whoever writes; one that does not exist is not made."""

    def __init__(self, settings: Settings) -> None:
        """Open nothing yet."""
        self._settings = settings

    def cells(self) -> pd.DataFrame | None:
        """Return the counts, read anew each time; raises like `warehouse.reader.cells`."""
        archive = open_warehouse(self._settings)
        return reader.cells(archive) if archive.exists() else None


class InPublished:
    """Counts in the published copy, which nobody locks, when it has changed; in the archive only while there is none.

    Then the archive is opened for the moment of one query after each commit, and never waited for.
    """

    def __init__(self, settings: Settings) -> None:
        """Open nothing yet."""
        self._settings = settings
        self._seen: object = None

    def cells(self) -> pd.DataFrame | None:
        """Return the counts if they may have changed.

        Raises:
            StorageError: also EncryptionMismatch; or the vault's errors, where the archive is encrypted.
        """
        folder, database = self._settings.published, self._settings.address.path
        seen = _stamp(folder / "manifest.json") or _stamp(database)
        if seen is None or seen == self._seen:
            return None
        key = archive_key(self._settings)
        manifest = published.load(folder)
        if manifest is not None:
            frame = published_cells(folder, manifest, key)
        else:
            try:
                frame = reader.cells(open_warehouse(self._settings, patience=_SHORT))
            except DatabaseLocked:
                return None  # the next look may have more luck
        self._seen = seen
        return frame


class InLake:
    """Counts in a lake, through one session that stays open, when another commit has been made."""

    def __init__(self, settings: Settings) -> None:
        """Open nothing yet."""
        self._room = LakeRoom(open_warehouse(settings))
        self._seen: int | None = None

    def cells(self) -> pd.DataFrame | None:
        """Return the counts if they may have changed.

        Raises:
            StorageError: the lake cannot be read.
        """
        seen = self._room.snapshot()
        if seen == self._seen:
            return None
        frame = self._room.ask(reader.CELLS, {}).df()
        self._seen = seen
        return frame


def counted_often(settings: Settings) -> Counted:
    """Return where somebody counts who looks every second."""
    return InLake(settings) if settings.address.is_lake else InPublished(settings)


class Lookout:
    """Looks again and again; keeps what does not change between two looks."""

    def __init__(self, settings: Settings, counted: Counted) -> None:
        """Name the sources; nothing is opened yet."""
        self._settings = settings
        self._counted = counted
        self._state = open_state(settings, timeout=max(1.0, settings.lock_timeout))
        self._clock = _Moment()
        self._ledger: RequestLedger = open_ledger(settings, self._clock)
        self._cells: tuple[CellCounts, ...] = ()
        self._surveyed: tuple[object, tuple[tuple[Standing, ...], Horizon]] | None = None
        self._token: tuple[float, object, TokenState, str | None] | None = None

    def look(self, now: datetime) -> Overview:
        """Return how everything stands now (an aware time).

        Raises:
            DatabaseLocked: another program held the archive for too long.
            StorageError, StateBusy: the archive or the state database cannot be read.
        """
        now = now.astimezone(UTC)
        self._clock.at = self._state.now(now.timestamp())
        frame = self._counted.cells()
        if frame is not None:
            self._cells = cell_counts(frame)
        scopes = self._ledger.all_scopes()
        minute = activity(self._state, scopes, self._clock.at)
        standings, horizon = self._survey(now)
        token, keys = self._look_at_token(now)
        return Overview(
            at=datetime.fromtimestamp(self._clock.at, UTC),
            home=self._settings.home,
            database=self._settings.address.place,
            underlyings=tuple(tracked(self._state)),
            token=token,
            token_is_short=token.usable and not token.lasts(self._settings.token_warning_minutes * 60),
            keys=keys,
            budgets={scope: self._ledger.budget(scope) for scope in scopes},
            activity=minute,
            running=self._running(minute),
            cells=self._cells,
            standings=standings,
            horizon=horizon,
            alerts=tuple(_alerts(self._state)),
        )

    def _running(self, minute: Activity) -> tuple[RunningCell, ...]:
        known = underway(self._state, self._clock.at)
        found = [self._running_cell(cell, minute) for cell in known]
        asking = [cell for cell in found if cell.phase == "asking"]
        if not asking:
            return tuple(found)
        # All of them share the limits, so none can be sure to be done before the last.
        needed = sum(round(_requests_left(cell)) for cell in asking)
        by_limits = self._ledger.forecast(self._ledger.scope_of("candles")).finish(needed) - self._clock.at
        return tuple(_with_time_left(cell, by_limits, self._clock.at) for cell in found)

    def _has_ended(self, cell: Underway) -> bool:
        """Say whether the cell's process is no more: of this host by looking, of another by the lease of its cell."""
        if is_here(cell.process):
            return not is_alive(cell.process)
        return named((cell.underlying, cell.expiry)) not in holders(self._state, self._clock)

    def _running_cell(self, cell: Underway, minute: Activity) -> RunningCell:
        phase: RunningPhase = cell.phase
        if self._has_ended(cell):
            phase = "ended"
        elif phase == "asking" and cell.answered >= cell.contracts:
            phase = "proving"
        return RunningCell(
            underlying=cell.underlying,
            expiry=cell.expiry,
            run_id=cell.run_id,
            process=cell.process,
            phase=phase,
            contracts=cell.contracts,
            answered=cell.answered,
            candles=cell.candles,
            requests=self._ledger.spent(cell.run_id),
            pace=minute.by_run.get(cell.run_id, 0),
            began_at=datetime.fromtimestamp(cell.began_at, UTC),
            seen_at=datetime.fromtimestamp(cell.seen_at, UTC),
            seconds_left=None,
        )

    def _survey(self, now: datetime) -> tuple[tuple[Standing, ...], Horizon]:
        today, known = now.astimezone(IST).date(), listings(self._state)
        facts = (self._cells, known, today)
        if self._surveyed is None or self._surveyed[0] != facts:
            self._surveyed = facts, _surveyed(self._cells, known, today, timedelta(days=self._settings.horizon_days))
        return self._surveyed[1]

    def _look_at_token(self, now: datetime) -> tuple[TokenState, str | None]:
        """Open the vault when it has changed, and now and then; between, only the time that is left gets shorter."""
        stamp = _stamp(self._settings.vault)
        if self._token is not None:
            read_at, seen, token, keys = self._token
            dead = token.expires_at is not None and token.expires_at <= now
            if seen == stamp and 0 <= now.timestamp() - read_at < _TOKEN_AGE and not (dead and token.usable):
                left = (
                    token.seconds_left
                    if token.expires_at is None
                    else max(0.0, (token.expires_at - now).total_seconds())
                )
                return replace(token, seconds_left=left), keys
        token = token_state(self._settings, now)
        try:
            keys = rotation_finding(self._settings, now)
        except ExpiryTrackError:  # a vault that does not open keeps nobody from working with another token
            keys = None
        self._token = now.timestamp(), stamp, token, keys
        return token, keys


def look(settings: Settings, now: datetime) -> Overview:
    """Look once, at the archive itself; raises like `Lookout.look`."""
    return Lookout(settings, InArchive(settings)).look(now)


def _surveyed(
    cells: Sequence[CellCounts], known: Sequence[Listing], today: date, warning: timedelta
) -> tuple[tuple[Standing, ...], Horizon]:
    frame = pd.DataFrame([asdict(cell) for cell in cells], columns=list(CellCounts.__slots__))
    surveyed = due.survey(frame, known)
    held: dict[str, tuple[int, int]] = {}
    for cell in cells:
        candles, quarantined = held.get(cell.underlying, (0, 0))
        held[cell.underlying] = candles + cell.candles, quarantined + cell.quarantined
    standings = tuple(
        Standing(
            str(row["underlying"]),
            **{name: int(row[name]) for name in _TOTALS},
            candles=held[str(row["underlying"])][0],
            quarantined=held[str(row["underlying"])][1],
        )
        for row in totals(surveyed).table.to_dict("records")
    )
    window = reach(known)
    leaving = tuple(due.about_to_leave(surveyed, today, warning))
    return standings, Horizon(None if window is None else window.days, leaving)


def _alerts(state: StateDatabase) -> list[Alert]:
    """Return the alerts that stand, and of the last ones those that are over, the newest first."""
    known = {
        (alert.name, alert.subject, alert.raised_at): alert for alert in (*recent(state, RECENT), *standing(state))
    }
    return sorted(known.values(), key=lambda alert: (alert.recovered_at is None, alert.raised_at), reverse=True)


def _requests_left(cell: RunningCell) -> float:
    """Return how many requests the rest of a cell costs, if it goes on as it began: one a contract until that shows."""
    a_contract = max(1.0, cell.requests / cell.answered) if cell.answered >= _TELLING else 1.0
    return (cell.contracts - cell.answered) * a_contract


def _with_time_left(cell: RunningCell, by_limits: float, now: float) -> RunningCell:
    if cell.phase != "asking":
        return cell
    if not cell.pace:  # held back, or nothing answers: what the limits say is all there is
        return replace(cell, seconds_left=by_limits if by_limits > 1 else None)
    if cell.answered < _TELLING:
        return replace(cell, seconds_left=by_limits)
    seconds = min(float(MINUTE), max(1.0, now - cell.began_at.timestamp()))
    return replace(cell, seconds_left=max(by_limits, _requests_left(cell) * seconds / cell.pace))


class _Moment:
    """The clock of a look: everything is seen at one instant."""

    at = 0.0

    def now(self) -> float:
        return self.at

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
