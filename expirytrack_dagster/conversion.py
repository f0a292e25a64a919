"""The data of a home made encrypted, plain again, or encrypted with a new key; kept answers are dropped.

Every step finds out for itself what is still to do, so that a conversion that was killed is finished by the same
command. What a step does belongs to the room whose files they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from expirytrack_dagster.collect.staging import CellStaging
from expirytrack_dagster.errors import ConfigurationError, EncryptionMismatch, WrongKey
from expirytrack_dagster.security import audit
from expirytrack_dagster.security.parquet import staging_key
from expirytrack_dagster.security.vault import open_vault
from expirytrack_dagster.upstox.cache import kept_answers
from expirytrack_dagster.upstox.clock import SystemClock
from expirytrack_dagster.warehouse.connection import Warehouse, open_warehouse
from expirytrack_dagster.warehouse.convert import convert
from expirytrack_dagster.warehouse.published import forget

if TYPE_CHECKING:
    from collections.abc import Callable

    from expirytrack_dagster.settings import Settings


@dataclass(frozen=True, slots=True)
class Converted:
    """What a conversion has changed: the archive, how many staged files, and whether answers were dropped."""

    archive: bool
    staged: int
    answers: bool

    @property
    def anything(self) -> bool:
        """Whether there was anything to do."""
        return self.archive or bool(self.staged) or self.answers


def convert_home(
    settings: Settings, *, encrypted: bool, progress: Callable[[int, int], None] = lambda _done, _all: None
) -> Converted:
    """Bring all data of this home into the wanted form, whatever `settings.encryption` says now.

    Args:
        settings: the home.
        encrypted: the wanted form.
        progress: told how many MB of the archive are written, and about how many there will be.

    Raises:
        CellBusy: a run is collecting; the archive may be converted already, the same command goes on.
        VaultError: the vault does not open.
        StorageError: also DiskFull and DatabaseLocked; what was not converted is as it was.
    """
    before = settings.model_copy(update={"encryption": not encrypted})
    after = settings.model_copy(update={"encryption": encrypted})
    archive = _is_otherwise(after)
    if archive:
        forget(settings.published)  # published anew, in the new form, by the next commit or question
        convert(open_warehouse(before), open_warehouse(after).key, progress)
        forget(settings.published)  # what a reader has published meanwhile
    done = Converted(archive, _convert_staged(before, after), _drop_answers(before))
    if done.anything:
        audit.record(settings, "encrypt" if encrypted else "decrypt", archive=done.archive, staged=done.staged)
    return done


def renew_archive_key(settings: Settings, progress: Callable[[int, int], None] = lambda _done, _all: None) -> None:
    """Write the encrypted archive anew under a new key and forget the old one.

    The vault keeps both until the new file is in place: a process that dies on the way leaves an archive that opens
    with one of them, and the same call goes on. What is staged keeps its key, because it does not last.

    Raises:
        ConfigurationError: encryption is off.
        StorageError: also DiskFull and DatabaseLocked; the archive is as it was.
        VaultError: the vault does not open.
    """
    if settings.address.is_lake:
        raise ConfigurationError(
            f"Each file of the archive {settings.address} has a key of its own, which lies in its catalogue: there is "
            "none to renew."
        )
    if not settings.encryption:
        raise ConfigurationError("The archive has no key, because EXPIRYTRACK_ENCRYPTION is off: set it to on first.")
    vault = open_vault(settings)
    new = vault.next_key("database")
    if settings.database.exists() and not _opens(Warehouse(settings.database, key=new)):
        convert(open_warehouse(settings), new, progress)
    forget(settings.published)  # published anew, by the next commit or question, with a key that follows from the new
    vault.promote("database")
    audit.record(settings, "archive_key_renewed")


def _opens(archive: Warehouse) -> bool:
    try:
        with archive.reading():
            return True
    except WrongKey:
        return False


def _is_otherwise(after: Settings) -> bool:
    archive = open_warehouse(after)
    if archive.store.file is None or not archive.exists():
        return False  # the files of a lake are encrypted in any case
    try:
        with archive.reading():
            return False
    except EncryptionMismatch:
        return True


def _convert_staged(before: Settings, after: Settings) -> int:
    changed = 0
    for folder in sorted(path for path in before.staging.glob("*/*") if path.is_dir()):
        staging = CellStaging(folder, staging_key(before))
        with staging.held():
            changed += staging.change_key(staging_key(after))
    return changed


def _drop_answers(before: Settings) -> bool:
    cache = kept_answers(before.model_copy(update={"cache": True}), SystemClock())
    if cache is None or not before.answers.exists():
        return False
    cache.drop()
    return True
