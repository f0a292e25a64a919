"""Sessions with a lake, kept for the next use of this process.

To load the extensions, attach the lake and put the schema's views over it takes a third of a second, and what is then
asked often a tenth of that. An attached lake shows whatever was last committed and holds nobody up, so that the
database in memory to which it is attached can stay. Each use has a cursor of its own, which takes its temporary tables
with it; what it has set is set back. A session that was confined or met an error is not used again, and one whose
cursor nobody gives back ends when that is let go.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import duckdb

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

_SETTINGS = "SELECT name, value FROM duckdb_settings() WHERE scope = 'GLOBAL'"  # all others are the cursor's own

_MOST = 4
"""Idle sessions of a process; each has its views in memory and up to a few connections to the server."""


@dataclass(frozen=True, slots=True)
class _Use:
    """A session that is used: by what it is found again, with what it was made, and its settings before."""

    key: Hashable
    session: duckdb.DuckDBPyConnection
    config: Mapping[str, str | int]
    settings: Mapping[str, str]


class Sessions:
    """Idle databases in memory by what is attached to them; threads may share it."""

    def __init__(self) -> None:
        """Begin with none."""
        self._lock = Lock()
        self._idle: OrderedDict[int, tuple[Hashable, duckdb.DuckDBPyConnection]] = OrderedDict()
        self._used: WeakKeyDictionary[duckdb.DuckDBPyConnection, _Use] = WeakKeyDictionary()

    def take(
        self, key: Hashable, config: Mapping[str, str | int], make: Callable[[], duckdb.DuckDBPyConnection]
    ) -> duckdb.DuckDBPyConnection:
        """Return a cursor of an idle session with this key, or of a new one; `give_back` takes it again.

        Args:
            key: what two uses must have in common to have one session after the other.
            config: the settings with which `make` makes one.
            make: returns a new one.
        """
        with self._lock:
            found = next((number for number, (known, _) in self._idle.items() if known == key), None)
            session = None if found is None else self._idle.pop(found)[1]
        session = session or make()
        cursor = session.cursor()
        with self._lock:
            self._used[cursor] = _Use(key, session, config, _settings(cursor))
        return cursor

    def give_back(self, cursor: duckdb.DuckDBPyConnection) -> None:
        """Keep the session of a cursor, with the settings that it had; a cursor that is not of `take` is closed."""
        with self._lock:
            use = self._used.pop(cursor, None)
        keep = use is not None and _set_back(cursor, use)
        cursor.close()
        if use is None:
            return
        if not keep:
            use.session.close()
            return
        with self._lock:
            self._idle[id(use.session)] = use.key, use.session
            surplus = [self._idle.popitem(last=False)[1][1] for _ in range(len(self._idle) - _MOST)]
        for old in surplus:
            old.close()

    def forget(self, cursor: duckdb.DuckDBPyConnection) -> None:
        """Close a cursor with its session."""
        with self._lock:
            use = self._used.pop(cursor, None)
        cursor.close()
        if use is not None:
            use.session.close()


def _settings(cursor: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """Return the settings that a use may change for the next one."""
    return dict(cursor.execute(_SETTINGS).fetchall())


def _set_back(cursor: duckdb.DuckDBPyConnection, use: _Use) -> bool:
    """Give a session the settings that it had, and say whether it takes them.

    What it was made with is set as it was then: DuckDB shows it rounded (3.7 GiB), again and again it would become
    less. All else was DuckDB's own choice, some of which follows from these.
    """
    now = _settings(cursor)
    if now == use.settings:
        return True
    if now["lock_configuration"] == "true":
        return False
    try:
        for name, value in use.config.items():
            cursor.execute(f"SET GLOBAL {name} = '{value}'")
        for name, value in _settings(cursor).items():
            if use.settings.get(name) != value:
                cursor.execute(f"RESET GLOBAL {name}")
    except duckdb.Error:
        return False
    return True
