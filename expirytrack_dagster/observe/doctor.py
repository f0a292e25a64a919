"""What `expirytrack doctor` looks at on this machine: programs, disk, rights, vault, databases, limits.

Each check returns lines, and no more can come of it: one that throws is a line too. Nothing is mended or made here, and
nobody is held up: whatever is locked is waited for a second at most. What the API says is `doctor_api.py`; Dagster's
part is `instance_health.py` above, because no Dagster is known here.
"""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
import stat
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatch
from importlib import metadata
from typing import TYPE_CHECKING, Literal, TypeAlias

from expirytrack_dagster.errors import (
    DatabaseCorrupt,
    DatabaseLocked,
    ExpiryTrackError,
    StateBusy,
    StateLocked,
    VaultBusy,
)
from expirytrack_dagster.security.access import OURS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from expirytrack_dagster.address import Kind
    from expirytrack_dagster.settings import Settings

Verdict: TypeAlias = Literal["ok", "warn", "fail"]

DISTRIBUTION = "expirytrack-dagster"
PATIENCE = 1.0
"""Seconds to wait for whatever another program holds."""
LEAST_ROOM = 500_000_000
"""Bytes of room without which no cell is begun with a good conscience."""

_OLDEST, _NEXT = (3, 11), (3, 14)
_OTHERS = 0o077
_OFF = 30.0  # seconds between two clocks that are worth a word
_BUSY = (DatabaseLocked, StateBusy, VaultBusy)


@dataclass(frozen=True, slots=True)
class Line:
    """What a check found, and how to mend it unless all is well; `exit_code` is that of a failure."""

    name: str
    verdict: Verdict
    found: str
    mend: str | None = None
    exit_code: int = 1


def ok(name: str, found: str) -> Line:
    """Return a line about something that is well."""
    return Line(name, "ok", found)


def isolated(name: str, check: Callable[[], Iterable[Line]]) -> list[Line]:
    """Return the lines of a check, or the one line that says why there are none."""
    try:
        return list(check())
    except _BUSY as error:
        return [Line(name, "warn", f"In use just now, so it was not looked at: {error}", "Run this again later.")]
    except ExpiryTrackError as error:
        return [Line(name, "fail", str(error), "Do what the sentence says.", error.exit_code)]
    except Exception as error:  # noqa: BLE001 -- whatever it is, the other checks go on
        found = f"The check itself failed: {type(error).__name__}: {' '.join(str(error).split())}"
        return [Line(name, "fail", found, "Report this line, together with the versions above.")]


def exit_code(lines: Iterable[Line]) -> int:
    """Return 0 without a failure, 4 where only token and plan fail, and 1 otherwise."""
    codes = {line.exit_code for line in lines if line.verdict == "fail"}
    return 0 if not codes else 4 if codes == {4} else 1


def python(version: tuple[int, ...] = sys.version_info[:3]) -> Iterator[Line]:
    """Look at the interpreter."""
    found = f"Python {'.'.join(map(str, version))} on {platform.system()} {platform.machine()}."
    if _OLDEST <= version < _NEXT:
        yield ok("python", found)
    else:
        yield Line("python", "fail", found, "Install ExpiryTrack with Python 3.11, 3.12 or 3.13.")


