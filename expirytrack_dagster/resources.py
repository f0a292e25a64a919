"""What assets need from outside: the API, the archive, the state database, and someone to tell of progress.

Resources are built from the settings of the process; no secret ever enters a Dagster configuration, where the UI
would show it. Only wiring belongs here: what the wired things do is in `upstox/`, `warehouse/` and `collect/`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self, cast

import dagster as dg
from dagster_duckdb import DuckDBResource

from expirytrack_dagster.address import Kind
from expirytrack_dagster.settings import Settings, load_settings

if TYPE_CHECKING:
    import logging

    from expirytrack_dagster.collect.contract import Answer
    from expirytrack_dagster.collect.progress import Progress
    from expirytrack_dagster.state import StateDatabase
    from expirytrack_dagster.upstox.client import UpstoxClient
    from expirytrack_dagster.upstox.clock import Clock
    from expirytrack_dagster.upstox.ledger import RequestLedger
    from expirytrack_dagster.warehouse.connection import Warehouse


class UpstoxResource(dg.ConfigurableResource["UpstoxResource"]):
    """The API under the account's limits, as the environment configures it."""

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator[Self]:
        """Keep metrics for the length of a run, and let its log lines say whose they are; a sensor's look is no run."""
        if (run := context.run) is None or context.log is None:
            yield self
            return
        from expirytrack_dagster.observe import logs
        from expirytrack_dagster.observe.recorder import recording

        # Dagster has no public way to take a run's records, but for a setting that warns of itself at every run.
        taken = cast("list[logging.Handler]", context.log._dagster_handler._handlers)  # noqa: SLF001
        records = logs.RunRecords()
        partition = " ".join(reversed(run.tags.get("dagster/partition", "").split("|")))
        cell = {"cell": partition} if partition else {}
        with logs.about(run=run.run_id, **cell), recording(self.settings(), run.run_id):
            taken.append(records)
            try:
                yield self
            finally:
                taken.remove(records)

    def settings(self) -> Settings:
        """Return the settings of this process."""
        return load_settings()

    def clock(self) -> Clock | None:
        """Return whose time is meant everywhere below, None for the system's; tests put their own clock here."""
        return None

    def now(self) -> datetime:
        """Return the time (UTC) by which is decided what is due."""
        clock = self.clock()
        return datetime.now(tz=UTC) if clock is None else datetime.fromtimestamp(clock.now(), UTC)

    def state(self) -> StateDatabase:
        """Return the state database: tracked underlyings, requests, what was learned of the API."""
        from expirytrack_dagster.state import open_state

        return open_state(self.settings())

    def ledger(self) -> RequestLedger:
        """Return the ledger through which every request of the account passes."""
        from expirytrack_dagster.upstox.ledger import open_ledger

        return open_ledger(self.settings(), self.clock())

    def client(self, run_id: str, *, fresh: bool = False) -> UpstoxClient:
        """Return a client whose requests are booked on this run; use it as an async context manager.

        A fresh one asks the API even for what the answer cache holds.
        """
        from expirytrack_dagster.upstox.client import UpstoxClient

        return UpstoxClient(self.settings(), self.ledger(), clock=self.clock(), run_id=run_id, fresh=fresh)

    def forget_answers(self, *instrument_keys: str) -> None:
        """Drop kept answers about these instruments, so that the next run asks the API again."""
        from expirytrack_dagster.upstox.cache import kept_answers
        from expirytrack_dagster.upstox.clock import SystemClock

        if cache := kept_answers(self.settings(), SystemClock()):
            cache.forget(instrument_keys)


class WarehouseResource(dg.ConfigurableResource["WarehouseResource"]):
    """The archive, with the connection settings of a `DuckDBResource`, encrypted if the settings say so."""

    duckdb: DuckDBResource
    kind: Kind = "duckdb"
    lock_timeout: float = 60.0

    def open(self, patience: float | None = None) -> Warehouse:
        """Return the warehouse; its connections are open only for the moment of a read or a write.

        `patience` are the seconds to wait for whoever has the archive open, instead of `lock_timeout`.
        """
        from expirytrack_dagster.warehouse.connection import open_warehouse

        return open_warehouse(
            load_settings(warehouse=f"{self.kind}:{self.duckdb.database}"),
            patience=self.lock_timeout if patience is None else patience,
            engine=self.duckdb.connection_config,
        )


class ProgressResource(dg.ConfigurableResource["ProgressResource"]):
    """Tells the run's log how far a cell is; the command line puts progress bars in its place."""

    def following(self, log: logging.Logger) -> Progress:
        """Return something that writes a line at every tenth of the way."""
        return LoggedProgress(log)


class LoggedProgress:
    """Writes at most ten lines a cell, because each one is a row in Dagster's event log."""

    def __init__(self, log: logging.Logger) -> None:
        """Write to this logger."""
        self._log = log
        self._label = ""
        self._total = self._done = self._rows = 0

    def begin(self, label: str, total: int) -> None:
        """Say how much there is to do."""
        self._label, self._total, self._done, self._rows = label, total, 0, 0
        self._log.info("%s: %d contracts to ask", label, total)

    def advance(self, answer: Answer) -> None:
        """Say how far it is, when another tenth is done."""
        self._done += 1
        self._rows += answer.rows
        if self._done * 10 // self._total > (self._done - 1) * 10 // self._total:
            self._log.info("%s: %d of %d contracts, %d candles", self._label, self._done, self._total, self._rows)

    def end(self) -> None:
        """Nothing to close."""
