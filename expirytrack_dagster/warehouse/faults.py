"""What DuckDB's and the operating system's errors mean, in the terms of the exception tree.

DuckDB tells most of these apart only in the text of its message; the texts are kept in this one place. They were read
off DuckDB 1.5.5 and are held to it by tests that damage, fill and lock real files. Deciding what to do about an error
(wait, give up) belongs to `connection.py`.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

import duckdb

from expirytrack_dagster.errors import (
    DatabaseCorrupt,
    DatabaseLocked,
    DatabaseUnreachable,
    DiskFull,
    EncryptionMismatch,
    StorageError,
    WrongKey,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LOCKED_ELSEWHERE = ("Could not set lock on file", "File is already open in", "database is locked")
_OPEN_HERE = ("with a different configuration than existing connections", "Unique file handle conflict")
_FULL = (
    "No space left on device",
    "Disk quota exceeded",
    "File too large",
    "not enough space",
    "failed to offload",
    "disk is full",
)
_DAMAGED = (
    *("not a valid DuckDB database file", "Corrupt database file", "Computed AES tag differs"),
    *("file is not a database", "database disk image is malformed"),
)
# Of PostgreSQL, and of an object store.
_AWAY = (
    "server closed the connection unexpectedly",
    "terminating connection",
    "the database system is",
    "Connection refused",
    "timeout expired",
    "could not translate host name",
    "No route to host",
    "Network is unreachable",
    "could not receive data from server",
    "could not send data to server",
    "no connection to the server",
    "SSL connection has been closed unexpectedly",
    "SSL SYSCALL error",
    "HTTP code 5",
    "HTTP 5",
    "Could not connect to server",
    "Could not establish connection",
)
_ENCRYPTED, _PLAIN, _OTHER_KEY = "without a key", "is not encrypted", "Wrong encryption key"
_COMMIT = "Failed to commit"
_CUT_OFF = "Could not read enough bytes"
# POSIX: `Conflicting lock is held in PROGRAM (PID 7). ...`; Windows: `File is already open in` and such a line below.
_HOLDER = re.compile(r"(?:lock is held in|already open in)\s+(.*?PID \d+\)?)", re.DOTALL)


def is_locked(error: BaseException) -> bool:
    """Say whether the file cannot be opened now because somebody has it open in a way that excludes us."""
    text = str(error)
    return isinstance(error, duckdb.Error) and any(sign in text for sign in (*_LOCKED_ELSEWHERE, *_OPEN_HERE))


def is_away(error: BaseException) -> bool:
    """Say whether a server did not answer, or has broken the connection."""
    return isinstance(error, duckdb.Error) and any(sign in str(error) for sign in _AWAY)


def locked(database: Path | str, error: BaseException | None) -> DatabaseLocked:
    """Return the error for a database that stayed held, with the holder's program and PID as far as DuckDB tells them.

    Args:
        database: the file.
        error: DuckDB's refusal; None when only our own lock file was held.
    """
    found = _HOLDER.search(str(error))
    if found:
        holder = " ".join(found.group(1).split())
    elif any(sign in str(error) for sign in _OPEN_HERE):
        holder = "another part of this same process"
    else:
        holder = "another part of ExpiryTrack"
    return DatabaseLocked(
        f"The database {database} is still held open by {holder}: close it there or end that program, then try again."
    )


def overtaken(place: Path | str, error: BaseException) -> DatabaseLocked:
    """Return the error for a transaction that was begun anew until patience ended."""
    reason = str(error).strip().splitlines()[-1].rstrip(".")
    return DatabaseLocked(f"Others were first each time, and nothing was stored in {place} ({reason}): try again.")


def _unreachable(place: Path | str, text: str) -> DatabaseUnreachable:
    line = next(line for line in text.splitlines() if any(sign in line for sign in _AWAY))
    reason = line.rpartition('": ')[2].strip().rstrip(".")  # before it, libpq and DuckDB name the address once more
    return DatabaseUnreachable(
        f"The archive {place} does not answer, and nothing was changed ({reason}): see that its server runs and can be "
        "reached, then try again."
    )


def storage_error(error: Exception, database: Path | str) -> StorageError:
    """Translate an error of DuckDB or of the operating system into the leaf that says what to do."""
    text = str(error)
    # DuckLake tells in the last line why a commit failed.
    lines = text.strip().splitlines() or [""]
    telling = lines[-1] if _COMMIT in lines[0] else lines[0]
    first_line = (error.strerror if isinstance(error, OSError) else None) or telling
    if (told := _unusable(error, database) or _mismatch(text, database)) is not None:
        return told
    if _OTHER_KEY in text:
        return WrongKey(
            f"The database {database} is encrypted with a key that the vault does not use: if a rotation was "
            "interrupted, run 'expirytrack keys rotate --archive' again, else put back the vault that belongs to it."
        )
    if any(sign in text for sign in _FULL):
        return DiskFull(
            f"There is no room left to write {database} ({first_line}): free some space and try again; "
            "what was stored before is unchanged."
        )
    # A cut-off Parquet file reads the same as a cut-off database: only the name tells them apart.
    if any(sign in text for sign in _DAMAGED) or (_CUT_OFF in text and str(database) in text):
        return DatabaseCorrupt(
            f"The database {database} is damaged and was left as it is ({first_line}): restore a backup, "
            "or move the file away and collect again."
        )
    return StorageError(
        f"The database {database} could not be used, and nothing was changed ({first_line}): see that the file and its "
        "folder belong to you."
        if isinstance(error, OSError)
        else f"The database {database} could not be used, and nothing was changed: {first_line}."
    )


def _unusable(error: Exception, database: Path | str) -> StorageError | None:
    if is_locked(error):
        return locked(database, error)
    return _unreachable(database, str(error)) if is_away(error) else None


def _mismatch(text: str, database: Path | str) -> EncryptionMismatch | None:
    if _ENCRYPTED in text:
        return EncryptionMismatch(
            f"The database {database} is encrypted and EXPIRYTRACK_ENCRYPTION is off: set it to on, or run "
            "'expirytrack decrypt'."
        )
    if _PLAIN in text:
        return EncryptionMismatch(
            f"The database {database} is not encrypted and EXPIRYTRACK_ENCRYPTION is on: run 'expirytrack encrypt', or "
            "set it to off."
        )
    return None


@contextmanager
def translated(database: Path | str) -> Iterator[None]:
    """Let errors of DuckDB leave the block as errors of the tree; all others pass unchanged.

    Raises:
        DatabaseLocked: another program has the file open.
        DatabaseUnreachable: a server does not answer.
        DatabaseCorrupt: the file is damaged.
        EncryptionMismatch: the file is encrypted and was opened without its key, or the other way round.
        WrongKey: it is encrypted with another key.
        DiskFull: there is no room left.
        StorageError: anything else, such as a missing permission, a broken constraint, a value of the wrong type.
    """
    try:
        yield
    except duckdb.Error as error:
        raise storage_error(error, database) from error
