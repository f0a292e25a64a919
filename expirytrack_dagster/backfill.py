"""What `expirytrack collect` does: find the cells that are wanted and not complete, and run them one after another.

The runs themselves are `runs.py`, what is printed is `console.py` and `cli.py`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pandas as pd

from expirytrack_dagster import partitions
from expirytrack_dagster.collect import tracking
from expirytrack_dagster.collect.plan import warning
from expirytrack_dagster.errors import AuthenticationError, ConfigurationError, ExpiryTrackError
from expirytrack_dagster.planning import Outlook, outlook, since
from expirytrack_dagster.runs import CheckLine, Runner
from expirytrack_dagster.state import open_state
from expirytrack_dagster.upstox.instruments import resolve
from expirytrack_dagster.upstox.keys import check_underlying_key
from expirytrack_dagster.upstox.ledger import open_ledger
from expirytrack_dagster.upstox.tokens import get_valid_token
from expirytrack_dagster.warehouse import reader
from expirytrack_dagster.warehouse.connection import open_warehouse

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import date

    import dagster as dg

    from expirytrack_dagster.collect.progress import ProgressSource
    from expirytrack_dagster.settings import Settings


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
        """The wanted cells in which a contract is missing."""
        return self.cells[~is_complete(self.cells)] if len(self.cells) else self.cells


def is_complete(cells: pd.DataFrame) -> pd.Series:
    """Say for each cell whether it is sealed: its contracts were asked for, and each is complete or proven empty."""
    return cells["sealed"].astype(bool)


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
    ) -> None:
        """Open the archive and the ledger of this home; `tell` is told what to know before the work begins."""
        self._settings = settings
        self._tell = tell
        self._instance = instance
        self._archive = open_warehouse(settings)
        self._ledger = open_ledger(settings)
        self._runner = Runner(instance, progress)

    def collect(self, symbols: Sequence[str], expiries: Sequence[date], *, refetch: bool = False) -> Outcome:
        """Discover where needed, then collect every wanted cell that is not complete.

        What may leave the API's list soon goes first, then the newest expiry, as in the schedules.
        An error of the token or the plan ends it at once; any other error ends its cell, or its underlying, only.
        """
        outcome = Outcome()
        wanted: dict[str, list[date]] = {}
        try:
            for symbol in symbols:
                try:
                    wanted[symbol] = self._wanted(symbol, expiries, outcome, refetch=refetch)
                except AuthenticationError:
                    raise
                except ExpiryTrackError as error:
                    outcome.errors.append(str(error))
            look = self._look()
            cells = look.ordered([cell for cell in look.cells if cell.expiry in wanted.get(cell.underlying, ())])
            if sentence := warning(look.plan([cell for cell in cells if cell.is_open])):
                self._tell(sentence)
            for cell in cells:
                self._collect_cell(cell.underlying, cell.expiry, outcome, refetch=refetch)
        except AuthenticationError as error:
            outcome.errors, outcome.exit_code = [str(error)], error.exit_code
            return outcome
        rows = reader.cells(self._archive)
        keep = [day in wanted.get(symbol, []) for symbol, day in zip(rows["underlying"], _days(rows), strict=True)]
        outcome.cells = rows[keep]
        if outcome.errors:
            outcome.exit_code = 1
        elif len(outcome.incomplete):
            outcome.exit_code = 3
        return outcome

    def listed(self, symbol: str, outcome: Outcome, *, fresh: bool = False) -> list[date]:
        """Return the expiries of a tracked underlying; the API is asked when none are known or `fresh` is wanted.

        Raises:
            AuthenticationError, ExpiryTrackError: discovery failed.
        """
        known = reader.expiries(self._archive, symbol)
        if fresh or not len(known):
            get_valid_token(self._settings)
            report = self._runner.discover(symbol)
            outcome.note(report.checks, self._ledger.spent(report.run_id))
            _raise_if_failed(report.error, report.exit_code)
            known = reader.expiries(self._archive, symbol)
        return _days(known)

    def _wanted(self, symbol: str, expiries: Sequence[date], outcome: Outcome, *, refetch: bool) -> list[date]:
        known = self.listed(symbol, outcome, fresh=refetch or self._is_stale(symbol, expiries))
        for day in expiries:
            if day not in known:
                nearest = sorted(known, key=lambda other: abs(other - day))[:3]
                hint = ", ".join(str(other) for other in sorted(nearest)) or "none at all"
                raise ConfigurationError(f"{symbol} has no expiry on {day}: the nearest that Upstox lists are {hint}.")
        oldest = since(self._settings, datetime.now(tz=UTC))
        # Discovery makes the partitions, but one that is trusted may be older than Dagster's records (a home whose
        # `dagster` folder is new), and leaves out what lies before the look-back, which may be named all the same.
        cells = [day for day in known if day in expiries or oldest is None or day >= oldest]
        partitions.add_expiries(self._instance, [day.isoformat() for day in cells])
        if expiries:
            return sorted(set(expiries))
        asked = {
            cell.expiry for cell in self._look().cells if cell.underlying == symbol and (cell.listed or cell.sealed)
        }
        return sorted(day for day in asked if oldest is None or day >= oldest)

    def _look(self) -> Outlook:
        return outlook(self._settings, self._archive, self._ledger, datetime.now(tz=UTC))

    def _is_stale(self, symbol: str, expiries: Sequence[date]) -> bool:
        """Say whether discovery is due: a wanted date is unknown, or all are wanted and the list is old."""
        listed = reader.expiries(self._archive, symbol)
        if expiries or not len(listed):
            return not set(expiries) <= set(_days(listed))
        asked = self._ledger.last_answer("expiries", str(listed["underlying_key"].iloc[-1]))
        return asked is None or time.time() - asked > self._settings.discovery_age

    def _collect_cell(self, symbol: str, day: date, outcome: Outcome, *, refetch: bool) -> None:
        cells = reader.cells(self._archive)
        cell = cells[(cells["underlying"] == symbol) & pd.Series([d == day for d in _days(cells)], index=cells.index)]
        if not refetch and is_complete(cell).all():
            recorded = self._runner.recorded_checks(symbol, day.isoformat())
            if recorded is not None:
                outcome.note(recorded, requests=0)
                return
            # Killed after the commit: Dagster knows nothing of the cell yet, and telling it costs no request.
        if outcome.errors and self._ledger.is_closed_to_all():  # said once already; no cell could ask anything
            return
        get_valid_token(self._settings)
        report = self._runner.collect(symbol, day.isoformat(), refetch=refetch)
        outcome.note(report.checks, self._ledger.spent(report.run_id))
        if report.exit_code == AuthenticationError.exit_code:
            raise AuthenticationError(
                f"{report.error} What arrived of {symbol} {day} is kept: then run the same command again."
            )
        if report.error:
            outcome.errors.append(f"{symbol} {day}: {report.error}")


def _raise_if_failed(error: str | None, exit_code: int) -> None:
    if error is None:
        return
    raise AuthenticationError(error) if exit_code == AuthenticationError.exit_code else ExpiryTrackError(error)


def _days(frame: pd.DataFrame) -> list[date]:
    return [day.date() for day in pd.to_datetime(frame["expiry"])]