def versions(requirements: Iterable[str] | None = None) -> Iterator[Line]:
    """Hold what is installed against what this version of the program was made for."""
    from packaging.requirements import Requirement  # noqa: PLC0415 -- of use here alone

    own = metadata.version(DISTRIBUTION)
    wanted = [Requirement(text) for text in (requirements or metadata.requires(DISTRIBUTION) or ())]
    wrong = []
    for one in wanted:
        if one.marker is not None and not one.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = metadata.version(one.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{one.name} is missing")
            continue
        if not one.specifier.contains(installed, prereleases=True):
            wrong.append(f"{one.name} {installed} is not {one.specifier}")
    if wrong:
        yield Line("versions", "fail", f"ExpiryTrack {own}, but {', '.join(wrong)}.", "Install ExpiryTrack anew.")
    else:
        known = ", ".join(f"{name} {metadata.version(name)}" for name in ("duckdb", "dagster", "pandas"))
        yield ok("versions", f"ExpiryTrack {own} with {known}; all {len(wanted)} packages fit.")


_EXTENSIONS: dict[Kind, tuple[str, ...]] = {
    "duckdb": (),
    "sqlite": ("sqlite_scanner",),
    "ducklake:sqlite": ("ducklake", "sqlite_scanner"),
    "ducklake:postgres": ("ducklake", "postgres_scanner"),
}
"""What DuckDB needs for each kind of archive, beside what it needs for encryption."""


def extensions(settings: Settings) -> Iterator[Line]:
    """Load the extension wheels that archives need: for encrypted ones, and for one in SQLite."""
    import duckdb  # noqa: PLC0415 -- as above

    from expirytrack_dagster.warehouse.encryption import load  # noqa: PLC0415

    extensions = ("httpfs", *_EXTENSIONS[settings.address.kind])
    packages = []
    for extension in extensions:
        packages.append(f"duckdb-extension-{extension.replace('_', '-')}")
        try:
            with closing(duckdb.connect()) as connection:
                load(connection, extension)
        except (ExpiryTrackError, duckdb.Error) as error:
            yield Line(
                "extensions",
                "fail" if settings.encryption or len(extensions) > 1 else "warn",
                f"An extension of DuckDB does not load: {str(error).splitlines()[0]}",
                f"Run: pip install {packages[-1]}=={duckdb.__version__}",
            )
            return
    yield ok("extensions", f"{' and '.join(packages)} {duckdb.__version__} load{'' if packages[1:] else 's'}.")


def disk(settings: Settings, free: int | None = None) -> Iterator[Line]:
    """Look at the room on the disk of the home; `free` are bytes, measured if None."""
    place = next(place for place in (settings.home, *settings.home.parents) if place.exists())
    free = shutil.disk_usage(place).free if free is None else free
    found = f"{free / 1e9:,.1f} GB of room at {settings.home}."
    mend = "Make room, or move backups (EXPIRYTRACK_BACKUPS) or the home (EXPIRYTRACK_HOME) to another disk."
    if free < LEAST_ROOM:
        yield Line("disk", "fail", found, mend)
    elif free < settings.alert_disk_gb * 1e9:
        yield Line("disk", "warn", f"{found} Alerts begin below {settings.alert_disk_gb:g} GB.", mend)
    else:
        yield ok("disk", found)


def permissions(settings: Settings) -> Iterator[Line]:
    """See that this user may write the home, and that others may not read what lies in it."""
    home = settings.home
    if not home.exists():
        yield Line("permissions", "warn", f"There is no home at {home} yet.", "Run: expirytrack init")
        return
    try:
        with tempfile.TemporaryFile(dir=home):
            pass
    except OSError as error:
        yield Line(
            "permissions",
            "fail",
            f"{home} cannot be written ({error.strerror or error}).",
            "Let the folder belong to you, or name another one in EXPIRYTRACK_HOME.",
        )
        return
    ours = [path for path in home.iterdir() if any(fnmatch(path.name, name) for name in OURS)]
    locked = [path.name for path in ours if not os.access(path, os.R_OK | os.W_OK)]
    if locked:
        yield Line(
            "permissions",
            "fail",
            f"In {home} you may not read or write {', '.join(sorted(locked))}.",
            "Let them belong to you; a program that ran as another user may have made them.",
        )
    elif os.name == "posix" and not settings.open_home and (opened := [path.name for path in ours if _is_open(path)]):
        yield Line(
            "permissions",
            "warn",
            f"Other users may read {', '.join(sorted(opened))} in {home}.",
            "Any command closes them; if others use this machine, log in anew and run: expirytrack keys rotate",
        )
    else:
        yield ok("permissions", f"{home} can be written, and is closed to other users.")


def vault(settings: Settings, now: datetime) -> Iterator[Line]:
    """Open the vault, or see what would open a new one."""
    from expirytrack_dagster.security import key_sources  # noqa: PLC0415 -- loads the keyring's back ends
    from expirytrack_dagster.security.vault import open_vault  # noqa: PLC0415

    status = open_vault(settings).status(now)
    if status is None:
        first = key_sources.for_new_vault(settings)[0].name
        if first == "keyring" and not key_sources.has_keyring():
            yield Line(
                "keyring",
                "warn",
                "This machine has no keyring: the vault's key will lie in a file below the home.",
                "Set EXPIRYTRACK_PASSPHRASE before the first login, to keep the key elsewhere.",
            )
        else:
            yield ok("keyring", f"There is no vault yet; its secret will come from the {first}.")
    elif status.finding is not None:
        yield Line("keyring", "warn", status.finding, "Run: expirytrack keys rotate")
    else:
        yield ok("keyring", f"The vault opens with the secret of the {status.source}.")


def state_database(settings: Settings) -> Iterator[Line]:
    """Check the state database without opening a file for writing, which would replace a damaged one."""
    address = settings.state_address
    if address.kind != "sqlite":
        yield _state_in_server(settings)
    elif not address.path.exists():
        yield ok("state", f"There is no {address.path.name} yet.")
    elif (damage := _damage(address.path)) is None:
        yield ok("state", f"{address.path.name} is sound, {address.path.stat().st_size / 1e6:,.1f} MB.")
    else:
        yield Line(
            "state",
            "fail",
            f"{address.path} is damaged: {damage}.",
            "Run 'expirytrack status': it keeps a copy, saves what is tracked, and makes a new one.",
        )


def _state_in_server(settings: Settings) -> Line:
    """Ask a server for the time, by which all hosts go."""
    from expirytrack_dagster.state import open_state  # noqa: PLC0415 -- as above

    with open_state(settings, timeout=PATIENCE) as state:
        state.now()
        began = time.time()
        ahead = state.now() - began
    if abs(ahead) < _OFF:
        return ok("state", f"{state.address} answers; its clock and this host's agree.")
    return Line(
        "state",
        "warn",
        f"{state.address} answers, but this host's clock is {abs(ahead):.0f} s {'behind' if ahead > 0 else 'ahead'}.",
        "Limits go by the server's clock and are safe; set this host's by NTP, because the token's life goes by it.",
    )


def require_sound_state(settings: Settings) -> None:
    """Let nothing open a damaged state database, which would replace it.

    Raises:
        DatabaseCorrupt: it is damaged.
    """
    if _state_file_exists(settings) and _damage(settings.state_address.path) is not None:
        raise DatabaseCorrupt("This needs the state database, which is damaged.")


def _state_file_exists(settings: Settings) -> bool:
    return settings.state_address.kind == "sqlite" and settings.state_address.path.exists()


def _damage(path: Path) -> str | None:
    try:
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=PATIENCE)) as connection:
            found = [str(row[0]) for row in connection.execute("PRAGMA quick_check(3)")]
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
            raise StateLocked(str(error)) from error
        return str(error)
    except sqlite3.DatabaseError as error:
        return str(error)
    return None if found == ["ok"] else found[0].splitlines()[-1]


