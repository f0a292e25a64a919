"""The state database copied to another address, some thousand rows at a time, and proved equal table by table.

The tables that grow are copied by ranges of their ids, the others as a whole; each is one transaction of the target. As
with the archive, what is done is seen from what is there. Requests tell whether the target came from this very source:
a request keeps its id and the microsecond in which it began.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Double, delete, func, insert, select, text, true

from expirytrack_dagster.errors import ConfigurationError, StorageError
from expirytrack_dagster.state.tables import METADATA, requests, underlyings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from sqlalchemy import ColumnElement, Connection, Row, Table

    from expirytrack_dagster.state import StateDatabase

AT_ONCE = 20_000
"""Ids of a range, and so rows in memory at most."""

_WIDTH = 1 << 64


class RowSum(NamedTuple):
    """Rows, and the sum of their hashes modulo 2^64."""

    rows: int
    checksum: int


class Range(NamedTuple):
    """A table's rows with ids above `after`, up to `upto`; without them, all of its rows."""

    table: Table
    after: int | None = None
    upto: int | None = None

    @property
    def condition(self) -> ColumnElement[bool]:
        """What its rows fulfil."""
        if self.after is None:
            return true()
        return (self.table.c.id > self.after) & (self.table.c.id <= self.upto)


@dataclass(frozen=True, slots=True)
class Copied:
    """What became of a copy: every table on both sides, rows copied, and the tables that have changed since."""

    tables: dict[str, tuple[RowSum, RowSum]]
    rows: int
    changed: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """Whether both sides hold the same."""
        return all(source == target for source, target in self.tables.values())


def copy_state(
    source: StateDatabase, target: StateDatabase, progress: Callable[[int, int], None] = lambda _done, _all: None
) -> Copied:
    """Copy what the target does not hold yet, and compare both sides as they are at the end.

    Args:
        source: may be used by others meanwhile; what they change is copied by another call.
        target: may not be there yet.
        progress: told how many rows were looked at, and how many there are.

    Raises:
        ConfigurationError: what the target holds is not of this source, or is later than it.
        StorageError: also StateLocked, StateUnreachable and DiskFull; what was copied stays, and the same call goes on.
    """
    _require_part(source, target)
    before, copied, done = _sizes(source), 0, 0
    taken: dict[str, list[RowSum]] = {name: [] for name in before}
    for part in _ranges(source, target):
        rows = _rows(source, part)
        taken[part.table.name].append(_sum(part.table, rows))
        if _sum(part.table, _rows(target, part)) != taken[part.table.name][-1]:
            copied += _put(target, part, rows)
        done += len(rows)
        progress(done, max(done, sum(before.values())))
    target.write(_continue_ids)
    after, there = contents(source), contents(target)
    copies = {name: _together(sums) for name, sums in taken.items()}
    if there != copies:
        wrong = next(name for name in there if there[name] != copies[name])
        raise StorageError(
            f"The table {wrong} of {target.address} is not what was copied: something else writes there. End it, and "
            "run the same command again."
        )
    changed = tuple(name for name in after if after[name] != copies[name])
    return Copied({name: (after[name], there[name]) for name in after}, copied, changed)


def contents(state: StateDatabase) -> dict[str, RowSum]:
    """Return the number and the sum of every table's rows."""
    found: dict[str, list[RowSum]] = {name: [] for name in METADATA.tables}
    for part in _ranges(state):
        found[part.table.name].append(_sum(part.table, _rows(state, part)))
    return {name: _together(sums) for name, sums in found.items()}


def _ranges(*states: StateDatabase) -> Iterator[Range]:
    """Yield what is copied at once, in an order in which rows come after those that they refer to."""
    for table in METADATA.tables.values():
        if "id" not in table.c:
            yield Range(table)
            continue
        bounds = [state.query(select(func.min(table.c.id), func.max(table.c.id)))[0] for state in states]
        held = [(int(low), int(high)) for low, high in bounds if low is not None]
        if held:
            for after in range(min(low for low, _ in held) - 1, max(high for _, high in held), AT_ONCE):
                yield Range(table, after, after + AT_ONCE)


def _rows(state: StateDatabase, part: Range) -> Sequence[Row[Any]]:
    return state.query(select(part.table).where(part.condition))


def _sum(table: Table, rows: Iterable[Row[Any]]) -> RowSum:
    """Add up rows in any order; a whole number in a column of reals is one, whichever engine gives it."""
    reals = [isinstance(column.type, Double) for column in table.c]
    count = total = 0
    for row in rows:
        values = tuple(
            float(value) if real and value is not None else value for value, real in zip(row, reals, strict=True)
        )
        total += int.from_bytes(blake2b(repr(values).encode(), digest_size=8).digest(), "big")
        count += 1
    return RowSum(count, total % _WIDTH)


def _together(sums: Iterable[RowSum]) -> RowSum:
    parts = list(sums)
    return RowSum(sum(part.rows for part in parts), sum(part.checksum for part in parts) % _WIDTH)


def _put(target: StateDatabase, part: Range, rows: Sequence[Row[Any]]) -> int:
    """Replace what the target holds of a range."""
    values = [dict(row._mapping) for row in rows]  # noqa: SLF001 -- SQLAlchemy's own public name for a row as a mapping

    def work(connection: Connection) -> None:
        connection.execute(delete(part.table).where(part.condition))
        if values:
            connection.execute(insert(part.table), values)

    target.write(work)
    return len(rows)


def _sizes(state: StateDatabase) -> dict[str, int]:
    return {
        name: int(state.query(select(func.count()).select_from(table))[0][0]) for name, table in METADATA.tables.items()
    }


def _continue_ids(connection: Connection) -> None:
    """Let the next id follow the copied ones, which PostgreSQL does not look at."""
    if connection.dialect.name != "postgresql":
        return
    for table in METADATA.tables.values():
        if "id" in table.c and (highest := connection.execute(select(func.max(table.c.id))).scalar()):
            connection.execute(
                text("SELECT setval(pg_get_serial_sequence(:name, 'id'), :highest)"),
                {"name": table.name, "highest": highest},
            )


def _require_part(source: StateDatabase, target: StateDatabase) -> None:
    """Refuse a target that holds what is not of this source.

    Raises:
        ConfigurationError: it has other requests, later ones, or tracks since another moment.
    """
    other = (
        f"{target.address} holds records that are not of {source.address}: name a database that is empty, or one to "
        "which this very one was being moved."
    )
    tracked = select(underlyings.c.symbol, underlyings.c.tracked_at)
    known = {row.symbol: row.tracked_at for row in source.query(tracked)}
    if any(known.get(row.symbol, row.tracked_at) != row.tracked_at for row in target.query(tracked)):
        raise ConfigurationError(other)
    # A slot that was given back leaves no row, and its id may be taken again: only what is settled is there for good.
    settled = select(requests.c.id, requests.c.started_at).where(requests.c.counted_at.is_not(None))
    bounds = [
        state.query(select(func.max(requests.c.id)).where(requests.c.counted_at.is_not(None)))
        for state in (source, target)
    ]
    (newest,), (held,) = (rows[0] for rows in bounds)
    if held is not None and (newest is None or held > newest):
        raise ConfigurationError(
            f"{target.address} holds later requests than {source.address}: it is another one, or has been used since. "
            "Name a database that is empty."
        )
    for after in range(0, held or 0, AT_ONCE):
        part = settled.where(requests.c.id > after, requests.c.id <= after + AT_ONCE)
        began = {row.id: row.started_at for row in source.query(part)}
        if any(began.get(row.id) != row.started_at for row in target.query(part)):
            raise ConfigurationError(other)
