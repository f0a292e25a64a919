"""Where the secret comes from that opens the vault: a passphrase, the operating system's keyring, or a key file.

A source makes, finds and forgets secrets by an id, so that a new one can stand beside the old one until the vault has
moved to it. Stretching a secret and encrypting with it belong to `vault.py`. A key file keeps out other users and
whoever gets a copy of the vault alone; it does not keep out somebody who can read the whole home.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol

import keyring
from keyring.backends import fail, null
from keyring.errors import KeyringError

from expirytrack_dagster.errors import VaultLocked
from expirytrack_dagster.security.private_files import read_private, write_private

if TYPE_CHECKING:
    from pathlib import Path

    from expirytrack_dagster.settings import Settings

SECRET_BYTES = 32
_SERVICE = "expirytrack"


class KeySource(Protocol):
    """One place that secrets come from."""

    code: ClassVar[int]
    """What stands for it in a vault."""
    name: ClassVar[str]
    """What it is called on the command line."""

    def make(self, secret_id: str) -> bytes:
        """Make and keep a secret under this id and return it; raises VaultLocked when there is no such place."""
        ...

    def find(self, secret_id: str) -> bytes:
        """Return the secret of this id; raises VaultLocked when it cannot be had."""
        ...

    def forget(self, secret_id: str) -> None:
        """Remove the secret of this id, if it is there and belongs to this home."""
        ...


@dataclass(frozen=True)
class Passphrase:
    """A person's passphrase, kept nowhere; every id stands for the same one."""

    code: ClassVar[int] = 1
    name: ClassVar[str] = "passphrase"
    passphrase: str | None = field(repr=False)

    def make(self, secret_id: str) -> bytes:
        """Return the passphrase."""
        return self.find(secret_id)

    def find(self, secret_id: str) -> bytes:
        """Return the passphrase; raises VaultLocked when none is set."""
        del secret_id
        if self.passphrase is None:
            raise VaultLocked("The vault is locked by a passphrase: set EXPIRYTRACK_PASSPHRASE to it and try again.")
        return self.passphrase.encode()

    def forget(self, secret_id: str) -> None:
        """Do nothing: there is nothing kept."""


@dataclass(frozen=True)
class Keyring:
    """The keyring of the operating system: Secret Service, macOS Keychain, Windows Credential Locker.

    An entry says for which home it was made: a home that was copied can be opened by the same user, but a rotation in
    the copy does not take the secret away from the original.
    """

    code: ClassVar[int] = 2
    name: ClassVar[str] = "keyring"
    home: Path

    def make(self, secret_id: str) -> bytes:
        """Keep a random secret in the keyring; raises VaultLocked where there is none, or it stays locked."""
        if not has_keyring():
            raise VaultLocked("This machine has no keyring: set EXPIRYTRACK_PASSPHRASE.")
        secret = secrets.token_bytes(SECRET_BYTES)
        try:
            keyring.set_password(_SERVICE, secret_id, f"{base64.b64encode(secret).decode()} {self.home}")
            kept = self._entry(secret_id)
        except KeyringError as error:
            raise _unusable(error) from error
        if kept is None or kept[0] != secret:
            raise VaultLocked("The keyring of this machine does not keep what it is given: set EXPIRYTRACK_PASSPHRASE.")
        return secret

    def find(self, secret_id: str) -> bytes:
        """Return the secret; raises VaultLocked when the keyring does not open or has no such entry."""
        try:
            entry = self._entry(secret_id)
        except KeyringError as error:
            raise _unusable(error) from error
        if entry is None:
            raise VaultLocked(
                "The keyring of this user and machine has no key for the vault, which was made elsewhere or before the "
                "keyring was cleared: use it where it was made, or restore a backup."
            )
        return entry[0]

    def forget(self, secret_id: str) -> None:
        """Remove the entry, unless it was made for another home."""
        try:
            entry = self._entry(secret_id)
            if entry is not None and entry[1] == str(self.home):
                keyring.delete_password(_SERVICE, secret_id)
        except KeyringError as error:
            raise _unusable(error) from error

    def _entry(self, secret_id: str) -> tuple[bytes, str] | None:
        text = keyring.get_password(_SERVICE, secret_id)
        if text is None:
            return None
        encoded, _, home = text.partition(" ")
        try:
            return base64.b64decode(encoded, validate=True), home
        except binascii.Error:
            return None


@dataclass(frozen=True)
class KeyFile:
    """Files below the home that only their owner may read, for machines without a keyring."""

    code: ClassVar[int] = 3
    name: ClassVar[str] = "file"
    folder: Path

    def make(self, secret_id: str) -> bytes:
        """Write a random secret into a new file; raises like `write_private`."""
        secret = secrets.token_bytes(SECRET_BYTES)
        write_private(self._file(secret_id), secret)
        return secret

    def find(self, secret_id: str) -> bytes:
        """Return the secret; raises VaultLocked when there is no such file, and like `read_private`."""
        secret = read_private(self._file(secret_id))
        if secret is None:
            raise VaultLocked(
                f"The key file {self._file(secret_id)} of the vault is missing: put it back, or restore a backup."
            )
        return secret

    def forget(self, secret_id: str) -> None:
        """Remove the file."""
        self._file(secret_id).unlink(missing_ok=True)

    def _file(self, secret_id: str) -> Path:
        return self.folder / f"{secret_id}.key"


def source(code_or_name: int | str, settings: Settings) -> KeySource | None:
    """Return the source that a vault or a command line names; None for a name that this program does not know."""
    return next((one for one in _all(settings) if code_or_name in {one.code, one.name}), None)


def has_keyring() -> bool:
    """Say whether this machine has a keyring; whether it opens shows when it is used."""
    return not isinstance(keyring.get_keyring(), (fail.Keyring, null.Keyring))


def for_new_vault(settings: Settings) -> list[KeySource]:
    """Return what a new vault may take its secret from, the best first: a passphrase that is set is the only one."""
    passphrase, *others = _all(settings)
    return others if settings.passphrase is None else [passphrase]


def _all(settings: Settings) -> tuple[KeySource, ...]:
    passphrase = None if settings.passphrase is None else settings.passphrase.get_secret_value()
    return Passphrase(passphrase), Keyring(settings.home), KeyFile(settings.vault_keys)


def _unusable(error: Exception) -> VaultLocked:
    return VaultLocked(
        f"The keyring of this machine cannot be used ({error}): unlock it by logging in, or set EXPIRYTRACK_PASSPHRASE "
        "if the vault was made with one."
    )
