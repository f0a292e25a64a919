"""An archive copied to another address, a cell at a time, and proved equal table by table.

A cell (an underlying at an expiry; without an expiry, what is made of all of an underlying's) is copied in one
transaction of the target, small ones together, and proved within it. Nothing is written down about what is done: a cell
is done when the target's rows are as many as the source's, with the same sum of hashes. So a copy that was killed goes
on where it was.

What the target holds must have come from this very source: archives that were collected apart never discovered a date
in the same microsecond. A cell that has become another one at the source since is replaced, unless the target's is the
later one. How rows get from one kind of store to another is `warehouse/transfer.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from expirytrack_dagster.errors import ConfigurationError, StorageError
from expirytrack_dagster.warehouse.encryption import quoted
from expirytrack_dagster.warehouse.migrate import migrations
from expirytrack_dagster.warehouse.schema import tables
from expirytrack_dagster.warehouse.seals import WIDTH
from expirytrack_dagster.warehouse.stores import Commit
from expirytrack_dagster.warehouse.sums import TableSum
from expirytrack_dagster.warehouse.transfer import VERSIONS, copy_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    import duckdb

    from expirytrack_dagster.warehouse.connection import Warehouse
    from expirytrack_dagster.warehouse.schema import Table

Unit: TypeAlias = tuple[str, date | None]

SMALL = 100_000
"""Rows up to which cells share a transaction: a commit to a lake takes as long as so many rows."""

_TIMES = ("checked_at", "sealed_at", "reviewed_at", "quarantined_at", "derived_at")


class Piece(NamedTuple):
    """A cell's rows of one table: their number and sum, and when the last of them was made, where that is kept."""

    sum: TableSum
    latest: int


@dataclass(slots=True)
class Contents:
    """An archive as numbers: its cells' rows by table, and when each of its dates was discovered (microseconds)."""

    cells: dict[Unit, dict[str, Piece]] = field(default_factory=dict)
    discovered: dict[Unit, int] = field(default_factory=dict)

    def sums(self, unit: Unit) -> dict[str, TableSum]:
        """Return the rows of a cell by table; nothing of what has none."""
        return {table: piece.sum for table, piece in self.cells.get(unit, {}).items()}

    def rows(self, unit: Unit) -> int:
        """Return how many rows a cell has in all tables."""
        return sum(found.rows for found in self.sums(unit).values())

    def latest(self, unit: Unit) -> int:
        """Return when anything of a cell was last made."""
        return max((piece.latest for piece in self.cells.get(unit, {}).values()), default=0)

    def table(self, name: str) -> TableSum:
        """Return the whole of a table."""
        found = [sums[name].sum for sums in self.cells.values() if name in sums]
        return TableSum(sum(one.rows for one in found), sum(one.checksum for one in found) % int(WIDTH))


@dataclass(frozen=True, slots=True)
class Copied:
    """What became of a copy: every table on both sides, how many cells were copied and were there, and their rows.

    `changed` are the cells that somebody has changed at the source since they were copied.
    """

    tables: dict[str, tuple[TableSum, TableSum]]
    copied: int
    there: int
    rows: int
    changed: tuple[Unit, ...]

    @property
    def equal(self) -> bool:
        """Whether both sides hold the same."""
        return all(source == target for source, target in self.tables.values())


def copy_archive(
    source: Warehouse, target: Warehouse, progress: Callable[[int, int], None] = lambda _done, _all: None
) -> Copied:
    """Copy what the target does not hold yet, and compare both sides as they are at the end.

    Args:
        source: may be used by others meanwhile; of one in a file, they wait while a cell is read.
        target: may not be there yet.
        progress: told how many rows are copied, and how many there will be.

    Raises:
        ConfigurationError: what the target holds is not of this source, or is later than it.
        StorageError: also DatabaseLocked and DiskFull; what was copied stays, and the same call goes on.
    """
    before, found = contents(source), contents(target) if target.exists() else Contents()
    _require_part(before, found, target)
    left = [unit for unit in before.cells if before.sums(unit) != found.sums(unit)]
    total, done = sum(before.rows(unit) for unit in left), 0
    for units in _batches(left, before):
        done += _copy(source, target, units, found)
        progress(done, total)
    after, there = contents(source), contents(target)
    changed = tuple(unit for unit in {**before.cells, **after.cells} if before.sums(unit) != after.sums(unit))
    for unit in after.cells:
        if unit not in changed and after.sums(unit) != there.sums(unit):
            raise StorageError(
                f"{_name(unit)} is not in {target.store.place} as it is in {source.store.place}: something else writes "
                "there. End it, and run the same command again."
            )
    names = [table.name for table in _tables()]
    both = {name: (after.table(name), there.table(name)) for name in names}
    return Copied(both, len(left), len(before.cells) - len(left), done, changed)


