"""The state database moved to another address: whether the target is one to write into, and what changed meanwhile.

The copy itself is one transaction (`state/copying.py`): one that was cut off has left the target as it was, and is made
again by the same call. A target that holds an earlier copy of this very source is replaced. Requests tell it: each
keeps its number and the moment at which it began.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from expirytrack_dagster.collect.leases import holders
from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.state.copying import Sum, copy_state, state_sums
from expirytrack_dagster.state.tables import leases, requests, underlyings
from expirytrack_dagster.upstox.clock import SystemClock

if TYPE_CHECKING:
    from expirytrack_dagster.state import StateDatabase

_LOOKED_AT = 20_000  # requests at once


@dataclass(frozen=True, slots=True)
class Copied:
    """What became of a copy: every table on both sides, and whether it was there already.

    `changed` are the tables that somebody has changed at the source since.
    """

    tables: dict[str, tuple[Sum, Sum]]
    there: bool
    changed: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """Whether both sides hold the same."""
        return not self.changed

    @property
    def rows(self) -> int:
        """Rows that were copied."""
        return 0 if self.there else sum(target.rows for _, target in self.tables.values())


def move_state(source: StateDatabase, target: StateDatabase) -> Copied:
    """Copy all tables, and compare both sides as they are at the end.

    Args:
        source: may be used by others meanwhile; the copy is of one moment.
        target: may not be there yet.

    Raises:
        ConfigurationError: the target is the source, holds what is not of it or is later than it, or is in use.
        StorageError: also DiskFull; the target is as it was.
        StateBusy: one of the two cannot be used for a while; the target is as it was.
    """
    copied = copy_state(source, target, _is_earlier_copy)
    after = state_sums(source)
    changed = tuple(name for name in after if after[name] != copied.sums[name])
    return Copied({name: (after[name], copied.sums[name]) for name in after}, copied.there, changed)


def _is_earlier_copy(source: StateDatabase, target: StateDatabase) -> bool:
    """Say whether the target is what the source was: its requests tell, or its underlyings if it has asked nothing yet.

    Raises:
        ConfigurationError: it has later requests, or somebody works there.
    """
    _require_unused(source, target)
    tracked = select(underlyings.c.symbol, underlyings.c.tracked_at)
    known, theirs = dict(source.query(tracked)), dict(target.query(tracked))
    if any(known.get(symbol, at) != at for symbol, at in theirs.items()):
        return False
    # A slot that was given back leaves no row, and its id may be taken again: only what is settled is there for good.
    settled = requests.c.counted_at.is_not(None)
    newest, held = (
        state.query(select(func.max(requests.c.id)).where(settled))[0][0] or 0 for state in (source, target)
    )
    if held > newest:
        raise ConfigurationError(
            f"{target.address} holds later requests than {source.address}: it is another one, or has been used since. "
            "Name a database that is empty."
        )
    if not held:
        return bool(theirs) and theirs.keys() <= known.keys()
    for after in range(0, held, _LOOKED_AT):
        part = select(requests.c.id, requests.c.started_at).where(
            settled, requests.c.id > after, requests.c.id <= after + _LOOKED_AT
        )
        began = dict(source.query(part))
        if any(began.get(number) != at for number, at in target.query(part)):
            return False
    return True


def _require_unused(source: StateDatabase, target: StateDatabase) -> None:
    """Refuse a target at which somebody collects; leases that came with an earlier copy are the source's.

    Raises:
        ConfigurationError: a sentence with the first such lease.
    """
    of_source = set(source.query(select(leases.c.name, leases.c.process)))
    for name, holder in holders(target, SystemClock()).items():
        if (name, holder.process) not in of_source:
            raise ConfigurationError(
                f"{target.address} is in use: a process on {holder.host} has {name}. Name a database that is empty, or "
                "end what works there."
            )
