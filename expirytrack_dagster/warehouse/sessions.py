"""Sessions with a lake, kept for the next use of this process.

To load the extensions, attach the lake and put the schema's views over it takes a third of a second, and what is then
asked often a tenth of that. An attached lake shows whatever was last committed and holds nobody up, so that the
database in memory to which it is attached can stay. Each use has a cursor of its own, which takes its temporary tables
with it; limits that it has set are set back. A session that was confined or met an error is not used again.
"""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    import duckdb


_LIMITS = """
SELECT name, value FROM duckdb_settings() WHERE name IN ('memory_limit', 'threads', 'lock_configuration')
"""

_MOST = 4
"""Idle sessions of a process; each has its views in memory and up to a few connections to the server."""


class Sessions:
    """Idle databases in memory by what is attached to them; threads may share it."""

    def __init__(self) -> None:
        """Begin with none."""
        self._lock = Lock()
        self._idle: OrderedDict[int, tuple[Hashable, duckdb.DuckDBPyConnection]] = OrderedDict()
        self._used: dict[int, tuple[Hashable, duckdb.DuckDBPyConnection, dict[str, str]]] = {}

    def take(self, key: Hashable, make: Callable[[], duckdb.DuckDBPyConnection]) -> duckdb.DuckDBPyConnection:
        """Return a cursor of an idle session with this key, or of a new one; `give_back` takes it again."""
        with self._lock:
            found = next((number for number, (known, _) in self._idle.items() if known == key), None)
            session = None if found is None else self._idle.pop(found)[1]
        session = session or make()
        cursor = session.cursor()
        with self._lock:
            self._used[id(cursor)] = key, session, _limits(cursor)
        return cursor

    def give_back(self, cursor: duckdb.DuckDBPyConnection) -> None:
        """Keep the session of a cursor, with the limits that it had; a cursor that is not of `take` is closed."""
        with self._lock:
            used = self._used.pop(id(cursor), None)
        if used is None:
            cursor.close()
            return
        key, session, limits = used
        now = _limits(cursor)
        locked = now["lock_configuration"] == "true"
        if not locked and now != limits:
            for name, value in limits.items():
                cursor.execute(f"SET {name} = '{value}'")
        cursor.close()
        if locked:
            session.close()
            return
        with self._lock:
            self._idle[id(session)] = key, session
            surplus = [self._idle.popitem(last=False)[1][1] for _ in range(len(self._idle) - _MOST)]
        for old in surplus:
            old.close()

    def forget(self, cursor: duckdb.DuckDBPyConnection) -> None:
        """Close a cursor with its session."""
        with self._lock:
            used = self._used.pop(id(cursor), None)
        cursor.close()
        if used is not None:
            used[1].close()


def _limits(cursor: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """Return the settings that a use may change for the next one."""
    return dict(cursor.execute(_LIMITS).fetchall())
