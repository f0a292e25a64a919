"""The audit log: who did what and when, in lines that cannot be changed, taken out or moved without being noticed.

`audit.jsonl` below the home holds one JSON object a line: number, time (UTC), event, user, details, the hash of the
line before, and its own hash (SHA-256 over the rest of the line). Beside it, `audit.head` holds the last line once
more. It is written first: whatever moment a program dies at, the line is either nowhere or whole in the head, and the
next event completes the log from there. So a torn line is told apart from a changed one, and a cut end is found.

There is no key in it, so that events can be noted before there is a vault, and by the vault itself. Whoever may write
the home can therefore forge the whole log together with its head: keep the head that `expirytrack audit verify` prints
somewhere else, or a backup, which holds the log of its day. Which events are noted is up to their commands; what is
given as details must hold no secret.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import re
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from filelock import FileLock, Timeout

from expirytrack_dagster.errors import StorageError
from expirytrack_dagster.security.private_files import make_folder, opener, write_private

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from expirytrack_dagster.settings import Settings

Detail = str | int | float | bool | None

BEGINNING = "0" * 64
"""What the first line names as the hash of the line before."""

BROKEN = "audit_broken"
"""The event that `record` notes when the log that it is to continue does not end as it was left."""

_FIELDS = ("n", "time", "event", "user", "details", "previous")
_HASH = re.compile(rb',"hash":"([0-9a-f]{64})"}\n')
_END = len(',"hash":""}\n') + 64


class Entry(NamedTuple):
    """A line that is what its hash says."""

    number: int
    time: str
    event: str
    user: str
    details: dict[str, Detail]
    previous: str
    hash: str


@dataclass(frozen=True, slots=True)
class Damage:
    """What is wrong, and before or at which line of the file (counted from 1)."""

    line: int
    found: str


@dataclass(slots=True)
class Inspection:
    """What `verify` found: nothing in `damage` means that the log is as it was written.

    Attributes:
        lines: lines of the file.
        head: `NUMBER:HASH` of the last line; empty where there is no log.
        damage: in the order of the file.
        torn: the last line was being written when a program ended; it is whole in the head, nothing is lost.
    """

    lines: int = 0
    head: str = ""
    damage: list[Damage] = field(default_factory=list)
    torn: bool = False


def record(settings: Settings, event: str, /, **details: Detail) -> None:
    """Add a line to the audit log of the home; it is on disk when this returns.

    Args:
        settings: whose home.
        event: what happened, such as `login` or `release`.
        details: what it happened to; never a token, a code, a passphrase or a key.

    Raises:
        StorageError: the log cannot be written, and the event is not noted.
    """
    AuditLog(settings.audit, lock_timeout=settings.lock_timeout).append(event, details)


def current_user() -> str:
    """Return the name of the operating system's user, `unknown` where there is none to be found."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # no name in the environment, and no list of users to look it up in
        return "unknown"


class AuditLog:
    """The log at a path, with its head beside it; safe between processes and threads."""

    def __init__(self, path: Path, *, lock_timeout: float = 60.0) -> None:
        """Name the file; nothing is opened yet."""
        self.path = path
        self.head = path.with_suffix(".head")
        self._lock = FileLock(path.with_suffix(".lock"), timeout=lock_timeout)

    def append(self, event: str, details: dict[str, Detail]) -> None:
        """Add a line, after a line of its own about damage at the end of the log where there is some.

        Raises:
            StorageError: the log cannot be written; the event is not noted.
        """
        with self._alone():
            last, complaint = self._settle()
            if complaint:
                last = self._add(last, BROKEN, {"found": complaint})
            self._add(last, event, details)

    def entries(self) -> Iterator[Entry | None]:
        """Yield each line in order; None for one that is not what its hash says."""
        for raw in self._lines():
            yield _parsed(raw)

    def verify(self, known: tuple[int, str] | None = None) -> Inspection:
        """Read the whole log and say what is altered, missing, added, out of order, or cut off.

        Args:
            known: number and hash of a line that was the head once.

        Raises:
            StorageError: the log cannot be read.
        """
        with self._alone():
            return _inspect(self._lines(), self._read_head(), known)

    def copy_to(self, folder: Path) -> None:
        """Copy the log and its head into another folder, as they are between two events.

        Raises:
            StorageError: the log cannot be read, or the copy not be written.
        """
        with self._alone():
            for path in (self.path, self.head):
                if path.exists():
                    shutil.copyfile(path, folder / path.name)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        try:
            make_folder(self.path.parent)
            with self._lock:
                yield
        except Timeout:
            raise StorageError(
                f"The audit log {self.path} is held by another program: end that program and try again."
            ) from None
        except OSError as error:
            raise StorageError(
                f"The audit log {self.path} cannot be used ({error.strerror or error}): "
                "see that the disk has room and the file belongs to you."
            ) from error

    def _lines(self) -> Iterator[bytes]:
        if self.path.exists():
            with self.path.open("rb") as file:
                yield from file

    def _read_head(self) -> bytes:
        return self.head.read_bytes() if self.head.exists() else b""

    def _add(self, last: Entry | None, event: str, details: dict[str, Detail]) -> Entry:
        line, entry = _written(last, event, details)
        write_private(self.head, line)
        self._write(line)
        return entry

    def _write(self, line: bytes) -> None:
        with open(self.path, "ab", opener=opener) as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def _settle(self) -> tuple[Entry | None, str]:
        """Complete a torn last line; return the line to continue from, and what is wrong with the end of the log."""
        head = self._read_head()
        promised = _parsed(head)
        tail = self._tail(2 * len(head) + 1)
        if promised is None:
            if not tail and not head:
                return None, ""
            if tail and not tail.endswith(b"\n"):
                self._write(b"\n")
            return self._last_sound(), "the head of the log is missing or altered"
        if tail.endswith(head):
            return promised, ""
        torn = _torn(self._end(), promised, head)
        if torn is not None:
            self._write(head[torn:])
            return promised, ""
        if tail and not tail.endswith(b"\n"):
            self._write(b"\n")
        return promised, f"the log does not end with line {promised.number}, its last one"

    def _tail(self, size: int) -> bytes:
        if not self.path.exists():
            return b""
        with self.path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - size))
            return file.read()

    def _end(self) -> tuple[bytes, bytes]:
        """Return the last two lines; rare enough to read the file for it."""
        before = last = b""
        for line in self._lines():
            before, last = last, line
        return before, last

    def _last_sound(self) -> Entry | None:
        sound = None
        for entry in self.entries():
            sound = entry or sound
        return sound


