"""A whole state database copied from one address to another, and proved to be equal.

The copy is one transaction, from the look at what the target holds to the proof: one that was cut off has left the
target as it was, and is simply made again. What is read is one moment of the source, which others may go on using;
nobody should use the target yet.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import bindparam, delete, insert, select, text

from expirytrack_dagster.errors import ConfigurationError, StorageError
from expirytrack_dagster.state.tables import METADATA

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sqlalchemy import Connection, Row, Table

    from expirytrack_dagster.state import StateDatabase

_BATCH = 5_000
_ALL = 1 << 256
_OF_SERVER = "SELECT pg_postmaster_start_time()::text, current_database()::text, 'requests'::regclass::oid::bigint"


@dataclass(frozen=True, slots=True)
class Sum:
    """Rows of a table, and the sum of their SHA-256 hashes, in whatever order they are."""

    rows: int
    sha256: str


class Copy(NamedTuple):
    """The sums of all tables, and whether the target held the very same before."""

    sums: dict[str, Sum]
    there: bool


def copy_state(
    source: StateDatabase,
    target: StateDatabase,
    may_replace: Callable[[StateDatabase, StateDatabase], bool] = lambda _source, _target: False,
) -> Copy:
    """Copy every table; if the target holds the very same already, nothing is done.

    The id that comes next is one that was never given, so that requests go on being told apart.

    Args:
        source: what is copied.
        target: where to; an empty one, or one that `may_replace` lets go.
        may_replace: told both within the two transactions, whether what the target holds is nobody's loss.

    Raises:
        ConfigurationError: the target is the source, or holds something else.
        StorageError: the target is not equal in the end, which leaves it as it was; also DiskFull.
        StateBusy: one of the two cannot be used for a while; the target is as it was.
    """
    with source.snapshot() as reading:
        sums = _sums(reading)
        with target.transaction() as writing:
            if _identity(source, reading) == _identity(target, writing):
                raise ConfigurationError(f"The state database is at {target.address} already.")
            found = _sums(writing)
            if found == sums:
                return Copy(sums, there=True)
            empty = not any(of_table.rows for name, of_table in found.items() if name != "metered")
            if not (empty or may_replace(source, target)):
                raise ConfigurationError(
                    f"{target.address} holds records that are not of {source.address}: name a database that is empty, "
                    "or one to which this very one was moved."
                )
            for table in reversed(METADATA.tables.values()):
                writing.execute(delete(table))
            for table in METADATA.tables.values():
                _copy(table, reading, writing)
            if _sums(writing) != sums:
                raise StorageError(
                    f"{target.address} is not equal to {source.address} after the copy: nothing was kept."
                )
    return Copy(sums, there=False)


def state_sums(state: StateDatabase) -> dict[str, Sum]:
    """Return the sums of all tables at one moment."""
    with state.snapshot() as reading:
        return _sums(reading)


def _identity(state: StateDatabase, connection: Connection) -> tuple[object, ...]:
    """Return what one database has under all its addresses, and no other database has at the same time."""
    if connection.dialect.name == "sqlite":
        file = state.address.path.stat()
        return file.st_dev, file.st_ino
    return tuple(connection.exec_driver_sql(_OF_SERVER).one())


def _sums(connection: Connection) -> dict[str, Sum]:
    return {name: _sum(connection, table) for name, table in METADATA.tables.items()}


def _sum(connection: Connection, table: Table) -> Sum:
    rows = total = 0
    for part in _parts(connection, table):
        rows += len(part)
        total += sum(int.from_bytes(hashlib.sha256(repr(tuple(row)).encode()).digest()) for row in part)
    return Sum(rows, f"{total % _ALL:064x}")


def _copy(table: Table, reading: Connection, writing: Connection) -> None:
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
