"""Keeping a lake small and quick: many small files become few, and what no snapshot needs any more is removed.

Nothing here disturbs who is at work. Compaction is one transaction, before which writers wait as before each other's;
readers see the same rows before and after. A file is removed a day after the last snapshot that had it was let go, so
that a query under way still finds it; and a file that no snapshot has, as an unfinished transaction's, is taken for
left behind when it is a day old. A file that holds a whole archive needs none of this.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from expirytrack_dagster.warehouse.history import require_lake
from expirytrack_dagster.warehouse.schema import STORE
from expirytrack_dagster.warehouse.stores import Commit

if TYPE_CHECKING:
    import duckdb

    from expirytrack_dagster.warehouse.connection import Warehouse

SAFE = timedelta(days=1)
"""Age from which nobody can be in the middle of reading a file, or of writing one."""

MAINTENANCE = "maintenance"
"""What the history calls it."""


@dataclass(frozen=True, slots=True)
class Maintained:
    """What was done: rows written out of the catalogue, files merged into fewer, snapshots let go, files removed."""

    rows_written_out: int
    files_before: int
    files_after: int
    snapshots_expired: int
    files_removed: int

    @property
    def anything(self) -> bool:
        """Whether there was anything to do."""
        merged = self.files_before != self.files_after
        return bool(self.rows_written_out or merged or self.snapshots_expired or self.files_removed)


def maintain(warehouse: Warehouse, keep: timedelta, safe: timedelta = SAFE) -> Maintained:
    """Write rows out of the catalogue, merge files, let snapshots older than `keep` go, and remove what is left over.

    Raises:
        ConfigurationError: the archive is no lake.
        StorageError: also DatabaseLocked; what was done before stays done.
    """
    require_lake(warehouse)
    written, before, after = warehouse.write(_compact, Commit(MAINTENANCE, tables=()))
    now = datetime.now(tz=UTC)
    with warehouse.opened() as connection:
        expired = _called(connection, "expire_snapshots", now - keep)
        removed = _called(connection, "cleanup_old_files", now - safe)
        removed += _called(connection, "delete_orphaned_files", now - safe)
    return Maintained(written, before, after, expired, removed)


def _compact(connection: duckdb.DuckDBPyConnection) -> tuple[int, int, int]:
    written = connection.execute(f"CALL ducklake_flush_inlined_data('{STORE}')").fetchall()
    before = _files(connection)
    connection.execute(f"CALL ducklake_rewrite_data_files('{STORE}')").fetchall()
    connection.execute(f"CALL ducklake_merge_adjacent_files('{STORE}')").fetchall()
    return sum(int(rows) for *_, rows in written), before, _files(connection)


def _files(connection: duckdb.DuckDBPyConnection) -> int:
    counting = f"SELECT coalesce(sum(file_count + delete_file_count), 0)::BIGINT FROM ducklake_table_info('{STORE}')"  # noqa: S608 -- our own name
    (files,) = connection.execute(counting).fetchone() or (0,)
    return int(files)


def _called(connection: duckdb.DuckDBPyConnection, function: str, before: datetime) -> int:
    """Call a function of DuckLake's that does away with what is older, and return how many things those were."""
    return len(
        connection.execute(f"CALL ducklake_{function}('{STORE}', older_than => $before)", {"before": before}).fetchall()
    )
