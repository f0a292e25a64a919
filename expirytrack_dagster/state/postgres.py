"""The state database in PostgreSQL: connecting, waiting for a server that restarts, migrations, what errors mean.

Transactions that write run one after another where those of a file would, held by an advisory lock; the rate ledger
locks its scope's row instead, so that scopes do not wait for one another (`database.py`, `alone`). A host that vanishes
gives its locks back after `_ABANDONED`. Everything is at READ COMMITTED: whoever has waited for a lock sees, in the
next statement, what was committed meanwhile.

The driver is psycopg2; libpq finds a password by its own means, and no message of ours holds one.
"""

from __future__ import annotations

import re
import threading
import time
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from expirytrack_dagster.address import without_password
from expirytrack_dagster.errors import (
    ConfigurationError,
    DiskFull,
    ExpiryTrackError,
    SchemaTooNew,
    StateLocked,
    StateLost,
    StateUnreachable,
    StorageError,
)
from expirytrack_dagster.state import schema

if TYPE_CHECKING:
    from sqlalchemy import Connection

_ALONE, _MIGRATING = 0x457870, 0x457871
"""Advisory locks: of transactions that write, and of whoever makes the tables."""
_ABANDONED = 20
"""Seconds after which the server ends a transaction whose client is silent, and gives its locks back: sooner than those
who wait for them give up, as a rule after thirty."""
_POLL = 0.2
_FINAL = re.compile(
    r"authentication failed|pg_hba\.conf|no password supplied|does not exist|permission denied"
    r"|invalid (?:dsn|port number|command-line argument|value for parameter|\w+ value)|could not match"
    r"|definition of service .* not found|unrecognized configuration parameter",
    re.IGNORECASE,
)
"""What waiting does not cure, in the words of servers and libpq; any other refusal may be that of a restart.

A host whose name is not known is one that waiting may cure: that of a container which is being replaced is known again.
"""

_BUSY = frozenset({"55P03", "57014", "40P01", "40001"})  # lock and statement timeout, deadlock, serialisation
_GONE = frozenset({"57P01", "57P02", "57P03", "25P03", "57P05"})  # ended by an administrator, a crash, or for silence
_FULL = frozenset({"53100", "54000"})
_REFUSED = frozenset({"42501", "25006"})  # no right; a server that only reads


