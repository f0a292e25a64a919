"""Answers that need not be asked for twice: they are kept on disk, compressed, within a bound, for all processes.

How long an answer may be believed, and keeping it, belong here; asking belongs to `client.py`. A kept answer costs no
slot, and no request is recorded for it.

**What is kept.** Only answers that were decoded as well-formed successes. Candles and contract lists of days that are
`SETTLED_DAYS` past do not change any more and are kept for ever; those of later days, and lists of expiries, for some
minutes (`EXPIRYTRACK_CACHE_MINUTES`). An empty answer is never kept: "there is nothing" must come from the API each
time, because it may be filled later and costs next to nothing. Nor is the profile, which tells whether the token lives.

**Key** is the whole address. The token is not part of it, and is written nowhere: market data are the same for every
account that may see them. With a sealer the body is encrypted and bound to its address, which itself stays readable.

**On disk** it is one SQLite file of its own, so that dropping it loses nothing. A transaction either happened or did
not, whenever a process is killed. The operating system is not asked to write at once: after a power cut the file may
be damaged, and a damaged file is dropped whole, a damaged entry alone. No fault of the cache ever fails a request.
"""

from __future__ import annotations

import logging
import math
import sqlite3
import zlib
from contextlib import closing, contextmanager
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

import pyarrow as pa

from expirytrack_dagster.ist import IST
from expirytrack_dagster.security.sealer import Sealer
from expirytrack_dagster.security.vault import open_vault

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from expirytrack_dagster.settings import Settings
    from expirytrack_dagster.upstox.calls import Call
    from expirytrack_dagster.upstox.clock import Clock

SETTLED_DAYS = 7
"""Days after which the API is taken to have all of a day's data."""

_BUSY_SECONDS = 5.0
_LARGEST_SHARE = 4  # an answer larger than a quarter of the bound would only drive the others out
_PRIMARY_CODE = 0xFF  # SQLite's extended result codes carry the primary one in their low byte
_log = logging.getLogger(__name__)


