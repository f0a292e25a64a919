"""The vault: named secrets and the keys of encrypted files, in one encrypted file that processes share.

**The file** is a header, a wrapped key and a body. The header (`_HEADER`) holds a magic word, the format's version,
where the secret comes from and under which id, the rounds and the salt of PBKDF2, and the time when the keys were made.
PBKDF2-HMAC-SHA256 stretches the secret to a key that wraps a random data key (AES-256-GCM, the header as associated
data); the data key encrypts the body, names and all (AES-256-GCM, header and wrapped key as associated data). So every
byte of the file is proved at each reading, and an entry can be neither renamed, moved nor taken from another vault.
An older copy of the whole file is a vault still: what was stored since is missing in it, which nothing here can see.

**Use.** Each operation holds a lock file, reads the file and proves it, and a change replaces it at once and whole.
Stretching takes about a third of a second and is done once a process for a secret; the secret is looked up once a vault
object. Where secrets come from belongs to `key_sources.py`, what is in an entry to whoever puts it there.
"""

from __future__ import annotations

import logging
import os
import secrets
import struct
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
from filelock import FileLock, Timeout

from expirytrack_dagster.errors import StorageError, VaultBusy, VaultDamaged, VaultLocked
from expirytrack_dagster.security import key_sources
from expirytrack_dagster.security.private_files import read_private, write_private

if TYPE_CHECKING:
    from collections.abc import Iterator

    from expirytrack_dagster.security.key_sources import KeySource
    from expirytrack_dagster.settings import Settings

Purpose = Literal["database", "staging", "cache", "backup"]

ROUNDS = 600_000
"""Rounds of PBKDF2 in a new vault; one that asks for fewer is refused (OWASP's figure for HMAC-SHA256)."""

_MOST_ROUNDS = 10_000_000  # an altered number must not keep the processor busy for hours
_MAGIC = b"EXPTRKVT"
_VERSION = 1
_HEADER = struct.Struct(">8sBBIQ16s16s")  # magic, version, source, rounds, made at (s), id of the secret, salt
_KEY_BYTES, _NONCE_BYTES, _TAG_BYTES = 32, 12, 16
_WRAPPED_BYTES = _NONCE_BYTES + _KEY_BYTES + _TAG_BYTES

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class VaultStatus:
    """What may be told about a vault.

    `source` is where its secret comes from; `made_at` (UTC) is when its keys were made or last rotated, `age_days` how
    long that is ago; `finding` is the sentence to say when that is longer than the settings want.
    """

    source: str
    rounds: int
    made_at: datetime
    age_days: float
    finding: str | None
    names: list[str]
    purposes: list[str]


class _Contents(msgspec.Struct):
    """The body of the file."""

    entries: dict[str, bytes] = {}
    keys: dict[str, bytes] = {}


@dataclass(frozen=True, slots=True)
class _Opened:
    """A vault in memory. `lid` is the header and the wrapped data key, as they stand in the file."""

    lid: bytes
    data_key: bytes = field(repr=False)
    contents: _Contents = field(repr=False)

    @property
    def header(self) -> _Header:
        return _Header.parsed(self.lid)


@dataclass(frozen=True, slots=True)
class _Header:
    source: int
    rounds: int
    made_at: int
    secret_id: bytes
    salt: bytes

    def packed(self) -> bytes:
        return _HEADER.pack(_MAGIC, _VERSION, self.source, self.rounds, self.made_at, self.secret_id, self.salt)

    @classmethod
    def parsed(cls, lid: bytes) -> _Header:
        return cls(*_HEADER.unpack_from(lid)[2:])