def contents(warehouse: Warehouse) -> Contents:
    """Read every row of every table once; raises like `Warehouse.reading`."""
    with warehouse.moment() as connection:
        return _contents(connection)


def _contents(connection: duckdb.DuckDBPyConnection, unit: Unit | None = None) -> Contents:
    found, (condition, bound) = Contents(), ("true", {}) if unit is None else _of(unit)
    summed = " UNION ALL ".join(
        f"({_summing(table)} WHERE {condition} GROUP BY underlying, expiry)" for table in _tables()
    )
    for name, symbol, day, rows, checksum, latest in connection.execute(f"{summed} ORDER BY ALL", bound).fetchall():
        found.cells.setdefault((symbol, day), {})[name] = Piece(TableSum(rows, checksum), latest)
    known = f"SELECT underlying, expiry, epoch_us(discovered_at) FROM expiries WHERE {condition}"  # noqa: S608 -- our own condition
    found.discovered = {(symbol, day): at for symbol, day, at in connection.execute(known, bound).fetchall()}
    return found


def _summing(table: Table) -> str:
    """Return the beginning of a query for the number, the sum and the latest moment of a table's rows."""
    names = [column.name for column in table.columns]
    hashed = ", ".join(map(quoted, names))
    made = next((f"coalesce(max(epoch_us({name})), 0)" for name in _TIMES if name in names), "0")
    return (
        f"SELECT '{table.name}' AS name, underlying, expiry, count(*), (sum(hash({hashed})) % {WIDTH})::UBIGINT, {made}"  # noqa: S608 -- names of our own migrations
        f" FROM {quoted(table.name)}"
    )


def _batches(units: Iterable[Unit], held: Contents) -> Iterator[list[Unit]]:
    """Put cells together that are too small for a transaction each, in their order."""
    batch: list[Unit] = []
    for unit in units:
        if batch and sum(map(held.rows, batch)) + held.rows(unit) > SMALL:
            yield batch
            batch = []
        batch.append(unit)
    if batch:
        yield batch


def _copy(source: Warehouse, target: Warehouse, units: list[Unit], found: Contents) -> int:
    """Replace cells of the target, which holds what was found, in one transaction; return how many rows they have."""
    with source.moment() as read:

        def work(written: duckdb.DuckDBPyConnection) -> int:
            return sum(_replace(read, written, unit, found.sums(unit)) for unit in units)

        return target.write(work, Commit("move", tuple(units)))


def _replace(
    read: duckdb.DuckDBPyConnection, written: duckdb.DuckDBPyConnection, unit: Unit, held: Collection[str]
) -> int:
    """Replace a cell, which the target holds in some tables, and prove that it arrived.

    Raises:
        StorageError: it did not.
    """
    (condition, bound), wanted, rows = _of(unit), _contents(read, unit).sums(unit), 0
    for table in _tables():
        if table.name in held:
            written.execute(f"DELETE FROM main.{quoted(table.name)} WHERE {condition}", bound)  # noqa: S608 -- as above
        if table.name in wanted:
            rows += copy_rows(read, written, table, condition, bound)
    if _contents(written, unit).sums(unit) != wanted:
        raise StorageError(
            f"{_name(unit)} did not arrive as it is, and nothing of it was kept: check the disk, and run the same "
            "command again."
        )
    return rows


def _require_part(source: Contents, found: Contents, target: Warehouse) -> None:
    """Refuse a target that holds what is not of this source.

    Raises:
        ConfigurationError: a sentence with the first such cell.
    """
    for unit in found.cells:
        if unit not in source.cells or found.discovered.get(unit) != source.discovered.get(unit):
            raise ConfigurationError(
                f"{target.store.place} holds {_name(unit)}, which is not of this archive: name a place that is empty, "
                "or one to which this very archive was being moved."
            )
        if found.sums(unit) != source.sums(unit) and found.latest(unit) > source.latest(unit):
            raise ConfigurationError(
                f"{target.store.place} holds {_name(unit)} as it was made later than in this archive: it has been used "
                "since. Name a place that is empty."
            )


def _tables() -> list[Table]:
    return [table for table in tables(migrations()[-1].version) if table.name != VERSIONS]


def _of(unit: Unit) -> tuple[str, Mapping[str, str | date]]:
    symbol, day = unit
    if day is None:
        return "underlying = $underlying AND expiry IS NULL", {"underlying": symbol}
    return "underlying = $underlying AND expiry = $expiry", {"underlying": symbol, "expiry": day}


def _name(unit: Unit) -> str:
    return f"{unit[0]} {unit[1] or 'without an expiry'}"
