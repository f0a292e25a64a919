"""What `expirytrack collect` does: find the cells that are wanted and not complete, and run them one after another.

The runs themselves are `runs.py`, what is printed is `console.py` and `cli.py`.
"""

from __future__ import annotations

import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pandas as pd

from expirytrack_dagster import partitions
from expirytrack_dagster.collect import tracking
from expirytrack_dagster.collect.leases import handed_on, held, holders, named
from expirytrack_dagster.collect.plan import warning
from expirytrack_dagster.errors import AuthenticationError, CellBusy, ConfigurationError, ExpiryTrackError, StateBusy
from expirytrack_dagster.planning import Outlook, outlook, since
from expirytrack_dagster.runs import CheckLine, Runner
from expirytrack_dagster.state import open_state
from expirytrack_dagster.upstox.clock import SystemClock
from expirytrack_dagster.upstox.instruments import resolve
from expirytrack_dagster.upstox.keys import check_underlying_key
from expirytrack_dagster.upstox.ledger import open_ledger
from expirytrack_dagster.upstox.tokens import get_valid_token
from expirytrack_dagster.warehouse import reader
from expirytrack_dagster.warehouse.connection import open_warehouse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import date

    import dagster as dg

    from expirytrack_dagster.collect.due import Cell
    from expirytrack_dagster.collect.progress import ProgressSource
    from expirytrack_dagster.settings import Settings

_MOMENT = 2.0
"""Seconds between two looks at what another process has."""


@dataclass(slots=True)
class Outcome:
    """How a collection ended. `cells` has the columns of `warehouse.reader.cells`, one row a wanted cell."""

    cells: pd.DataFrame = field(default_factory=pd.DataFrame)
    checks: list[CheckLine] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    exit_code: int = 0
    requests: int = 0

    def note(self, checks: list[CheckLine], requests: int) -> None:
        """Add what a run reported."""
        self.checks += checks
        self.requests += requests

    def joined(self, later: Outcome) -> Outcome:
        """Return this outcome and a later one as one."""
        return Outcome(
            cells=pd.concat([self.cells, later.cells], ignore_index=True),
            checks=self.checks + later.checks,
            errors=self.errors + later.errors,
            exit_code=self.exit_code or later.exit_code,
            requests=self.requests + later.requests,
        )

    @property
    def incomplete(self) -> pd.DataFrame:
        """The wanted cells in which a contract is missing: those that are not sealed."""
        return self.cells[~self.cells["sealed"].astype(bool)] if len(self.cells) else self.cells


def track(settings: Settings, instance: dg.DagsterInstance, symbol: str, key: str | None = None) -> tracking.Underlying:
    """Track an underlying: find its key unless given, remember both, and make its partition.

    Raises:
        ConfigurationError: the symbol is unknown, or already stands for another key, or the key is badly formed.
    """
    state = open_state(settings)
    symbol = tracking.check_symbol(symbol)
    if key is not None:
        check_underlying_key(key)
    known = {underlying.symbol: underlying for underlying in tracking.tracked(state)}
    if symbol in known and key is None:
        underlying = known[symbol]
    else:
        underlying = tracking.track(state, symbol, key or resolve(symbol, settings))
    partitions.add_underlying(instance, underlying.symbol)
    return underlying