def archive(settings: Settings) -> Iterator[Line]:
    """Open the archive for a moment and hold the number of its candles against that of its records."""
    from expirytrack_dagster.warehouse.connection import open_warehouse  # noqa: PLC0415 -- as above
    from expirytrack_dagster.warehouse.soundness import soundness  # noqa: PLC0415

    warehouse = open_warehouse(settings, patience=PATIENCE)
    place = settings.address.place
    name = place if isinstance(place, str) else place.name
    if not warehouse.exists():
        yield ok("archive", f"There is no {name} yet.")
        return
    found = soundness(warehouse)
    if found.stored == found.recorded:
        yield ok("archive", f"{name} opens; {found.stored:,} candles, as many as are recorded.")
    else:
        yield Line(
            "archive",
            "fail",
            f"{name} holds {found.stored:,} candles and records {found.recorded:,}.",
            "Run 'expirytrack verify', which names the cells; then collect them again with --refetch.",
        )


def rate_ledger(settings: Settings) -> Iterator[Line]:
    """See how much the limits leave, and what holds requests back."""
    from expirytrack_dagster.upstox.ledger import open_ledger  # noqa: PLC0415 -- as above

    if settings.state_address.kind == "sqlite" and not _state_file_exists(settings):
        yield ok("limits", "Nothing was asked yet.")
        return
    require_sound_state(settings)
    ledger = open_ledger(settings)
    budgets = [ledger.budget(scope) for scope in ledger.all_scopes()]
    wide = [budget.windows[-1] for budget in budgets if budget.windows]
    left = min((window.limit.requests - window.used for window in wide), default=None)
    found = f"{left:,} requests are left in the longest window." if left is not None else "No limits are set."
    paused = max(budgets, key=lambda budget: budget.cooldown_seconds)
    broken = max(budgets, key=lambda budget: budget.circuit_seconds)
    if broken.circuit_state != "closed":
        reason = broken.circuit.reason or "no answer"
        yield Line("limits", "warn", f"Answers keep failing ({reason}), so few are asked for.", "Wait; it tries again.")
    elif paused.cooldown_seconds > 0:
        why = f"Requests are paused for {paused.cooldown_seconds:.0f} s: {paused.cooldown_reason}."
        yield Line("limits", "warn", why, "Wait; collections go on by themselves.")
    elif left is not None and left <= 0:
        yield Line("limits", "warn", "The longest window is full.", "Wait; collections go on by themselves.")
    else:
        yield ok("limits", found)


def look_around(settings: Settings) -> Iterator[list[Line]]:
    """Yield the lines of every check of this machine, as they are found."""
    settings = settings.model_copy(update={"lock_timeout": min(settings.lock_timeout, PATIENCE)})
    now = datetime.now(tz=UTC)
    for name, check in (
        ("python", python),
        ("versions", versions),
        ("extensions", lambda: extensions(settings)),
        ("disk", lambda: disk(settings)),
        ("permissions", lambda: permissions(settings)),
        ("keyring", lambda: vault(settings, now)),
        ("state", lambda: state_database(settings)),
        ("archive", lambda: archive(settings)),
        ("limits", lambda: rate_ledger(settings)),
    ):
        yield isolated(name, check)


def _is_open(path: Path) -> bool:
    mode = path.lstat().st_mode
    return not stat.S_ISLNK(mode) and bool(mode & _OTHERS)
