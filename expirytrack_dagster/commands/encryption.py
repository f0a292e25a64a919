"""`expirytrack encrypt` and `expirytrack decrypt`: the data of the home in the other form.

Only printing: what is converted, and how it is kept from getting lost, is `conversion.py`.
"""

from __future__ import annotations

from expirytrack_dagster.settings import load_settings


def encrypt() -> None:
    """Encrypt the archive and staged data in place; cached answers are dropped.

    What was there stays until the new file is proved equal. State, reports, audit log and Dagster's records stay plain.
    """
    _convert(encrypted=True)


def decrypt() -> None:
    """Decrypt the archive and staged data in place; cached answers are dropped.

    What was there stays until the new file is proved equal.
    """
    _convert(encrypted=False)


def _convert(*, encrypted: bool) -> None:
    from expirytrack_dagster import console
    from expirytrack_dagster.conversion import convert_home

    settings = load_settings()
    form, setting = ("encrypted", "on") if encrypted else ("plain", "off")
    with console.slow_bar("Writing", "MB") as progress:
        done = convert_home(settings, encrypted=encrypted, progress=progress)
    if not done.anything:
        console.say(f"Nothing to do: the data of {settings.home} are {form} already.")
    if done.archive:
        console.say(f"{settings.database} is {form} now, and was proved equal to what it was.")
    if done.staged:
        console.say(f"Staged files converted: {done.staged}.")
    if done.answers:
        console.say("Kept answers were dropped; what is needed of them is asked again.")
    if settings.encryption is not encrypted:
        console.say(
            f"Set EXPIRYTRACK_ENCRYPTION={setting} from now on (or 'encryption = {str(encrypted).lower()}' in "
            "expirytrack.toml)."
        )
