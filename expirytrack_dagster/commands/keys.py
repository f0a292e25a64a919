"""`expirytrack keys ...`: how old the vault's keys are and where their secret comes from; new ones.

Only options, questions and printing: what is encrypted anew, and in which order, is in `security/vault.py` and
`conversion.py`.
"""

from __future__ import annotations

import json
from typing import Annotated, Literal

import typer

from expirytrack_dagster.commands.options import JsonOption
from expirytrack_dagster.commands.secret import asked_twice
from expirytrack_dagster.settings import load_settings

keys = typer.Typer(name="keys", no_args_is_help=True, help="Show the age of the vault's keys, and rotate them.")

ToOption = Annotated[
    Literal["passphrase", "keyring", "file"] | None,
    typer.Option(help="Take the new secret from here; from where the old one came if not given."),
]
ArchiveOption = Annotated[
    bool, typer.Option("--archive", help="Write the encrypted archive anew as well, under a new key of its own.")
]


@keys.command()
def status(*, as_json: JsonOption = False) -> None:
    """Open the vault and show where its secret comes from, how old its keys are, and what it holds, by name."""
    from expirytrack_dagster import console
    from expirytrack_dagster.security.vault import open_vault

    settings = load_settings()
    found = open_vault(settings).status()
    if as_json:
        report = {"vault": str(settings.vault), "exists": found is not None}
        if found is not None:
            report |= {
                "source": found.source,
                "rounds": found.rounds,
                "made_at": found.made_at.isoformat(),
                "age_days": round(found.age_days, 1),
                "due": found.finding is not None,
                "names": found.names,
                "purposes": found.purposes,
            }
        console.out.print_json(json.dumps(report))
    elif found is None:
        console.say(f"There is no vault at {settings.vault} yet: the first secret makes it.")
    else:
        console.say(f"Vault:   {settings.vault}")
        console.say(f"Secret:  from the {found.source}, {found.rounds:,} rounds of PBKDF2-HMAC-SHA256")
        console.say(f"Made:    {found.made_at:%Y-%m-%d %H:%M} UTC, {found.age_days:.0f} days ago")
        console.say(f"Secrets: {', '.join(found.names) or 'none'}")
        console.say(f"Keys:    {', '.join(found.purposes) or 'none'}")
        if found.finding:
            console.say(found.finding, to=console.err, style="yellow")


@keys.command()
def rotate(*, to: ToOption = None, archive: ArchiveOption = False) -> None:
    """Encrypt the vault anew: new data key, new secret.

    The keys of files stay: archive, staged batches, kept answers and backups open as before. --archive renews the
    archive's key, and only that.

    A passphrase stays, unless --to passphrase is given: then a new one is asked for, or EXPIRYTRACK_PASSPHRASE is taken
    by a vault that had none.
    """
    from expirytrack_dagster import console
    from expirytrack_dagster.conversion import renew_archive_key
    from expirytrack_dagster.security import audit, key_sources
    from expirytrack_dagster.security.vault import open_vault

    settings = load_settings()
    vault = open_vault(settings)
    found = vault.status()
    if found is None:
        console.say(f"There is no vault at {settings.vault} yet: nothing to rotate.")
        return
    new = key_sources.source(to or found.source, settings)
    is_new = to == "passphrase" and (settings.passphrase is None or found.source == "passphrase")
    if is_new:
        chosen = load_settings(passphrase=asked_twice("New passphrase: "))  # passes the same rule as the setting
        new = key_sources.source("passphrase", chosen)
    if archive:
        with console.slow_bar("Writing", "MB") as progress:
            renew_archive_key(settings, progress)
        console.say(f"{settings.database} is encrypted with a new key, and was proved equal to what it was.")
    vault.rotate(new)
    audit.record(settings, "keys_rotated", source=to or found.source)
    console.say(f"Rotated: new keys, the secret from the {to or found.source}.")
    if is_new:
        console.say("Set EXPIRYTRACK_PASSPHRASE to the new passphrase before the next command.")