def _written(last: Entry | None, event: str, details: dict[str, Detail]) -> tuple[bytes, Entry]:
    entry = Entry(
        number=last.number + 1 if last else 1,
        time=datetime.now(tz=UTC).isoformat(timespec="microseconds"),
        event=event,
        user=current_user(),
        details=details,
        previous=last.hash if last else BEGINNING,
        hash="",
    )
    body = json.dumps(dict(zip(_FIELDS, entry, strict=False)), separators=(",", ":"), allow_nan=False).encode()[:-1]
    digest = hashlib.sha256(body).hexdigest()
    return body + f',"hash":"{digest}"}}\n'.encode(), entry._replace(hash=digest)


def _parsed(raw: bytes) -> Entry | None:
    """Return what a line says; None when it is not, byte for byte, what was written with its hash."""
    body, end = raw[:-_END], raw[-_END:]
    found = _HASH.fullmatch(end)
    if found is None or hashlib.sha256(body).hexdigest() != found[1].decode():
        return None
    try:
        values: dict[str, Any] = json.loads(body + b"}")
        return Entry._make((*(values[name] for name in _FIELDS), found[1].decode()))
    except (ValueError, TypeError, KeyError):  # a hash that fits what nobody here has written
        return None


def _torn(end: tuple[bytes, bytes], promised: Entry, head: bytes) -> int | None:
    """Say how much of the head's line stands at the end of the log, if nothing else is wrong there."""
    before, last = end
    if last.endswith(b"\n"):
        before, last = last, b""
    follows = _parsed(before)
    sound = promised.previous == (follows.hash if follows else BEGINNING) and bool(follows) == bool(before)
    return len(last) if sound and head.startswith(last) and last != head else None


def _inspect(lines: Iterator[bytes], head: bytes, known: tuple[int, str] | None) -> Inspection:
    result = Inspection()
    number, previous, before, last = 1, BEGINNING, b"", b""
    entry: Entry | None = None
    kept = known is None
    for raw in lines:
        before, last = last, raw
        if not raw.endswith(b"\n"):
            break  # the end of the file: whether it is torn or altered is seen from the head
        result.lines += 1
        entry = _parsed(raw)
        for found in _wrong(entry, number, previous):
            result.damage.append(Damage(result.lines, f"line {result.lines} {found}"))
        number, previous = (entry.number + 1, entry.hash) if entry else (number + 1, "")
        kept = kept or (entry is not None and known == (entry.number, entry.hash))
    promised = _parsed(head)
    if promised is None and (last or head):
        result.damage.append(Damage(result.lines, "the head of the log is missing or altered"))
    elif promised is not None and last != head:
        altered = any(damage.line == result.lines for damage in result.damage)  # a line put behind the last one
        result.torn = not altered and _torn((before, last), promised, head) is not None
        if not result.torn:
            found = f"the end is cut off or changed: number {promised.number} was the last one"
            result.damage.append(Damage(result.lines, found))
    end = promised or entry
    result.head = f"{end.number}:{end.hash}" if end else ""
    if known and not kept and known != (end and (end.number, end.hash)):
        result.damage.append(Damage(result.lines, f"number {known[0]} with the hash that was kept is not in the log"))
    return result


def _wrong(entry: Entry | None, number: int, previous: str) -> Iterator[str]:
    """Yield what is wrong with a line that should have this number and follow this hash (empty: not known)."""
    if entry is None:
        yield "is altered"
        return
    if entry.number > number:
        missing = f"{number} is" if entry.number == number + 1 else f"{number} to {entry.number - 1} are"
        yield f"has number {entry.number}: {missing} missing before it"
    elif entry.number < number:
        yield f"has number {entry.number} where {number} belongs"
    elif previous and entry.previous != previous:
        yield "does not continue the one before it"
    if entry.event == BROKEN:
        yield f"notes of {entry.time[:10]} that {entry.details.get('found')}"
