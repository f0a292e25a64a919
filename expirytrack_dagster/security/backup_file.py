"""The file of a backup: who can open it, what is in it, and that nothing else ever comes out of it.

**Layout.** A lid that is readable: a magic word, a version, and the file's key, wrapped once by the backup key of the
vault and, where the vault has a passphrase, once more by that (PBKDF2-HMAC-SHA256). Then, sealed under the file's key
with the lid as context: the manifest, and the content of every part in the manifest's order. There are no names, links,
modes or owners outside the manifest, and a part's name is a plain relative path or the whole file is refused.

**The recovery key** is the backup key in letters. It does not change when the vault's keys are rotated, so one that was
written down opens every backup of its home, on any machine.

Files only: what belongs into a backup and whether it is sound is decided in `backup.py`.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import secrets
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

from expirytrack_dagster.errors import BackupRefused, ConfigurationError, SealBroken
from expirytrack_dagster.security.private_files import make_folder, opener, sync_folder
from expirytrack_dagster.security.sealed_files import PIECE, Unsealing, has_its_end, sealing

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

ROUNDS = 600_000
"""Rounds of PBKDF2 for a passphrase (OWASP's figure for HMAC-SHA256); a file that asks for fewer is refused."""

_MOST_ROUNDS = 10_000_000  # an altered number must not keep the processor busy for hours
_MAGIC = b"EXPTRKBK\x01"
_LARGEST_LID = 4096
_LARGEST_MANIFEST = 1 << 28
_KEY_BYTES, _NONCE_BYTES, _SALT_BYTES, _CHECK_BYTES = 32, 12, 16, 3
_NAME = re.compile(r"expirytrack-\d{8}T\d{6}Z\.backup")
_SEGMENT = re.compile(r"[A-Za-z0-9&_@+=,.-]{0,199}[A-Za-z0-9&_@+=,-]")  # a last dot is lost on Windows


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of the home: its path with forward slashes, its size, and the SHA-256 of its content in hex."""

    path: str
    bytes: int
    sha256: str


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of the archive: its rows, and the sum of their hashes."""

    rows: int
    checksum: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is in a backup.

    Attributes:
        made_at: When the copy was taken (UTC).
        program: Version of ExpiryTrack.
        duckdb: Version of DuckDB, on which the checksums depend.
        schemas: Version of the schema of `archive` and `state`.
        tables: What was counted in the copy of the archive.
        findings: What `verify` found in that copy.
        audit_head: `NUMBER:HASH` of the last line of the audit log.
        encrypted: Whether the archive among the parts is encrypted, with a key of the vault.
        vault: Secrets and keys of the vault; empty where there was none.
        parts: The files, in the order of their contents.
    """

    made_at: str
    program: str
    duckdb: str
    schemas: dict[str, int]
    tables: dict[str, Table]
    findings: list[str]
    audit_head: str
    encrypted: bool
    vault: bytes = msgspec.field()
    parts: list[Part] = msgspec.field()


@dataclass(frozen=True)
class Openers:
    """What may open a backup: backup keys and passphrases, tried in this order."""

    keys: tuple[bytes, ...] = field(default=(), repr=False)
    passphrases: tuple[str, ...] = field(default=(), repr=False)


class _ByPassphrase(msgspec.Struct, forbid_unknown_fields=True):
    rounds: int
    salt: bytes
    wrapped: bytes


class _Lid(msgspec.Struct, forbid_unknown_fields=True):
    by_key: bytes
    by_passphrase: _ByPassphrase | None


def name_of(made_at: datetime) -> str:
    """Return the file name of a backup that was made at this time (UTC); names sort by age."""
    return f"expirytrack-{made_at:%Y%m%dT%H%M%SZ}.backup"


def spelled(key: bytes) -> str:
    """Return the recovery key for a backup key: 14 groups of four letters and digits, the last five as a check."""
    text = base64.b32encode(key + hashlib.sha256(key).digest()[:_CHECK_BYTES]).decode()
    return "-".join(text[place : place + 4] for place in range(0, len(text), 4))


def read_spelled(text: str) -> bytes:
    """Return the backup key that a recovery key spells; spaces, hyphens and small letters do not matter.

    Raises:
        ConfigurationError: it was mistyped, or is none.
    """
    letters = re.sub(r"[\s-]", "", text).upper()
    try:
        decoded = base64.b32decode(letters)
    except ValueError:  # also binascii.Error
        decoded = b""
    key, check = decoded[:_KEY_BYTES], decoded[_KEY_BYTES:]
    if len(key) < _KEY_BYTES or check != hashlib.sha256(key).digest()[:_CHECK_BYTES]:
        raise ConfigurationError("This is no recovery key, or it was mistyped: 14 groups of four letters and digits.")
    return key


def write(
    path: Path,
    manifest: Manifest,
    folder: Path,
    key: bytes,
    passphrase: str | None,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> None:
    """Write a backup of what lies in a folder; it gets its name when it is whole and on disk.

    Args:
        path: the backup.
        manifest: names what is written; each part is proved while it is read.
        folder: where the parts lie.
        key: the backup key of the vault.
        passphrase: what shall open the backup besides.
        progress: told the bytes done, and all.

    Raises:
        BackupRefused: a part has a name that could not be restored, or is not what the manifest says.
        OSError: also when there is no room; nothing is left.
    """
    _require_plain(manifest)
    file_key = secrets.token_bytes(_KEY_BYTES)
    lid = _lid(file_key, key, passphrase)
    unfinished = path.with_name(f"{path.name}.unfinished")
    count = _counting(manifest, progress)
    try:
        with open(unfinished, "xb", opener=opener) as file:
            file.write(lid)
            with sealing(file, file_key, context=lid) as sealed:
                encoded = msgspec.json.encode(manifest)
                sealed.write(len(encoded).to_bytes(4, "big") + encoded)
                for part in manifest.parts:
                    with (folder / part.path).open("rb") as source:
                        _pass_on(source.read, sealed.write, part, count)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def describe(path: Path, folder: Path) -> Part:
    """Return the entry of the manifest for a file of the folder."""
    file = folder / path
    with file.open("rb") as content:
        return Part(path.as_posix(), file.stat().st_size, hashlib.file_digest(content, "sha256").hexdigest())


def unlock(path: Path, openers: Openers) -> bytes | None:
    """Return the key of the file, or None when nothing that was given opens it.

    Raises:
        BackupRefused: it is no backup, or one of a version that is not known here.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        lid, _ = _read_lid(file, path)
    for key in openers.keys:
        if (found := _unwrapped(key, lid.by_key)) is not None:
            return found
    if slot := lid.by_passphrase:
        for passphrase in openers.passphrases:
            if (found := _unwrapped(_stretched(passphrase, slot), slot.wrapped)) is not None:
                return found
    return None


def unpack(
    path: Path, file_key: bytes, folder: Path, progress: Callable[[int, int], None] = lambda _done, _all: None
) -> Manifest:
    """Write every part below an empty folder, each proved by its size and hash, and return the manifest.

    What has been written when this fails is the caller's to remove.

    Args:
        path: the backup.
        file_key: from `unlock`.
        folder: exists, empty, nobody else's.
        progress: told the bytes done, and all.

    Raises:
        BackupRefused: the file is damaged, cut off, goes on after its end, or names a path that leads elsewhere.
        OSError: something cannot be read or written.
    """
    with path.open("rb") as file:
        _, lid = _read_lid(file, path)
        try:
            sealed = Unsealing(file, file_key, context=lid, name=str(path))
            manifest = _read_manifest(sealed, path)
            count = _counting(manifest, progress)
            for part in manifest.parts:
                target = folder / part.path
                make_folder(target.parent)
                with open(target, "xb", opener=opener) as written:
                    _pass_on(sealed.read, written.write, part, count)
                    written.flush()
                    os.fsync(written.fileno())
            if sealed.read(1):
                raise BackupRefused(f"{path} holds more than its manifest names: nothing was restored.")
        except SealBroken as error:
            raise BackupRefused(f"{path} is damaged, cut off, or no whole backup: nothing was restored.") from error
    return manifest


def whole_backups(folder: Path, key: bytes) -> list[Path]:
    """Return the backups of this backup key in a folder that were written to their end, the oldest first.

    Whatever else lies there, however it is called, is not among them.
    """
    return [path for path in sorted(folder.glob("expirytrack-*.backup")) if _is_whole(path, key)]


def leftovers(folder: Path, key: bytes) -> list[Path]:
    """Return what a backup with this backup key has left that was stopped on its way."""
    return [path for path in sorted(folder.glob("expirytrack-*.backup.unfinished")) if _file_key(path, key)]


def _is_whole(path: Path, key: bytes) -> bool:
    file_key = _file_key(path, key) if _NAME.fullmatch(path.name) else None
    if file_key is None:
        return False
    with path.open("rb") as file:
        _, lid = _read_lid(file, path)
        return has_its_end(file, file_key, context=lid)


def _file_key(path: Path, key: bytes) -> bytes | None:
    if path.is_symlink() or not path.is_file():
        return None
    try:
        return unlock(path, Openers(keys=(key,)))
    except (BackupRefused, OSError):
        return None


def _lid(file_key: bytes, key: bytes, passphrase: str | None) -> bytes:
    lid = _Lid(_wrapped(key, file_key), None)
    if passphrase is not None:
        slot = _ByPassphrase(ROUNDS, os.urandom(_SALT_BYTES), b"")
        slot.wrapped = _wrapped(_stretched(passphrase, slot), file_key)
        lid.by_passphrase = slot
    encoded = msgspec.msgpack.encode(lid)
    return _MAGIC + len(encoded).to_bytes(2, "big") + encoded


def _read_lid(file: IO[bytes], path: Path) -> tuple[_Lid, bytes]:
    magic = file.read(len(_MAGIC))
    if magic[:-1] != _MAGIC[:-1]:
        raise BackupRefused(f"{path} is no backup of ExpiryTrack: nothing was restored.")
    if magic != _MAGIC:
        raise BackupRefused(f"{path} is a backup of version {magic[-1]}, which is not known here: update ExpiryTrack.")
    size = file.read(2)
    encoded = file.read(min(_LARGEST_LID, int.from_bytes(size, "big")))
    try:
        lid = msgspec.msgpack.decode(encoded, type=_Lid)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise _damaged(path) from None
    if lid.by_passphrase and not ROUNDS <= lid.by_passphrase.rounds <= _MOST_ROUNDS:
        raise _damaged(path)
    return lid, magic + size + encoded


def _read_manifest(sealed: Unsealing, path: Path) -> Manifest:
    size = int.from_bytes(_exactly(sealed, 4), "big")
    try:
        manifest = msgspec.json.decode(_exactly(sealed, min(size, _LARGEST_MANIFEST)), type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise _damaged(path) from None
    _require_plain(manifest)
    return manifest


def _require_plain(manifest: Manifest) -> None:
    """Refuse a name that could lead out of a folder, on any system, or that two parts share.

    Raises:
        BackupRefused: the name, and why.
    """
    seen: set[str] = set()
    for part in manifest.parts:
        if not all(_SEGMENT.fullmatch(segment) for segment in part.path.split("/")):
            raise BackupRefused(f"The backup names {part.path[:100]!r}, which is no plain path: it is refused whole.")
        if part.path.lower() in seen:
            raise BackupRefused(f"The backup names {part.path!r} twice: it is refused whole.")
        seen.add(part.path.lower())


def _counting(manifest: Manifest, progress: Callable[[int, int], None]) -> Callable[[int], None]:
    """Return what is told the size of each piece, and tells the bytes done and all."""
    done, whole = 0, sum(part.bytes for part in manifest.parts)

    def count(size: int) -> None:
        nonlocal done
        done += size
        progress(done, whole)

    return count


def _pass_on(
    read: Callable[[int], bytes], write_out: Callable[[bytes], int], part: Part, count: Callable[[int], None]
) -> None:
    digest, left = hashlib.sha256(), part.bytes
    while left and (piece := read(min(PIECE, left))):
        digest.update(piece)
        write_out(piece)
        left -= len(piece)
        count(len(piece))
    if left or digest.hexdigest() != part.sha256:
        raise BackupRefused(f"{part.path} is not what the manifest says: the backup is refused whole.")


def _exactly(sealed: Unsealing, size: int) -> bytes:
    content = bytearray()
    while len(content) < size and (piece := sealed.read(size - len(content))):
        content += piece
    return bytes(content)


def _damaged(path: Path) -> BackupRefused:
    return BackupRefused(f"{path} is damaged: nothing was restored.")


def _stretched(passphrase: str, slot: _ByPassphrase) -> bytes:
    kdf = PBKDF2HMAC(algorithm=SHA256(), length=_KEY_BYTES, salt=slot.salt, iterations=slot.rounds)
    return kdf.derive(passphrase.encode())


def _wrapped(key: bytes, file_key: bytes) -> bytes:
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, file_key, _MAGIC)


def _unwrapped(key: bytes, wrapped: bytes) -> bytes | None:
    try:
        return AESGCM(key).decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], _MAGIC)
    except (InvalidTag, ValueError):  # another key, or too short to be anything
        return None
