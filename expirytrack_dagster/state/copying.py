"""A whole state database copied from one address to another, and proved to be equal.

The copy is one transaction: one that was cut off has left nothing, and is simply made again. What is read is one
moment of the source, which others may go on using; nobody should use the target yet.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, delete, insert, select, text

from expirytrack_dagster.errors import StorageError
from expirytrack_dagster.state.tables import METADATA

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import Connection, Row, Table

    from expirytrack_dagster.state import StateDatabase

_BATCH = 5_000
_ALL = 1 << 256


@dataclass(frozen=True, slots=True)
class Sum:
    """Rows of a table, and the sum of their SHA-256 hashes, in whatever order they are."""

    rows: int
    sha256: str


def copy_state(source: StateDatabase, target: StateDatabase) -> dict[str, Sum]:
    """Copy every table and return their sums; if the target holds the very same already, nothing is done.

    The id that comes next is one that was never given, so that requests go on being told apart.

    Raises:
        StorageError: the target holds something else, or is not equal in the end, which leaves it as it was.
        StateBusy: one of the two cannot be used for a while.
    """
    with source.snapshot() as reading:
        sums = _sums(reading)

        def work(writing: Connection) -> None:
            found = _sums(writing)
            if found == sums:
                return
            if any(of_table.rows for name, of_table in found.items() if name != "metered"):
                raise StorageError(
                    f"{target.address} holds another state already: name an empty database or a new file."
                )
            for table in METADATA.tables.values():
                _copy(table, reading, writing)
            if _sums(writing) != sums:
                raise StorageError(
                    f"{target.address} is not equal to {source.address} after the copy: nothing was kept."
                )

        target.write(work)
    return sums


def state_sums(state: StateDatabase) -> dict[str, Sum]:
    """Return the sums of all tables at one moment."""
    with state.snapshot() as reading:
        return _sums(reading)


def _sums(connection: Connection) -> dict[str, Sum]:
    return {name: _sum(connection, table) for name, table in METADATA.tables.items()}


def _sum(connection: Connection, table: Table) -> Sum:
    rows = total = 0
    for part in _parts(connection, table):
        rows += len(part)
        total += sum(int.from_bytes(hashlib.sha256(repr(tuple(row)).encode()).digest()) for row in part)
    return Sum(rows, f"{total % _ALL:064x}")


def _copy(table: Table, reading: Connection, writing: Connection) -> None:
    writing.execute(delete(table))
    highest = None
    for part in _parts(reading, table):
        writing.execute(insert(table), [row._asdict() for row in part])
        highest = part[-1]
    if highest is not None and _is_numbered(table) and writing.dialect.name == "postgresql":
        given = {"name": table.name, "id": highest.id}
        writing.execute(text("SELECT setval(pg_get_serial_sequence(:name, 'id'), :id)"), given)


def _parts(connection: Connection, table: Table) -> Iterator[Sequence[Row[Any]]]:
    """Yield all rows; those of tables that grow with the years in parts, in the order of their numbers."""
    if not _is_numbered(table):
        if rows := connection.execute(select(table)).all():
            yield rows
        return
    following = select(table).where(table.c.id > bindparam("last")).order_by(table.c.id).limit(_BATCH)
    last = 0
    while part := connection.execute(following, {"last": last}).all():
        yield part
        last = part[-1].id


def _is_numbered(table: Table) -> bool:
    return table.primary_key.columns.keys() == ["id"]
