"""The state database moved to another address: whether the target is one to write into, and what changed meanwhile.

The copy itself is one transaction (`state/copying.py`): one that was cut off has left nothing, and is made again by the
same call. A target that holds an earlier copy of this very source is emptied first. Requests tell it: each keeps its
number and the moment at which it began.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import delete, func, select

from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.state.copying import Sum, copy_state, state_sums
from expirytrack_dagster.state.tables import METADATA, requests, underlyings

if TYPE_CHECKING:
    from sqlalchemy import Connection

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
        ConfigurationError: what the target holds is not of this source, or is later than it.
        StorageError: also DiskFull; the target is as it was, or empty.
        StateBusy: one of the two cannot be used for a while.
    """
    _require_part(source, target)
    there = state_sums(target) == state_sums(source)
    if not there:
        target.write(_empty)
    copied = copy_state(source, target)
    after = state_sums(source)
    changed = tuple(name for name in after if after[name] != copied[name])
    return Copied({name: (after[name], copied[name]) for name in after}, there, changed)


def _empty(connection: Connection) -> None:
    for table in reversed(METADATA.tables.values()):
        connection.execute(delete(table))


def _require_part(source: StateDatabase, target: StateDatabase) -> None:
    """Refuse a target that holds what is not of this source.

    Raises:
        ConfigurationError: it has other requests, later ones, or tracks since another moment.
    """
    other = ConfigurationError(
        f"{target.address} holds records that are not of {source.address}: name a database that is empty, or one to "
        "which this very one was moved."
    )
    tracked = select(underlyings.c.symbol, underlyings.c.tracked_at)
    known = {row[0]: row[1] for row in source.query(tracked)}
    if any(known.get(symbol, at) != at for symbol, at in target.query(tracked)):
        raise other
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
    for after in range(0, held, _LOOKED_AT):
        part = select(requests.c.id, requests.c.started_at).where(
            settled, requests.c.id > after, requests.c.id <= after + _LOOKED_AT
        )
        began = {row[0]: row[1] for row in source.query(part)}
        if any(began.get(number) != at for number, at in target.query(part)):
            raise other
