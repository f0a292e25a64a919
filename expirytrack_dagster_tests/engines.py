"""The engines that a state database may have, for tests that hold whatever keeps it.

Tests take the fixture `engine`, which comes twice. A time of a test's own is PostgreSQL's too: a function of the test's
stands before the server's, so that nothing in the product has to be moved aside.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol

import psycopg2

from expirytrack_dagster.state import StateDatabase
from expirytrack_dagster.state_address import StateAddress

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("sqlite", "postgresql")

_CLOCK = """
CREATE SCHEMA own;
CREATE UNLOGGED TABLE own.clock (at DOUBLE PRECISION NOT NULL);
INSERT INTO own.clock VALUES (0);
CREATE FUNCTION own.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
AS 'SELECT to_timestamp(at) FROM own.clock';
"""


class Engine(Protocol):
    """Where state databases come from."""

    name: str

    def fresh(self) -> StateAddress:
        """Return the address of an empty state database; those before it are not used any more."""
        ...

    def own_clock(self) -> None:
        """Let a server go by a clock of the test's, from the next connection on."""
        ...

    def set_time(self, seconds: float) -> None:
        """Let the server's clock show this time (seconds since the epoch), where there is a server."""
        ...


@dataclass
class Files:
    """SQLite files in a folder."""

    folder: Path
    name: str = "sqlite"
    _numbers: count[int] = field(default_factory=count)

    def fresh(self) -> StateAddress:
        """Name a file that is not there yet."""
        return StateAddress.of_file(self.folder / f"{next(self._numbers)}" / "state.sqlite")

    def own_clock(self) -> None:
        """Do nothing: a file has no clock."""

    def set_time(self, seconds: float) -> None:
        """Do nothing."""


@dataclass
class Server:
    """A database of a PostgreSQL server, emptied instead of made anew."""

    url: str
    name: str = "postgresql"
    _connection: Any = None
    _has_clock: bool = False

    def fresh(self) -> StateAddress:
        """Empty all tables, as the migrations leave them."""
        cursor = self._cursor()
        cursor.execute(
            "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE tableowner = current_user"
            " AND schemaname IN ('public', 'own') AND tablename NOT IN ('schema_version', 'clock')"
        )
        if tables := [name for (name,) in cursor.fetchall()]:
            cursor.execute(f"TRUNCATE {', '.join(tables)} RESTART IDENTITY; INSERT INTO metered VALUES (0, '[]')")  # noqa: S608 -- names of the migrations
        return StateAddress("postgresql", self.url)

    def own_clock(self) -> None:
        """Put a function of our own before the server's."""
        if not self._has_clock:
            cursor, name = self._cursor(), self.url.rpartition("/")[2]
            cursor.execute(f'{_CLOCK} ALTER DATABASE "{name}" SET search_path = own, pg_catalog, public')
            cursor.execute("SET search_path = own, pg_catalog, public")
            self._has_clock = True

    def set_time(self, seconds: float) -> None:
        """Set that clock."""
        self.own_clock()
        self._cursor().execute("UPDATE own.clock SET at = %s", (seconds,))

    def close(self) -> None:
        """End the connection."""
        if self._connection is not None:
            self._connection.close()

    def _cursor(self) -> Any:
        if self._connection is None:
            self._connection = psycopg2.connect(self.url, options="-c synchronous_commit=off")
            self._connection.autocommit = True
        return self._connection.cursor()


class TimedState(StateDatabase):
    """A state database whose server's clock shows what its user's does, for tests that are told the time."""

    def __init__(self, engine: Engine, *, timeout: float = 30.0, address: StateAddress | None = None) -> None:
        """Open an empty one, or another handle to the same one."""
        engine.own_clock()
        super().__init__(address or engine.fresh(), timeout=timeout)
        self._engine_of_test = engine

    def __reduce__(self) -> tuple[Any, ...]:
        """Stay in this process."""
        raise NotImplementedError

    def patient(self, timeout: float) -> TimedState:
        """Return another handle."""
        return TimedState(self._engine_of_test, timeout=timeout, address=self.address)

    def now(self, local: float | None = None) -> float:
        """Set the server's clock, and read it."""
        if local is not None:
            self._engine_of_test.set_time(local)
        return super().now(local)


@dataclass
class HostClock:
    """The time as tests set it: a server's clock shows it, this host's is wrong by `error` seconds where there is one.

    A file has no clock, so that its host's is the one that decides, and right.
    """

    engine: Engine
    time: float = 1_000_000.0
    error: float = 0.0
    _told: float | None = None

    def __post_init__(self) -> None:
        """Set the server's clock, before anybody connects."""
        self.now()

    def now(self) -> float:
        """Return what this host's clock shows."""
        if self._told != self.time:
            self.engine.set_time(self.time)
            self._told = self.time
        return self.time + (self.error if self.engine.name == "postgresql" else 0.0)

    async def sleep(self, seconds: float) -> None:
        """Move the time."""
        self.time += seconds