class Vault:
    """The vault of a home; cheap to make, opens nothing until it is used. Threads and processes may share the file.

    Every method raises:
        VaultLocked: the secret that opens it is missing, or is not the one that it was made with.
        VaultDamaged: it was altered or cut off, or a newer version wrote it.
        UnsafeFile: the vault or its key file is a link, or other users may read it.
        VaultBusy: another process kept it for longer than the settings' `lock_timeout`.
        StorageError: it cannot be read or written; also DiskFull. What was stored before is unchanged.
    """

    def __init__(self, settings: Settings) -> None:
        """Remember the settings; nothing is opened yet."""
        self._settings = settings
        self._path = settings.vault
        self._open: tuple[bytes, bytes] | None = None  # the lid that was opened last, and its data key

    def get(self, name: str) -> bytes | None:
        """Return what was put under this name; None when nothing was, or there is no vault yet."""
        opened = self._read()
        return None if opened is None else opened.contents.entries.get(name)

    def put(self, name: str, value: bytes) -> None:
        """Keep a secret under this name, in place of what was there; the first one makes the vault."""
        with self._changing() as contents:
            contents.entries[name] = value

    def delete(self, name: str) -> bool:
        """Forget what is under this name, and say whether there was anything."""
        if not self._path.exists():
            return False
        with self._changing() as contents:
            return contents.entries.pop(name, None) is not None

    def names(self) -> list[str]:
        """Return the names of all secrets, sorted."""
        opened = self._read()
        return [] if opened is None else sorted(opened.contents.entries)

    def data_key(self, purpose: Purpose) -> bytes:
        """Return the key of 32 random bytes for this purpose, made and kept at first use."""
        opened = self._read()
        if opened is not None and (key := opened.contents.keys.get(purpose)) is not None:
            return key
        with self._changing() as contents:
            return contents.keys.setdefault(purpose, secrets.token_bytes(_KEY_BYTES))

    def next_key(self, purpose: Purpose) -> bytes:
        """Return a new key for this purpose, kept beside the one in use until `promote` puts it in its place."""
        with self._changing() as contents:
            return contents.keys.setdefault(f"{purpose}.next", secrets.token_bytes(_KEY_BYTES))

    def promote(self, purpose: Purpose) -> None:
        """Use the new key for this purpose from now on and forget the old one; nothing happens if there is none."""
        with self._changing() as contents:
            if (key := contents.keys.pop(f"{purpose}.next", None)) is not None:
                contents.keys[purpose] = key

    def status(self, now: datetime | None = None) -> VaultStatus | None:
        """Open and prove the vault and return what may be told about it; None when there is none."""
        opened = self._read()
        if opened is None:
            return None
        made_at = datetime.fromtimestamp(opened.header.made_at, UTC)
        age_days = max(timedelta(0), (now or datetime.now(UTC)) - made_at) / timedelta(days=1)
        limit = self._settings.key_age_days
        return VaultStatus(
            source=self._source(opened.header).name,
            rounds=opened.header.rounds,
            made_at=made_at,
            age_days=age_days,
            finding=(
                f"The keys of the vault are {age_days:.0f} days old and were to be changed after {limit}: run "
                "'expirytrack keys rotate'."
                if age_days >= limit
                else None
            ),
            names=sorted(opened.contents.entries),
            purposes=sorted(opened.contents.keys),
        )

    def export(self) -> bytes:
        """Return all secrets and keys in the clear, for a backup that is itself sealed; empty if there is no vault."""
        opened = self._read()
        return b"" if opened is None else msgspec.msgpack.encode(opened.contents)

    def adopt(self, exported: bytes) -> None:
        """Make this vault of what `export` returned, opened by a secret of this machine, in place of what there was.

        Raises, besides what every method does, VaultDamaged: it is nothing that `export` returned.
        """
        try:
            contents = msgspec.msgpack.decode(exported, type=_Contents)
        except msgspec.MsgspecError:
            raise _damaged(self._path, "what was exported was altered") from None
        with self._changing() as kept:
            kept.entries, kept.keys = contents.entries, contents.keys

    def rotate(self, source: KeySource | None = None) -> None:
        """Encrypt everything anew under a new data key, wrapped by a new secret (a passphrase stays) with a new salt.

        The new secret is kept beside the old one until the file has been replaced: a process that dies on the way
        leaves a vault that opens, and at most one secret that opens nothing. The keys of encrypted files stay the same.

        Args:
            source: where the new secret is to come from; the place of the old one if None.
        """
        with self._alone():
            before = self._opened()
            if before is None:
                return
            old = self._source(before.header)
            self._write(self._new(source or old, before.contents))
        old.forget(before.header.secret_id.hex())

    @contextmanager
    def _changing(self) -> Iterator[_Contents]:
        with self._alone():
            opened = self._opened() or self._made()
            yield opened.contents
            self._write(opened)

    def _read(self) -> _Opened | None:
        if not self._path.exists() and not self._path.is_symlink():
            return None
        with self._alone():
            return self._opened()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        lock = FileLock(self._path.with_name(f"{self._path.name}.lock"), timeout=self._settings.lock_timeout)
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            raise VaultBusy(f"{self._path} was held by another process for too long: try again.") from None
        except OSError as error:
            raise StorageError(
                f"{self._path} cannot be used ({error.strerror or error}): see that its folder belongs to you."
            ) from error
        try:
            yield
        finally:
            lock.release()

    def _opened(self) -> _Opened | None:
        sealed = read_private(self._path)
        if sealed is None:
            return None
        header = _checked(sealed, self._path)
        lid, body = sealed[: _HEADER.size + _WRAPPED_BYTES], sealed[_HEADER.size + _WRAPPED_BYTES :]
        if self._open is None or self._open[0] != lid:
            self._open = lid, self._unwrapped(lid, header)
        try:
            plain = _decrypted(self._open[1], body, lid)
            contents = msgspec.msgpack.decode(plain, type=_Contents)
        except (InvalidTag, msgspec.MsgspecError):
            raise _damaged(self._path, "its contents were altered") from None
        return _Opened(lid, self._open[1], contents)

    def _unwrapped(self, lid: bytes, header: _Header) -> bytes:
        source = self._source(header)
        key = _stretched(source.find(header.secret_id.hex()), header.salt, header.rounds)
        try:
            return _decrypted(key, lid[_HEADER.size :], lid[: _HEADER.size])
        except InvalidTag:
            raise VaultLocked(
                f"{self._path} does not open with the secret of its {source.name}: that is not what the vault was made "
                "with, or the file was altered; give the right one, or restore a backup."
            ) from None

    def _source(self, header: _Header) -> KeySource:
        found = key_sources.source(header.source, self._settings)
        if found is None:
            raise _damaged(self._path, "it names no place that a secret could come from")
        return found

    def _made(self) -> _Opened:
        """Return a new, empty vault, its secret from the best place there is."""
        *better, last = key_sources.for_new_vault(self._settings)
        for source in better:
            try:
                return self._new(source, _Contents())
            except VaultLocked as refusal:
                _log.info("The new vault is not opened by the %s: %s", source.name, refusal)
        return self._new(last, _Contents())

    def _new(self, source: KeySource, contents: _Contents) -> _Opened:
        secret_id, salt = os.urandom(16), os.urandom(16)
        header = _Header(source.code, ROUNDS, int(time.time()), secret_id, salt).packed()
        data_key = AESGCM.generate_key(bit_length=8 * _KEY_BYTES)
        wrapping = _stretched(source.make(secret_id.hex()), salt, ROUNDS)
        return _Opened(header + _encrypted(wrapping, data_key, header), data_key, contents)

    def _write(self, opened: _Opened) -> None:
        body = msgspec.msgpack.encode(opened.contents)
        write_private(self._path, opened.lid + _encrypted(opened.data_key, body, opened.lid))
        self._open = opened.lid, opened.data_key


