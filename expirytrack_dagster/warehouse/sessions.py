"""Sessions that read a lake, kept for the next reader of this process.

To load the extensions, attach the lake and put the schema's views over it takes a third of a second, and a reader's
question often a tenth of that. An attached lake shows whatever was last committed and holds nobody up, so that the
database in memory to which it is attached can stay. Each use has a cursor of its own, which takes its temporary tables
with it. A session that was confined, changed in another way or met an error is not used again; nor are those that
write, because functions of Python do not outlive the cursor that made them.
"""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    import duckdb

_Settings: TypeAlias = tuple[Any, ...] | None

_MOST = 4
"""Idle sessions of a process; each has its views in memory and up to a few connections to the server."""


class Sessions:
    """Idle databases in memory by what is attached to them; threads may share it."""

    def __init__(self) -> None:
        """Begin with none."""
        self._lock = Lock()
        self._idle: OrderedDict[int, tuple[Hashable, duckdb.DuckDBPyConnection]] = OrderedDict()
        self._used: dict[int, tuple[Hashable, duckdb.DuckDBPyConnection, _Settings]] = {}

    def take(self, key: Hashable, make: Callable[[], duckdb.DuckDBPyConnection]) -> duckdb.DuckDBPyConnection:
        """Return a cursor of an idle session with this key, or of a new one; `give_back` takes it again."""
        with self._lock:
            found = next((number for number, (known, _) in self._idle.items() if known == key), None)
            session = None if found is None else self._idle.pop(found)[1]
        session = session or make()
        cursor = session.cursor()
        with self._lock:
            self._used[id(cursor)] = key, session, _settings(cursor)
        return cursor

    def give_back(self, cursor: duckdb.DuckDBPyConnection) -> None:
        """Keep the session of a cursor unless its settings are others now; a cursor not of `take` is closed."""
        with self._lock:
            used = self._used.pop(id(cursor), None)
        if used is None:
            cursor.close()
            return
        key, session, settings = used
        unchanged = _settings(cursor) == settings
        cursor.close()
        if not unchanged:
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


def _settings(cursor: duckdb.DuckDBPyConnection) -> _Settings:
    """Return the settings of a session that a use may change for the next one."""
    return cursor.execute(
        "SELECT current_setting('memory_limit'), current_setting('threads'), current_setting('lock_configuration')"
    ).fetchone()