class Backfill:
    """Collects cells of some underlyings through Dagster runs in this process."""

    def __init__(
        self,
        settings: Settings,
        instance: dg.DagsterInstance,
        progress: ProgressSource,
        tell: Callable[[str], None] = lambda _: None,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        """Open the archive and the ledger of this home; `tell` is told what to know before and during the work."""
        self._settings = settings
        self._tell = tell
        self._instance = instance
        self._archive = open_warehouse(settings)
        self._ledger = open_ledger(settings)
        self._runner = Runner(instance, progress)
        self._wait = wait
        self._waited_for: set[str] = set()

    def collect(self, symbols: Sequence[str], expiries: Sequence[date], *, refetch: bool = False) -> Outcome:
        """Discover where needed, then collect every wanted cell that is not complete.

        What may leave the API's list soon goes first, then the newest expiry, as in the schedules.
        An error of the token or the plan ends it at once; one that may pass ends its cell only, and whatever discovery
        meets, its underlying only.

        Raises:
            CriticalError: what would stop every cell, such as a disk that is full.
            StateBusy: the state database cannot be read at the beginning.
        """
        outcome = Outcome()
        found: list[str] = []
        try:
            for symbol in symbols:
                try:
                    self._discover(symbol, expiries, outcome, refetch=refetch)
                except AuthenticationError:
                    raise
                except ExpiryTrackError as error:
                    outcome.errors.append(str(error))
                else:
                    found.append(symbol)
            look = self._look()
            cells = look.ordered(
                [cell for cell in look.cells if cell.underlying in found and self._is_wanted(cell, expiries)]
            )
            if sentence := warning(look.plan([cell for cell in cells if cell.is_open])):
                self._tell(sentence)
            self._collect_cells(cells if refetch else self._unsettled(cells), outcome, refetch=refetch)
        except AuthenticationError as error:
            outcome.errors, outcome.exit_code = [str(error)], error.exit_code
            return outcome
        rows, wanted = reader.cells(self._archive), {cell.key for cell in cells}
        outcome.cells = rows[[cell in wanted for cell in zip(rows["underlying"], _days(rows), strict=True)]]
        if outcome.errors:
            outcome.exit_code = 1
        elif len(outcome.incomplete):
            outcome.exit_code = 3
        return outcome

    def listed(self, symbol: str, outcome: Outcome) -> list[date]:
        """Return the expiries of a tracked underlying; the API is asked when none are known.

        Raises:
            AuthenticationError, ExpiryTrackError: discovery failed.
        """
        return self._listed(symbol, outcome, lambda known: not known)

    def _listed(self, symbol: str, outcome: Outcome, is_stale: Callable[[list[date]], bool]) -> list[date]:
        """Return the expiries of an underlying; of all processes that find the list stale, one asks for a new one."""
        while is_stale(known := _days(reader.expiries(self._archive, symbol))):
            get_valid_token(self._settings)
            try:
                with self._alone(symbol):
                    if not is_stale(known := _days(reader.expiries(self._archive, symbol))):
                        break
                    report = self._runner.discover(symbol)
            except CellBusy:
                self._wait_for(symbol)
                continue
            outcome.note(report.checks, self._ledger.spent(report.run_id))
            _raise_if_failed(report.error, report.exit_code)
            return _days(reader.expiries(self._archive, symbol))
        return known

    def _discover(self, symbol: str, expiries: Sequence[date], outcome: Outcome, *, refetch: bool) -> None:
        """Bring the list of an underlying up to date, and make the partitions of its cells.

        Raises:
            ConfigurationError: it has no such expiry.
            AuthenticationError, ExpiryTrackError: discovery failed.
        """

        def is_stale(known: list[date]) -> bool:
            if refetch or not known:
                return True
            return not set(expiries) <= set(known) if expiries else self._is_old(symbol)

        known = self._listed(symbol, outcome, is_stale)
        for day in expiries:
            if day not in known:
                nearest = sorted(known, key=lambda other: abs(other - day))[:3]
                hint = ", ".join(str(other) for other in sorted(nearest)) or "none at all"
                raise ConfigurationError(f"{symbol} has no expiry on {day}: the nearest that Upstox lists are {hint}.")
        # Discovery makes the partitions, but one that is trusted may be older than Dagster's records (a home whose
        # `dagster` folder is new), and leaves out what lies before the look-back, which may be named all the same.
        cells = [day for day in known if day in expiries or self._is_recent(day)]
        partitions.add_expiries(self._instance, [day.isoformat() for day in cells])

    def _is_wanted(self, cell: Cell, expiries: Sequence[date]) -> bool:
        """Say whether a cell is one of those that are named, or where none is, one that can be had."""
        if expiries:
            return cell.expiry in expiries
        return (cell.listed or cell.sealed) and self._is_recent(cell.expiry)

    def _is_recent(self, day: date) -> bool:
        oldest = since(self._settings, datetime.now(tz=UTC))
        return oldest is None or day >= oldest

    def _look(self) -> Outlook:
        return outlook(self._settings, self._archive, self._ledger, datetime.now(tz=UTC))

    def _is_old(self, symbol: str) -> bool:
        """Say whether the list of an underlying was asked for too long ago."""
        key = tracking.find(self._ledger.state, symbol).instrument_key
        asked = self._ledger.last_answer("expiries", key)
        return asked is None or time.time() - asked > self._settings.discovery_age

    def _unsettled(self, cells: Sequence[Cell]) -> list[Cell]:
        """Return the cells that are not complete, or whose checks have something to tell."""
        telling = self._runner.telling(cell.key for cell in cells if cell.sealed)
        return [cell for cell in cells if not cell.sealed or cell.key in telling]

    def _collect_cells(self, cells: Sequence[Cell], outcome: Outcome, *, refetch: bool) -> None:
        """Collect cells in this order; those that another process has, once it lets go of them or is heard no more."""
        while cells:
            elsewhere = []
            for cell in cells:
                try:
                    self._collect_cell(cell, outcome, refetch=refetch)
                except CellBusy:
                    elsewhere.append(cell)
                except ExpiryTrackError as error:
                    if not error.retryable:
                        raise
                    outcome.errors.append(f"{named(cell.key)}: {error}")
            if len(elsewhere) == len(cells):
                self._wait_for(named(elsewhere[0].key))
            cells = elsewhere

    def _collect_cell(self, cell: Cell, outcome: Outcome, *, refetch: bool) -> None:
        """Collect a cell unless it is complete.

        Raises:
            AuthenticationError: of the token or the plan; nothing else can be asked either.
            CellBusy: another process is collecting it.
            ExpiryTrackError: before or after its run; what fails inside is noted.
        """
        if not refetch and self._is_told(cell, outcome):
            return
        if outcome.errors and self._ledger.is_closed_to_all():  # said once already; no cell could ask anything
            return
        get_valid_token(self._settings)
        with self._alone(named(cell.key)):
            if not refetch and self._is_told(cell, outcome):  # another process was faster
                return
            report = self._runner.collect(cell.underlying, cell.expiry.isoformat(), refetch=refetch)
        outcome.note(report.checks, self._ledger.spent(report.run_id))
        if report.exit_code == AuthenticationError.exit_code:
            raise AuthenticationError(
                f"{report.error} What arrived of {named(cell.key)} is kept: then run the same command again."
            )
        if report.error:
            outcome.errors.append(f"{named(cell.key)}: {report.error}")

    def _is_told(self, cell: Cell, outcome: Outcome) -> bool:
        """Say whether a cell is complete, and note what its checks said then.

        One whose run was killed after the commit is not told: Dagster knows nothing of it yet, and telling it costs no
        request.
        """
        if not (cell.sealed or reader.is_sealed(self._archive, *cell.key)):
            return False
        recorded = self._runner.recorded_checks(cell.underlying, cell.expiry.isoformat())
        if recorded is None:
            return False
        outcome.note(recorded, requests=0)
        return True

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """Have a cell, or the list of an underlying, for the runs of the block.

        Raises:
            CellBusy: another process has it.
        """
        with (
            open_state(self._settings) as state,
            held(state, name, "", SystemClock()) as lease,
            handed_on(lease),
        ):
            yield

    def _wait_for(self, name: str) -> None:
        """Wait a moment for whoever has it; a person is told whom, once."""
        holder = None
        with suppress(StateBusy), open_state(self._settings) as state:
            holder = holders(state, SystemClock()).get(name)
        if holder is not None and name not in self._waited_for:
            self._waited_for.add(name)
            self._tell(f"Waiting for {name}, which {holder.host} is collecting.")
        self._wait(_MOMENT)


def _raise_if_failed(error: str | None, exit_code: int) -> None:
    if error is None:
        return
    raise AuthenticationError(error) if exit_code == AuthenticationError.exit_code else ExpiryTrackError(error)


def _days(frame: pd.DataFrame) -> list[date]:
    return [day.date() for day in pd.to_datetime(frame["expiry"])]
