"""Backups of a home: a copy of everything that cannot be had again, and a home made of it that is proved to be equal.

Copied is, in this order, so that nothing can fall between two copies: staged batches, the archive, the state database,
reports, the audit log, Dagster's records of runs and its configuration, and what is in the vault. Left out are kept
answers, logs, and what runs printed: they can be asked or made again. A collection may go on meanwhile; it waits only
while the archive's file is copied. A lake is poured into a DuckDB file, as it is at one moment, and nobody waits.

The file that results is `security/backup_file.py`. When backups are made is decided by commands and schedules.
"""

from __future__ import annotations

import errno
import shutil
import sqlite3
import tempfile
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
from filelock import FileLock, Timeout
from sqlalchemy import literal, select

from expirytrack_dagster.address import FILE_KINDS, FileKind, standard
from expirytrack_dagster.errors import BackupRefused, DiskFull, ExpiryTrackError
from expirytrack_dagster.security import audit, backup_file
from expirytrack_dagster.security.backup_file import Manifest, Openers, Table
from expirytrack_dagster.security.private_files import make_folder
from expirytrack_dagster.security.vault import open_vault
from expirytrack_dagster.state import StateDatabase, open_state
from expirytrack_dagster.state.copying import copy_state
from expirytrack_dagster.verification import Severity, Verification, verify_archive
from expirytrack_dagster.warehouse.connection import Warehouse, open_warehouse
from expirytrack_dagster.warehouse.encryption import archive_key
from expirytrack_dagster.warehouse.migrate import migrations
from expirytrack_dagster.warehouse.stores import store_of
from expirytrack_dagster.warehouse.sums import table_sums

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from expirytrack_dagster.settings import Settings

