"""Keeping a lake small and quick: many small files become few, and what no snapshot needs any more is removed.

Nothing here disturbs who is at work. Compaction is one transaction, before which writers wait as before each other's;
readers see the same rows before and after. A file is removed a day after the last snapshot that had it was let go, so
that a query under way still finds it; and a file that no snapshot has, as an unfinished transaction's, is taken for
left behind when it is a day old. A file that holds a whole archive needs none of this.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

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
    commit = Commit(MAINTENANCE, tables=())
    # DuckLake lets one transaction either change rows or compact files.
    written = warehouse.write(partial(_called, "flush_inlined_data"), commit)
    with warehouse.reading() as connection:
        before = _files(connection)
    for compaction in ("rewrite_data_files", "merge_adjacent_files"):
        warehouse.write(partial(_called, compaction), commit)
    now = datetime.now(tz=UTC)
    with warehouse.opened() as connection:
        after = _files(connection)
        expired = len(_called("expire_snapshots", connection, now - keep))
        removed = len(_called("cleanup_old_files", connection, now - safe))
        removed += len(_called("delete_orphaned_files", connection, now - safe))
    return Maintained(sum(int(rows) for *_, rows in written), before, after, expired, removed)


def _files(connection: duckdb.DuckDBPyConnection) -> int:
    counting = f"SELECT coalesce(sum(file_count + delete_file_count), 0)::BIGINT FROM ducklake_table_info('{STORE}')"  # noqa: S608 -- our own name
    (files,) = connection.execute(counting).fetchone() or (0,)
    return int(files)


def _called(
    function: str, connection: duckdb.DuckDBPyConnection, before: datetime | None = None
) -> list[tuple[Any, ...]]:
    """Call a function of DuckLake's, or one that does away with what is older, and return what it tells."""
    older, bound = ("", {}) if before is None else (", older_than => $before", {"before": before})
    return connection.execute(f"CALL ducklake_{function}('{STORE}'{older})", bound).fetchall()
