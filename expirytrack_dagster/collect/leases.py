"""Leases: what one process has for itself among all hosts, for as long as it shows signs of life.

A lease is a row of the state database. Who holds it renews it every `EVERY` seconds; one that was not renewed for
`LIFE` is free. That a process of the same host has ended is seen at once, and as long as it lives, the lease stays its
own: there life decides, between hosts time, by the database's clock. Whoever was away for so long that another came
finds another number in the row, and may not write (`Lease.confirm`). What is done under a lease is up to its holders.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, insert, select, update

from expirytrack_dagster.errors import CellBusy, CellLost, StateBusy, StorageError
from expirytrack_dagster.processes import host_of, is_alive, is_here, this_process
from expirytrack_dagster.state.tables import leases, moment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import date

    from sqlalchemy import Connection

    from expirytrack_dagster.collect.contract import Answer
    from expirytrack_dagster.collect.progress import Progress
    from expirytrack_dagster.state import StateDatabase
    from expirytrack_dagster.upstox.clock import Clock

LIFE = 120.0
"""Seconds after its last renewal at which another host may take a lease."""
EVERY = 20.0
"""Seconds between two renewals: five of them may fail, while a server restarts or a network is mended."""
_FORGOTTEN = 86_400.0
"""Seconds for which the name of a process that was killed is kept."""

_HELD: set[tuple[str, str]] = set()
"""Databases and names of the leases that this very process holds; a row that says otherwise could not be given back."""
_TAKING = threading.Lock()
"""Held from before a row is written until `_HELD` has it: in between it looks like one that could not be given back."""
_HANDED_ON: ContextVar[dict[str, Lease]] = ContextVar("leases handed on", default={})  # noqa: B039 -- never changed


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lease."""

    process: str
    run_id: str

    @property
    def host(self) -> str:
        """The name of the holder's host, as people call it."""
        return host_of(self.process)


class Lease:
    """A lease that this process holds; renewed by a thread until `give_back`."""

    def __init__(self, state: StateDatabase, clock: Clock, row: dict[str, Any]) -> None:
        """Begin to renew a lease that was taken just now with this row."""
        self.name: str = row["name"]
        self.number: int = row["number"]
        self._row = row
        self._key = (str(state.address), self.name)
        _HELD.add(self._key)
        self._state = state.patient(state.timeout)
        self._clock = clock
        self._lost: CellLost | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"lease of {self.name}", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """See that nobody has taken it, as far as this process has heard; costs nothing.

        Raises:
            CellLost: another process has.
        """
        if self._lost is not None:
            raise self._lost

    def confirm(self) -> None:
        """Renew it, at the last moment before something is written that must be this holder's alone.

        Raises:
            CellLost: another process has taken it.
            StateBusy, StorageError: whether one has cannot be known.
        """

        def renew(connection: Connection) -> bool:
            named = leases.c.name == self.name
            renewed = update(leases).where(named, leases.c.number == self.number).values(until=moment() + LIFE)
            if connection.execute(renewed, {"now": self._clock.now()}).rowcount == 1:
                return True
            if connection.execute(select(leases).where(named)).one_or_none() is not None:
                return False
            # The database was damaged and made anew: what it knew is gone, and so is whoever might have come.
            connection.execute(
                insert(leases).values(self._row | {"until": moment() + LIFE}), {"now": self._clock.now()}
            )
            return True

        if not self._state.write(renew):
            self._lost = CellLost(
                f"{self.name} was taken over by another host, because this one was silent for more than {LIFE:.0f} s: "
                "nothing of it was written here. Run again if anything is missing."
            )
            raise self._lost

    def give_back(self, *, forget: bool) -> None:
        """End it, and let its row go too where its number is of no more use; what fails here heals with time."""
        self._over.set()
        self._thread.join()
        _HELD.discard(self._key)
        own = (leases.c.name == self.name) & (leases.c.number == self.number)
        ended = delete(leases).where(own) if forget else update(leases).where(own).values(until=0.0)
        with self._state, suppress(StateBusy, StorageError):
            self._state.write(lambda connection: connection.execute(ended))

    def _keep(self) -> None:
        while not self._over.wait(EVERY) and self._lost is None:
            with suppress(CellLost, StateBusy, StorageError):  # lost is lost; all else is tried again
                self.confirm()


