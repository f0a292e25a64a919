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
from expirytrack_dagster.warehouse.schema import CATALOGUE, STORE
from expirytrack_dagster.warehouse.stores import Commit

if TYPE_CHECKING:
    import duckdb

    from expirytrack_dagster.warehouse.connection import Warehouse

SAFE = timedelta(days=1)
"""Age from which nobody can be in the middle of reading a file, or of writing one."""

# What the archive was at any time since then is kept: a snapshot goes when the one after it is older. DuckLake's own
# `older_than` would take it, and where the catalogue is SQLite compares days alone.
_OLDER = f"""
SELECT snapshot_id FROM {CATALOGUE}.ducklake_snapshot
QUALIFY lead(snapshot_time::TIMESTAMPTZ) OVER (ORDER BY snapshot_id) < $before
ORDER BY ALL
"""  # noqa: S608 -- our own name

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
    """Write rows out of the catalogue, merge files, expire what was before `keep`, and remove what is left over.

    Raises:
        ConfigurationError: the archive is no lake.
        StorageError: also DatabaseLocked; what was done before stays done.
    """
    require_lake(warehouse)
    commit, now = Commit(MAINTENANCE, tables=()), datetime.now(tz=UTC)
    # DuckLake lets one transaction either change rows or compact files.
    written = warehouse.write(partial(_called, "flush_inlined_data"), commit)
    with warehouse.reading() as connection:
        before = _files(connection)
    for compaction in ("rewrite_data_files", "merge_adjacent_files"):
        warehouse.write(partial(_called, compaction), commit)
    with warehouse.opened() as connection:
        after = _files(connection)
        expired = _expired(connection, now - keep)
        removed = len(_called("cleanup_old_files", connection, now - safe - _blur(connection)))
        removed += len(_called("delete_orphaned_files", connection, now - safe))
    return Maintained(sum(int(rows) for *_, rows in written), before, after, expired, removed)


def _expired(connection: duckdb.DuckDBPyConnection, before: datetime) -> int:
    """Let the snapshots go that were followed by another before then, and return how many those were."""
    old = [number for (number,) in connection.execute(_OLDER, {"before": before}).fetchall()]
    if old:
        connection.execute(f"CALL ducklake_expire_snapshots('{STORE}', versions => {old})")
    return len(old)


def _blur(connection: duckdb.DuckDBPyConnection) -> timedelta:
    """Return by how much DuckLake may take a time for an older one.

    In SQLite times are texts, and DuckLake compares only their days (seen with DuckLake 1.0): a file that was let go a
    minute ago would count as a day old after midnight.
    """
    engine = connection.execute("SELECT type FROM duckdb_databases() WHERE database_name = $1", [CATALOGUE]).fetchone()
    return timedelta(days=1) if engine == ("sqlite",) else timedelta(0)


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