def open_vault(settings: Settings) -> Vault:
    """Return the vault of this home; see `Vault` for what its methods raise."""
    return Vault(settings)


def rotation_finding(settings: Settings, now: datetime | None = None) -> str | None:
    """Return the sentence to say when the keys of this home's vault are too old; raises like the methods of `Vault`."""
    status = open_vault(settings).status(now)
    return None if status is None else status.finding


def _checked(sealed: bytes, path: object) -> _Header:
    """Return the header of what may be a vault, its numbers within bounds."""
    if len(sealed) < _HEADER.size + _WRAPPED_BYTES + _NONCE_BYTES + _TAG_BYTES:
        raise _damaged(path, "it is cut off")
    magic, version = _HEADER.unpack_from(sealed)[:2]
    header = _Header.parsed(sealed)
    if magic != _MAGIC:
        raise _damaged(path, "it does not begin like one")
    if version > _VERSION:
        raise VaultDamaged(f"{path} has version {version} and this program knows only {_VERSION}: update ExpiryTrack.")
    if version < _VERSION:
        raise _damaged(path, f"there never was a version {version}")
    if not ROUNDS <= header.rounds <= _MOST_ROUNDS:
        raise _damaged(path, f"it asks for {header.rounds:,} rounds of PBKDF2")
    return header


def _damaged(path: object, reason: str) -> VaultDamaged:
    return VaultDamaged(f"{path} is not a vault that can be trusted ({reason}): restore a backup; nothing was changed.")


@lru_cache(maxsize=8)
def _stretched(secret: bytes, salt: bytes, rounds: int) -> bytes:
    return PBKDF2HMAC(algorithm=SHA256(), length=_KEY_BYTES, salt=salt, iterations=rounds).derive(secret)


def _encrypted(key: bytes, plain: bytes, associated: bytes) -> bytes:
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plain, associated)


def _decrypted(key: bytes, sealed: bytes, associated: bytes) -> bytes:
    return AESGCM(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], associated)