class UnderLease:
    """Follows a cell's contracts for another follower, and ends the work as soon as the lease is known to be lost."""

    def __init__(self, lease: Lease, shown: Progress) -> None:
        """Tell `shown` what is told."""
        self._lease = lease
        self._shown = shown

    def begin(self, label: str, total: int) -> None:
        """Pass it on."""
        self._shown.begin(label, total)

    def advance(self, answer: Answer) -> None:
        """Pass it on.

        Raises:
            CellLost: another host has the cell now; the answer is kept all the same.
        """
        self._shown.advance(answer)
        self._lease.check()

    def end(self) -> None:
        """Pass it on."""
        self._shown.end()


@contextmanager
def held(state: StateDatabase, name: str, run_id: str, clock: Clock, *, forget: bool = False) -> Iterator[Lease]:
    """Keep a cell, or what else has a name, to this run among all hosts for the length of the block.

    What was handed on by whoever started the run is held already, and stays theirs.

    Raises:
        CellBusy: another run holds it; the sentence names its host.
    """
    if (lease := _HANDED_ON.get().get(name)) is not None:
        yield lease
        return
    with _TAKING:
        lease = Lease(state, clock, _taken(state, name, run_id, clock))
    try:
        yield lease
    finally:
        lease.give_back(forget=forget)


@contextmanager
def handed_on(lease: Lease) -> Iterator[None]:
    """Let the run that this thread starts in the block find the lease held."""
    token = _HANDED_ON.set({**_HANDED_ON.get(), lease.name: lease})
    try:
        yield
    finally:
        _HANDED_ON.reset(token)


@contextmanager
def process_alive(state: StateDatabase, clock: Clock) -> Iterator[None]:
    """Let other hosts know, for the length of the block, that this process lives."""
    with held(state, this_process(), "", clock, forget=True):
        yield


def named(cell: tuple[str, date]) -> str:
    """Return the name of a cell's lease."""
    underlying, expiry = cell
    return f"{underlying} {expiry.isoformat()}"


def holders(state: StateDatabase, clock: Clock) -> dict[str, Holder]:
    """Return who holds what at this moment, by the names of leases."""
    now = state.now(clock.now())
    columns = leases.c.name, leases.c.process, leases.c.run_id, leases.c.until
    rows = state.query(select(*columns).where(leases.c.until > 0))
    return {
        name: Holder(process, run_id)
        for name, process, run_id, until in rows
        if not _is_free(state, name, process, until, now)
    }


def has_fallen_silent(state: StateDatabase, process: str, clock: Clock) -> bool:
    """Say whether a process that told of itself (`process_alive`) has not for longer than a living one would."""
    now = state.now(clock.now())
    rows = state.query(select(leases.c.until).where(leases.c.name == process))
    return any(until <= now for (until,) in rows)


def _taken(state: StateDatabase, name: str, run_id: str, clock: Clock) -> dict[str, Any]:
    """Take a lease that is free, and return its row.

    Raises:
        CellBusy: it is not free.
    """

    def work(connection: Connection) -> dict[str, Any]:
        now = float(connection.execute(select(moment()), {"now": clock.now()}).scalar_one())
        connection.execute(delete(leases).where(leases.c.name == leases.c.process, leases.c.until < now - _FORGOTTEN))
        found = connection.execute(select(leases).where(leases.c.name == name)).one_or_none()
        if found is not None and not _is_free(state, name, found.process, found.until, now):
            raise CellBusy(
                f"Another run is collecting {name} on {host_of(found.process)}: let it end, then run again if anything "
                "is missing."
            )
        number = 1 if found is None else found.number + 1
        connection.execute(delete(leases).where(leases.c.name == name))
        taken = {"name": name, "number": number, "process": this_process(), "run_id": run_id, "until": now + LIFE}
        connection.execute(insert(leases), taken)
        return taken

    return state.write(work)


def _is_free(state: StateDatabase, name: str, process: str, until: float, now: float) -> bool:
    if until == 0:
        return True
    if process == this_process():
        return (str(state.address), name) not in _HELD
    return not is_alive(process) if is_here(process) else until <= now