class AnswerCache:
    """The answers on disk; threads and processes may share the file. Every method may take milliseconds of disk.

    Args:
        path: The SQLite file; it and its folder are created at the first `put`.
        max_bytes: Bound of the file; the oldest answers make room for new ones.
        minutes: How long an answer that may change is believed.
        clock: Source of the current time.
        sealer: What encrypts the bodies; they are plain without one.
    """

    def __init__(
        self, path: Path, *, max_bytes: int, minutes: float, clock: Clock, sealer: Sealer | None = None
    ) -> None:
        """Remember the parts; nothing is opened yet."""
        self._path = path
        self._max_bytes = max_bytes
        self._minutes = minutes
        self._clock = clock
        self._sealer = sealer

    def get(self, url: str) -> bytes | None:
        """Return the body of a kept answer that may still be believed."""
        if not self._path.exists():
            return None
        with self._harmless(), self._opened() as connection:
            row = connection.execute(
                "SELECT body, size, checksum FROM answers WHERE url = ? AND (expires_at IS NULL"
                " OR ? BETWEEN stored_at AND expires_at)",
                (url, self._clock.now()),
            ).fetchone()
            if row is None:
                return None
            packed = row[0] if self._sealer is None else self._sealer.opened(row[0], url)
            body = None if packed is None else _unpacked(packed, row[1])
            if body is not None and _checksum(url, body) == row[2]:
                return body
            connection.execute("DELETE FROM answers WHERE url = ?", (url,))
        return None

    def put(self, call: Call, url: str, body: bytes, rows: int) -> None:
        """Keep the body of a well-formed answer of that many rows, if it is one to keep."""
        seconds = self._lifetime(call, rows)
        packed = _codec().compress(body, asbytes=True) if seconds else b""
        if not seconds or len(packed) * _LARGEST_SHARE > self._max_bytes:
            return
        if self._sealer is not None:
            packed = self._sealer.seal(packed, url)
        now = self._clock.now()
        expires_at = None if math.isinf(seconds) else now + seconds
        with self._harmless(), self._opened() as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("DELETE FROM answers WHERE url = ?", (url,))
            _make_room(connection, len(packed), self._max_bytes)
            connection.execute(
                "INSERT INTO answers (url, target, stored_at, expires_at, size, checksum, body)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (url, call.target, now, expires_at, len(body), _checksum(url, body), packed),
            )
            connection.execute("COMMIT")
            connection.executescript("PRAGMA incremental_vacuum")  # execute() would free a single page

    def forget(self, targets: Iterable[str]) -> None:
        """Drop all answers about these instrument keys, because what they said turned out to be unfit."""
        if self._path.exists():
            with self._harmless(), self._opened() as connection:
                connection.executemany("DELETE FROM answers WHERE target = ?", [(target,) for target in targets])

    def drop(self) -> None:
        """Forget everything; nothing is lost that the API would not give again."""
        self._remove()

    def _lifetime(self, call: Call, rows: int) -> float:
        """Return for how many seconds an answer may be believed: 0 for not at all, infinity for ever."""
        if rows == 0 or call.endpoint == "profile":
            return 0.0
        last_day = call.params.get("to") or call.params.get("expiry")
        today = datetime.fromtimestamp(self._clock.now(), IST).date()
        if last_day is not None and date.fromisoformat(last_day) < today - timedelta(days=SETTLED_DAYS):
            return math.inf
        return self._minutes * 60

    @contextmanager
    def _harmless(self) -> Iterator[None]:
        """End the block silently at a fault of the disk or the file; a damaged file is removed."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            _log.warning("The answer cache %s was not used (%s).", self._path, error)
            code = error.sqlite_errorcode if isinstance(error, sqlite3.Error) else sqlite3.SQLITE_IOERR
            if code & _PRIMARY_CODE in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
                self._remove()

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = OFF")
            if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
                connection.executescript(_SCHEMA)
            yield connection

    def _remove(self) -> None:
        for name in (self._path.name, f"{self._path.name}-journal"):
            try:
                self._path.with_name(name).unlink(missing_ok=True)
            except OSError as error:  # Windows keeps a file that another process has open
                _log.warning("The answer cache cannot be removed: %s.", error)


def kept_answers(settings: Settings, clock: Clock) -> AnswerCache | None:
    """Return the cache that the settings ask for, None where it is off."""
    if not settings.cache:
        return None
    return AnswerCache(
        settings.answers,
        max_bytes=settings.cache_mb * 2**20,
        minutes=settings.cache_minutes,
        clock=clock,
        sealer=Sealer(open_vault(settings).data_key("cache")) if settings.encryption else None,
    )


_SCHEMA = """
PRAGMA auto_vacuum = INCREMENTAL;
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS answers (
    id INTEGER PRIMARY KEY,  -- in the order of arrival, whatever the clock says
    url TEXT NOT NULL UNIQUE,
    target TEXT NOT NULL,
    stored_at REAL NOT NULL,
    expires_at REAL,  -- NULL: never
    size INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS answers_target ON answers (target);
PRAGMA user_version = 1;
COMMIT;
"""


def _make_room(connection: sqlite3.Connection, needed: int, max_bytes: int) -> None:
    """Delete the oldest answers until `needed` more bytes fit."""
    page = connection.execute("PRAGMA page_size").fetchone()[0]
    while True:
        pages, free = (connection.execute(f"PRAGMA {what}").fetchone()[0] for what in ("page_count", "freelist_count"))
        if (pages - free) * page + needed <= max_bytes:
            return
        if connection.execute("DELETE FROM answers WHERE id = (SELECT min(id) FROM answers)").rowcount == 0:
            return


def _codec() -> pa.Codec:
    return pa.Codec("zstd", compression_level=1)


def _unpacked(packed: bytes, size: int) -> bytes | None:
    try:
        body: bytes = _codec().decompress(packed, size, asbytes=True)
    except (OSError, ValueError):  # ArrowInvalid is a ValueError
        return None
    return body


def _checksum(url: str, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(url.encode()))
