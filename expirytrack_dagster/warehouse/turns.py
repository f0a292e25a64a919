"""Who may write to a lake now: transactions that write the same take turns, so that none of them is done in vain.

Two transactions that both only insert do not conflict in DuckLake, and so a cell that two collectors bring for the
first time would be there twice. In PostgreSQL each transaction therefore holds advisory locks: its cells for itself,
their underlyings and the archive in common with others; who names an underlying or the archive as a whole has that for
itself. They end with the session, whatever becomes of its process; and since a session may end while the lake's goes
on, a turn is yielded with what asks, right before the commit, whether it is still held. SQLite lets one transaction
commit that has seen the newest state, and refuses all others, so that its writers stand in one line, at a lock file
beside the catalogue. Readers pass neither.
"""

from __future__ import annotations

import hashlib
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import duckdb
from filelock import FileLock, Timeout

from expirytrack_dagster.errors import DatabaseLocked
from expirytrack_dagster.warehouse.schema import CATALOGUE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from expirytrack_dagster.warehouse.stores import Commit

_TIMED_OUT = "lock timeout"


@contextmanager
def file_turn(catalogue: Path, patience: float) -> Iterator[Callable[[], None]]:
    """Hold the one turn that there is, which nothing can take from this process.

    Raises:
        DatabaseLocked: it did not come in so many seconds.
    """
    lock = FileLock(f"{catalogue}.turn")
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        raise _late(catalogue) from None
    try:
        yield lambda: None
    finally:
        lock.release()


@contextmanager
def server_turn(connection: duckdb.DuckDBPyConnection, commit: Commit, patience: float) -> Iterator[Callable[[], None]]:
    """Hold the turns that a commit needs, in a transaction of PostgreSQL beside that of the lake.

    Yields what raises `duckdb.Error` when that transaction has ended, and others may have had the same turns since.

    Raises:
        DatabaseLocked: they did not come in so many seconds.
    """
    deadline = time.monotonic() + patience
    with connection.cursor() as beside:
        beside.begin()
        try:
            for name, shared in _locks(commit):
                left = max(1, round((deadline - time.monotonic()) * 1000))
                _ask(beside, f"SELECT set_config('lock_timeout', '{left}ms', true)")
                _ask(beside, f"SELECT pg_advisory_xact_lock{'_shared' if shared else ''}({_number(name)})::text")
            yield lambda: _ask(beside, "SELECT 1")
        except duckdb.Error as error:
            if _TIMED_OUT in str(error):
                raise _late(commit.what) from error
            raise
        finally:
            with suppress(duckdb.Error):  # one that has failed has ended
                beside.rollback()


def _locks(commit: Commit) -> list[tuple[str, bool]]:
    """Return what is locked, each with whether in common with others; in one order, so that nobody waits in a ring."""
    if not commit.cells:
        return [("archive", False)]
    wanted: dict[str, bool] = {"archive": True}
    for underlying, expiry in commit.cells:
        wanted[underlying] = expiry is not None and wanted.get(underlying, True)
        if expiry is not None:
            wanted[f"{underlying} {expiry}"] = False
    return sorted(wanted.items(), key=lambda lock: (lock[0] != "archive", lock[0]))


def _number(name: str) -> int:
    """Return the number that stands for a name; PostgreSQL's locks have 64 bits with a sign."""
    digest = hashlib.blake2b(f"expirytrack {name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, signed=True)


def _ask(connection: duckdb.DuckDBPyConnection, statement: str) -> None:
    quoted = statement.replace("'", "''")
    connection.execute(f"FROM postgres_query('{CATALOGUE}', '{quoted}')").fetchall()


def _late(what: object) -> DatabaseLocked:
    return DatabaseLocked(f"Others have written the same ({what}) for too long: try again, nothing was changed.")
