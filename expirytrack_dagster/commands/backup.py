"""`expirytrack backup` and `expirytrack restore`.

Only options, questions and printing: what is copied and proved is `backup.py`.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from expirytrack_dagster.commands.options import JsonOption
from expirytrack_dagster.commands.secret import asked
from expirytrack_dagster.settings import load_settings

if TYPE_CHECKING:
    from expirytrack_dagster.security.backup_file import Openers


def backup(
    to: Annotated[Path | None, typer.Option(help="Folder of the backups; that of the settings if not given.")] = None,
    *,
    show_key: Annotated[bool, typer.Option(help="Print the recovery key instead; it opens every backup.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Back up the home into one sealed file and prove the copy; a collection may go on meanwhile."""
    from expirytrack_dagster.backup import back_up, recovery_key
    from expirytrack_dagster.console import say, slow_bar
    from expirytrack_dagster.security import audit

    settings = load_settings()
    if show_key:
        key = recovery_key(settings)
        audit.record(settings, "recovery_key_shown")
        typer.echo(json.dumps({"recovery_key": key}) if as_json else key)
        return
    with slow_bar("Backing up", "bytes") as progress:
        made = back_up(settings, to and to.expanduser().resolve(), progress)
    if as_json:
        typer.echo(json.dumps(asdict(made), default=str, indent=2))
        return
    candles = made.rows.get("candles", 0)
    say(f"Backup: {made.path} ({made.size / 1e6:,.1f} MB, {made.parts:,} files, {candles:,} candles).")
    for old in made.removed:
        say(f"Removed, because {settings.backup_keep} newer ones are kept: {old.name}")
    say(made.summary)
    passphrase = "the passphrase of the vault, or with " if settings.passphrase else ""
    say(
        f"It opens here by itself, and on another machine with {passphrase}the recovery key: keep what "
        "'expirytrack backup --show-key' prints in a safe place, away from this machine."
    )


def restore(
    archive: Annotated[Path, typer.Argument(help="A file written by `expirytrack backup`.")],
    into: Annotated[
        Path | None, typer.Option(help="The new home, empty or not there yet; EXPIRYTRACK_HOME if not given.")
    ] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Restore a home from a backup and prove that it equals what was copied; a damaged file is refused."""
    from expirytrack_dagster import console
    from expirytrack_dagster.backup import own_openers
    from expirytrack_dagster.backup import restore as restore_backup
    from expirytrack_dagster.observe import logs

    settings = load_settings()
    logs.end()  # the new home has to be empty until it is whole
    home = into.expanduser().absolute() if into else settings.home
    openers = own_openers(settings)
    if not _opens(archive, openers) and sys.stdin.isatty():
        openers = _asked_openers()
    with console.slow_bar("Restoring", "bytes") as progress:
        result = restore_backup(settings, archive, home, openers, progress)
    if as_json:
        typer.echo(json.dumps(asdict(result), default=str, indent=2))
        return
    equal = "every table and file is equal to what was copied" if result.compared else "every file is what was copied"
    console.say(f"Restored: {result.home}, as it was on {result.made_at} ({result.parts:,} files; {equal}).")
    console.say(result.summary)
    if home != settings.home:
        console.say(f"To use it, set EXPIRYTRACK_HOME={home}.")
    if result.archive != str(settings.model_copy(update={"home": home}).address):
        console.say(f"Its archive is there too: set EXPIRYTRACK_WAREHOUSE={result.archive}.")
    if result.encrypted != settings.encryption:
        console.say(
            f"Its archive is {'' if result.encrypted else 'not '}encrypted: set EXPIRYTRACK_ENCRYPTION to suit."
        )


def _opens(archive: Path, openers: Openers) -> bool:
    from expirytrack_dagster.errors import BackupRefused
    from expirytrack_dagster.security import backup_file

    try:
        return backup_file.unlock(archive, openers) is not None
    except (BackupRefused, OSError):
        return True  # nothing to ask for: restoring says what is wrong with the file


def _asked_openers() -> Openers:
    """Ask for the recovery key or the passphrase, without showing it."""
    from expirytrack_dagster.errors import ConfigurationError
    from expirytrack_dagster.security import backup_file

    text = asked("Recovery key or passphrase: ")
    try:
        return backup_file.Openers(keys=(backup_file.read_spelled(text),))
    except ConfigurationError:
        return backup_file.Openers(passphrases=(text,))
