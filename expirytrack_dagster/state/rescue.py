"""What is saved of a damaged state database: a copy of the file, and the tracked underlyings in it.

Copying, reading what can still be read, and putting a new database in the damaged one's place belong here. When this
happens, and that no two processes do it at once, is decided in `sqlite.py`; what the loss means for the rate limits, in
`upstox/scopes.py`.
"""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def replace(path: Path, migrate: Callable[[sqlite3.Connection], None]) -> tuple[Path, list[str]]:
    """Keep the damaged file as `<name>.damaged-<UTC time>` and put a new one in its place, at once and whole.

    Until the very last step the damaged file stays where it is, so that a process that dies on the way changes
    nothing.

    Args:
        path: The damaged file.
        migrate: Makes the tables of an empty database.

    Returns:
        The copy, and the symbols of the underlyings that were saved.

    Raises:
        OSError: no room for the copy, or another program holds the file open (on Windows).
    """
    now = datetime.now(tz=UTC)
    kept = path.with_name(f"{path.name}.damaged-{now:%Y%m%dT%H%M%S.%fZ}")
    log, index, fresh = (path.with_name(f"{path.name}-{part}") for part in ("wal", "shm", "new"))
    shutil.copy2(path, kept)
    if log.exists():
        shutil.copy2(log, kept.with_name(f"{kept.name}-wal"))
    rows = _underlyings(kept)
    fresh.unlink(missing_ok=True)
    with closing(sqlite3.connect(fresh, isolation_level=None)) as connection:
        migrate(connection)
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT OR IGNORE INTO underlyings VALUES (?, ?, ?)", rows)
        connection.execute("INSERT INTO losses VALUES (?, ?)", (now.timestamp(), kept.name))
        connection.execute("COMMIT")
    for part in (log, index):  # SQLite would take them for parts of the new file
        part.unlink(missing_ok=True)
    fresh.replace(path)
    return kept, [row[0] for row in rows]


def _underlyings(kept: Path) -> list[tuple[Any, ...]]:
    """Return the rows of the table `underlyings` that are still readable; the copy does not change."""
    rows: list[tuple[Any, ...]] = []
    sql = "SELECT symbol, instrument_key, tracked_at FROM underlyings"
    try:
        with closing(sqlite3.connect(f"{kept.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            for row in connection.execute(sql):  # one by one: those before the damage are saved
                if isinstance(row[0], str) and isinstance(row[1], str):
                    rows.append(row)  # noqa: PERF401  -- a comprehension would lose all when the last row is damaged
    except sqlite3.Error:
        pass
    return rows