class PostgresDatabase:
    """How connections to one database are made, and what their errors mean."""

    # A reader holds nobody up, and is silent while a copy of what it reads is compared elsewhere.
    begin_reading = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL idle_in_transaction_session_timeout = 0"

    def __init__(self, url: str, timeout: float) -> None:
        """Remember the address; nothing is opened yet.

        Raises:
            ConfigurationError: the driver is not installed.
        """
        self._url = url
        self._timeout = timeout
        self._last = threading.local()  # the number of this thread's transaction, to ask what became of it
        try:
            self._engine = create_engine(
                "postgresql+psycopg2://", creator=self._connect, poolclass=NullPool, use_native_hstore=False
            )
        except ImportError:
            raise ConfigurationError(
                "A state database in PostgreSQL needs its driver: run pip install 'expirytrack-dagster[scale]'."
            ) from None

    def connect(self) -> Connection:
        """Return a new connection to a database whose tables are there; a server that restarts is waited for.

        Raises:
            StateUnreachable: no server answered within the timeout.
            StorageError: it refuses us.
        """
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                return self._engine.connect()
            except DBAPIError as error:
                said = _said(error)
                if _FINAL.search(said):
                    raise StorageError(
                        f"{self._url} refuses the connection ({said}): check the user, the database and the rest of "
                        "the address, and the password in ~/.pgpass or PGPASSWORD."
                    ) from None
                if time.monotonic() >= deadline:
                    raise StateUnreachable(
                        f"{self._url} cannot be reached ({said}): start PostgreSQL or check the address, and run the "
                        "same command again."
                    ) from None
            time.sleep(min(_POLL, max(0.0, deadline - time.monotonic())))

    def is_current(self, connection: Connection) -> bool:
        """Say whether the connection still leads to the database: it does until it breaks."""
        return not connection.closed and not connection.invalidated

    def begin(self, connection: Connection, *, alone: bool) -> None:
        """Begin a transaction; one that is `alone` waits until no other such one is open."""
        lock = f"SELECT pg_advisory_xact_lock({_ALONE}); " if alone else ""
        with _driver(connection).cursor() as cursor:
            cursor.execute(f"BEGIN; {lock}SELECT pg_current_xact_id()::text, pg_postmaster_start_time()::text")
            self._last.number, self._last.server = cursor.fetchone()

    def in_transaction(self, connection: Connection) -> bool:
        """Say whether a transaction is open."""
        if connection.closed or connection.invalidated:
            return False
        driver = _driver(connection)
        return not driver.closed and driver.info.transaction_status != 0

    def commit(self, connection: Connection) -> None:
        """Keep what the transaction wrote."""
        with _driver(connection).cursor() as cursor:
            cursor.execute("COMMIT")

    def was_committed(self) -> bool:
        """Say what became of this thread's last transaction, whose end was lost with its connection.

        Raises:
            StateUnreachable: the server has not ended it within the timeout, so that nobody knows yet.
            StorageError: as `connect`.
        """
        deadline, look = time.monotonic() + self._timeout, f"SELECT pg_xact_status('{self._last.number}'::xid8)"
        with self.connect() as connection:
            # A server that crashed gives numbers anew that never reached its disk: there the work is done again.
            if connection.exec_driver_sql("SELECT pg_postmaster_start_time()::text").scalar() != self._last.server:
                return False
            while (status := connection.exec_driver_sql(look).scalar()) == "in progress":
                if time.monotonic() >= deadline:
                    raise StateUnreachable(
                        f"{self._url} does not say yet whether the last step was kept: run the same command again in "
                        "a minute."
                    )
                time.sleep(_POLL)
        return bool(status == "committed")

    def is_broken(self, error: Exception) -> bool:
        """Say whether the connection is of no use after this error."""
        if isinstance(error, DBAPIError) and error.connection_invalidated:
            return True
        cause, driver = _cause(error), self._engine.dialect.loaded_dbapi
        if not isinstance(cause, driver.Error):
            return False
        code = getattr(cause, "pgcode", None)
        return code in _GONE or (code is None and isinstance(cause, driver.OperationalError | driver.InterfaceError))

    def typed(self, error: Exception) -> ExpiryTrackError | None:
        """Return our error for PostgreSQL's, or None for a mistake in the SQL, which is a defect and stays as it is."""
        code, said = getattr(_cause(error), "pgcode", None), _said(error)
        if self.is_broken(error):
            return StateLost(
                f"The connection to {self._url} broke ({said}); nothing of this step was kept: run the same command "
                "again."
            )
        if code in _BUSY:
            return StateLocked(f"{self._url} was held by another process for {self._timeout:g} s: try again.")
        if code in _FULL:
            return DiskFull(f"There is no room left for {self._url}: free some space and run the same command again.")
        if code in _REFUSED:
            return StorageError(f"{self._url} does not let us write ({said}): give this user the rights of its owner.")
        if isinstance(error, UnicodeEncodeError) or (isinstance(error, ValueError) and "NUL" in said):  # of the driver
            return StorageError(
                f"{self._url} cannot keep a text ({said}): no text may hold NUL, and the database must be UTF8."
            )
        return None

    def _connect(self) -> Any:
        import psycopg2.extensions  # noqa: PLC0415 -- only where there is a server

        driver = psycopg2.connect(
            **{
                "connect_timeout": max(2, round(min(self._timeout, 10))),
                "fallback_application_name": "expirytrack",
                "keepalives_idle": 30,
                "keepalives_interval": 10,
                "keepalives_count": 3,
                "tcp_user_timeout": _ABANDONED * 1000,
            }
            | psycopg2.extensions.parse_dsn(self._url)
        )
        driver.autocommit = True  # transactions are begun and ended in words, as on SQLite
        try:
            self._prepare(driver)
        except BaseException:
            driver.close()
            raise
        return driver

    def _prepare(self, driver: Any) -> None:
        files, wait = schema.scripts(), max(1, round(self._timeout * 1000))
        # Not as `options`, which would take the place of those of the address, of PGOPTIONS and of PGSERVICE.
        session = {
            "lock_timeout": wait,
            "statement_timeout": 2 * wait,
            "idle_in_transaction_session_timeout": _ABANDONED * 1000,
            "default_transaction_isolation": "read committed",
            "timezone": "UTC",
        }
        with driver.cursor() as cursor:
            cursor.execute("; ".join(f"SET {name} = '{value}'" for name, value in session.items()))
            if self._version(cursor) == len(files):
                return
            cursor.execute("SELECT pg_advisory_lock(%s)", (_MIGRATING,))
            try:
                version = self._version(cursor)
                if version > len(files):
                    raise SchemaTooNew(
                        f"{self._url} was written by a newer version of ExpiryTrack (schema {version}, this one knows "
                        f"{len(files)}): upgrade ExpiryTrack."
                    )
                for number, script in enumerate(files[version:], start=version + 1):
                    made = "CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL)"
                    kept = f"DELETE FROM schema_version; INSERT INTO schema_version VALUES ({number})"  # noqa: S608
                    cursor.execute(f"BEGIN;\n{made};\n{schema.for_postgres(script)}\n{kept};\nCOMMIT")
            finally:
                if not driver.closed:
                    cursor.execute("ROLLBACK" if driver.info.transaction_status else "SELECT 1")
                    cursor.execute("SELECT pg_advisory_unlock(%s)", (_MIGRATING,))

    def _version(self, cursor: Any) -> int:
        cursor.execute("SELECT to_regclass('schema_version') IS NOT NULL")
        if not cursor.fetchone()[0]:
            return 0
        cursor.execute("SELECT version FROM schema_version")
        found = cursor.fetchone()
        return int(found[0]) if found else 0


def _driver(connection: Connection) -> Any:
    """Return the driver's own connection, which begins and ends a transaction in less time than SQLAlchemy."""
    return connection.connection.driver_connection


def _cause(error: Exception) -> BaseException | None:
    return error.orig if isinstance(error, DBAPIError) else error


def _said(error: Exception) -> str:
    """Return a line of what the server or libpq said, without a password: that of a refusal, else the first.

    Where an address names several hosts, or a host has several addresses, libpq says a line or two of each.
    """
    lines = str(_cause(error)).strip().splitlines() or ["no reason given"]
    line = next(filter(_FINAL.search, lines), lines[0])
    return without_password(line.rstrip(" .")).removeprefix("FATAL:  ")