_PLAIN = ("staging/*/*/batch-*.parquet", "reports/*/*.json", "dagster/dagster.yaml")
_SQLITE = "dagster/**/*.db"
_STATE = "state.sqlite"
"""The state's file in a backup, whatever keeps it in the home."""
_PROGRAM = "expirytrack-dagster"


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup that was made: `removed` are older ones that went, `proven` and `summary` are what `verify` said."""

    path: Path
    made_at: str
    size: int
    parts: int
    rows: dict[str, int]
    proven: bool
    summary: str
    removed: list[Path] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Restored:
    """A home that was made of a backup.

    `archive` is where its archive is. `compared` says that every table was found equal to its copy, `encrypted` that
    the archive is, as it was.
    """

    home: Path
    archive: str
    made_at: str
    parts: int
    rows: dict[str, int]
    proven: bool
    summary: str
    compared: bool
    encrypted: bool


def back_up(
    settings: Settings,
    folder: Path | None = None,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Backup:
    """Make a backup of the home, prove the copy, and remove older backups beyond `backup_keep`.

    Older ones stay when the copy contradicts itself: they may be the last sound ones.

    Args:
        settings: whose home.
        folder: where to; the settings' folder if None.
        progress: told the bytes sealed, and all, once the copy is taken and proved.

    Raises:
        BackupRefused: another backup is under way, or the folder cannot be used.
        DatabaseCorrupt: a block of the archive cannot be read.
        DiskFull: there is no room; nothing is left.
        StorageError: also its other leaves: something cannot be copied.
        VaultError: the vault, which keeps the backup's key, does not open.
    """
    folder = folder or settings.backup_folder
    now = datetime.now(tz=UTC)
    key = open_vault(settings).data_key("backup")
    passphrase = settings.passphrase.get_secret_value() if settings.passphrase else None
    with _alone(settings), _faults(folder), _copied(settings) as copy:
        make_folder(folder)
        for leftover in backup_file.leftovers(folder, key):
            leftover.unlink()
        manifest, proof = _described(settings, copy, now)
        path = folder / backup_file.name_of(now)
        if path.exists():
            raise BackupRefused(f"{path} exists already: try again in a second.")
        backup_file.write(path, manifest, copy, key, passphrase, progress)
        sound = not any(finding.severity is Severity.CONTRADICTION for finding in proof.findings)
        removed = backup_file.whole_backups(folder, key)[: -settings.backup_keep] if sound else []
        for old in removed:
            old.unlink()
        audit.record(settings, "backup", file=str(path), removed=len(removed), proven=proof.proven)
        return Backup(
            path=path,
            made_at=manifest.made_at,
            size=path.stat().st_size,
            parts=len(manifest.parts),
            rows={name: table.rows for name, table in manifest.tables.items()},
            proven=proof.proven,
            summary=proof.summary,
            removed=removed,
        )


def recovery_key(settings: Settings) -> str:
    """Return what opens the backups of this home on any machine, to be kept on paper or in a password store."""
    return backup_file.spelled(open_vault(settings).data_key("backup"))


def own_openers(settings: Settings) -> Openers:
    """Return what this machine and its environment have to open a backup with; the vault only where there is one."""
    keys = []
    if settings.recovery_key:
        keys.append(backup_file.read_spelled(settings.recovery_key.get_secret_value()))
    with suppress(ExpiryTrackError):  # a vault that does not open is one reason to restore
        status = open_vault(settings).status()
        if status and "backup" in status.purposes:
            keys.append(open_vault(settings).data_key("backup"))
    passphrases = (settings.passphrase.get_secret_value(),) if settings.passphrase else ()
    return Openers(tuple(keys), passphrases)


def restore(
    settings: Settings,
    archive: Path,
    into: Path,
    openers: Openers,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Restored:
    """Make a home of a backup; it gets its name when all of it has proved equal to what was backed up.

    Args:
        settings: of this process; those of the new home differ in the home, and are encrypted as the old one was.
        archive: the backup.
        into: the new home: a folder that is empty or not there.
        openers: tried in order.
        progress: told the bytes done, and all.

    Raises:
        BackupRefused: nothing that was given opens it; it is damaged, cut off or foreign; or the folder is in use.
            Nothing was changed.
        SchemaTooNew: a newer version of this program has made it.
        DiskFull: there is no room.
    """
    _require_empty(into)
    with _faults(archive):
        file_key = backup_file.unlock(archive, openers)
        if file_key is None:
            raise BackupRefused(f"{archive} does not open with the recovery key or passphrase that was given.")
        made = Path(tempfile.mkdtemp(prefix=f"{into.name}.restoring-", dir=into.parent))
        try:
            manifest = backup_file.unpack(archive, file_key, made, progress)
            home = _home_of(settings, made, manifest)
            if manifest.vault:
                open_vault(home).adopt(manifest.vault)
            proof, compared = _proved(home, manifest)
            audit.record(home, "restore", file=str(archive), made_at=manifest.made_at)
            if into.exists():
                into.rmdir()
            made.replace(into)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
    rows = {name: table.rows for name, table in manifest.tables.items()}
    return Restored(
        home=into,
        archive=str(standard(_kind_of_copy(home), into)),
        made_at=manifest.made_at,
        parts=len(manifest.parts),
        rows=rows,
        proven=proof.proven,
        summary=proof.summary,
        compared=compared,
        encrypted=manifest.encrypted,
    )


def _home_of(settings: Settings, made: Path, manifest: Manifest) -> Settings:
    """Return the settings of a home that was made of a backup, in which the archive is what the backup has."""
    found = [address for kind in FILE_KINDS if (address := standard(kind, made)).path.exists()]
    update = {"home": made, "encryption": manifest.encrypted, "warehouse": found[0] if found else None, "state": None}
    return settings.model_copy(update=update)


def _described(settings: Settings, copy: Path, now: datetime) -> tuple[Manifest, Verification]:
    """Read the whole copy: sums of tables, what `verify` says, hashes of files."""
    archive = _copy_of_archive(settings, copy)
    sums = table_sums(archive)
    proof = verify_archive(archive, copy / settings.staging.name)
    files = sorted(path for path in copy.rglob("*") if path.is_file() and path.suffix != ".lock")
    log = audit.AuditLog(copy / settings.audit.name).verify()
    manifest = Manifest(
        made_at=now.isoformat(timespec="seconds"),
        program=version(_PROGRAM),
        duckdb=duckdb.__version__,
        schemas={"archive": migrations()[-1].version, "state": _user_version(copy / _STATE)},
        tables={name: Table(rows, str(checksum)) for name, (rows, checksum) in sums.items()},
        findings=_told(proof),
        audit_head=log.head,
        encrypted=settings.encryption,
        vault=open_vault(settings).export(),
        parts=[backup_file.describe(path.relative_to(copy), copy) for path in files],
    )
    return manifest, proof


def _proved(home: Settings, manifest: Manifest) -> tuple[Verification, bool]:
    """Prove the new home; say whether its tables could be compared number by number.

    Another version of DuckDB hashes otherwise, and a newer schema is brought in by opening: then the SHA-256 of the
    file, which has been proved, stands for its rows.

    Raises:
        BackupRefused: something is not as it was.
    """
    if not home.database.exists() or not home.state_address.path.exists():
        raise BackupRefused("The backup lacks the archive or the state database: nothing was restored.")
    compared = manifest.duckdb == duckdb.__version__ and manifest.schemas["archive"] == migrations()[-1].version
    archive = open_warehouse(home)
    if compared:
        held = {name: Table(rows, str(checksum)) for name, (rows, checksum) in table_sums(archive).items()}
        if held != manifest.tables:
            names = sorted(name for name in held | manifest.tables if held.get(name) != manifest.tables.get(name))
            raise BackupRefused(f"The tables {', '.join(names)} are not those of the backup: nothing was restored.")
    proof = verify_archive(archive, home.staging)
    if compared and _told(proof) != manifest.findings:
        raise BackupRefused(f"`verify` finds something else than when the backup was made: {proof.summary}")
    return proof, compared


def _told(proof: Verification) -> list[str]:
    return [" ".join(str(value) for value in asdict(finding).values()) for finding in proof.findings]


def _copy_of_archive(settings: Settings, folder: Path) -> Warehouse:
    """Return the copy of the archive in a folder, encrypted as the settings say."""
    store = store_of(standard(_kind_of_copy(settings), folder), archive_key(settings))
    return Warehouse(store, lock_timeout=settings.lock_timeout)


def _kind_of_copy(settings: Settings) -> FileKind:
    """Return what a backup holds: an archive in a file as it is, a lake poured into a DuckDB file."""
    return "sqlite" if settings.address.kind == "sqlite" else "duckdb"


@contextmanager
def _copied(settings: Settings) -> Iterator[Path]:
    """Copy the home, and yield the folder of the copy; it is removed when the block ends."""
    copy = settings.home / "snapshot"
    shutil.rmtree(copy, ignore_errors=True)  # of a backup that was killed: no other is under way
    make_folder(copy)
    try:
        _copy_plain(settings.home, copy)
        archive = standard(_kind_of_copy(settings), copy).path
        open_warehouse(settings).copy_to(archive, archive_key(settings))
        _copy_state(settings, copy / _STATE)
        for path in settings.home.glob(_SQLITE):
            if not path.is_symlink():  # leads out of the home
                _copy_sqlite(path, copy / path.relative_to(settings.home))
        audit.AuditLog(settings.audit, lock_timeout=settings.lock_timeout).copy_to(copy)
        yield copy
    finally:
        shutil.rmtree(copy, ignore_errors=True)


def _copy_plain(home: Path, copy: Path) -> None:
    """Copy files that are whole from the moment they have their name; a batch that goes meanwhile is in the archive."""
    for pattern in _PLAIN:
        for path in home.glob(pattern):
            if path.is_symlink():
                continue  # leads out of the home
            target = copy / path.relative_to(home)
            make_folder(target.parent)
            with suppress(FileNotFoundError):
                shutil.copyfile(path, target)


def _copy_state(settings: Settings, target: Path) -> None:
    """Copy the state database into a file; what is not there yet is made."""
    with open_state(settings) as state:
        state.query(select(literal(1)))
        if state.address.kind == "sqlite":
            _copy_sqlite(state.address.path, target)
            return
        with StateDatabase(target) as file:
            copy_state(state, file)
    with closing(sqlite3.connect(target, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")  # so that the file is whole without a log beside it


def _copy_sqlite(path: Path, target: Path) -> None:
    """Copy a database as it is between two transactions, by SQLite's own means."""
    make_folder(target.parent)
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(target)) as written:
        source.backup(written)


def _user_version(state: Path) -> int:
    with closing(sqlite3.connect(state)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    lock = FileLock(settings.home / "backup.lock", blocking=False)
    with _faults(settings.home):
        make_folder(settings.home)
        try:
            lock.acquire()
        except Timeout:
            raise BackupRefused("Another backup of this home is being made: let it end, then try again.") from None
    try:
        yield
    finally:
        lock.release()


def _require_empty(into: Path) -> None:
    if into.is_symlink() or (into.exists() and (not into.is_dir() or any(into.iterdir()))):
        raise BackupRefused(f"{into} is not empty: name a folder with --into that is empty or not there yet.")
    if not into.parent.is_dir():
        raise BackupRefused(f"There is no folder {into.parent}: make it first, or name another one with --into.")


@contextmanager
def _faults(place: Path) -> Iterator[None]:
    """Let errors of the operating system and of SQLite leave the block as errors of the tree."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DiskFull(f"No room is left ({error.filename or place}): free some space and try again.") from error
        where = error.filename or place
        raise BackupRefused(f"{where} cannot be used: {error.strerror or error}; nothing was changed.") from error
    except sqlite3.Error as error:
        raise BackupRefused(f"A database of the home cannot be copied ({error}): nothing was changed.") from error
