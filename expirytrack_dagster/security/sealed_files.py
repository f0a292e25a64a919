"""Files sealed with AES-256-GCM in pieces: memory stays flat, and nothing of a changed file is taken for true.

The pieces are chained as in the STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizar: "Online
Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance", 2015): the nonce of each is its number and a flag that
only the last one has, so that pieces cannot be taken out, moved, repeated or added, nor the end cut off. Each file has
a key of its own, derived (HKDF-SHA256) from the given one, a random salt and the context: no nonce is ever used twice
with a key, and a file that was sealed for one use is refused in another.

Layout: 8 bytes of magic, 1 byte version, 32 bytes salt; then pieces of 1 MiB of content (the last one shorter), each
followed by its tag of 16 bytes. Where keys come from is the vault's affair.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from expirytrack_dagster.errors import SealBroken
from expirytrack_dagster.security.private_files import opener, sync_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAGIC = b"EXPTRKSF"
VERSION = b"\x01"
PIECE = 1 << 20
"""Bytes of content in a piece."""

_SALT = 32
_TAG = 16
_KEY = 32
HEADER = len(MAGIC) + len(VERSION) + _SALT


def seal(source: Path, target: Path, key: bytes, *, context: bytes) -> None:
    """Write a file's content sealed to another, which appears at once and whole.

    Args:
        source: the file to read.
        target: the sealed file; replaced where it exists.
        key: 32 random bytes.
        context: what the file is for, such as `b"staging"`; it must be given again to read it.

    Raises:
        OSError: one of the files cannot be read or written; nothing is left of the target.
    """
    with source.open("rb") as plain, _replacing(target) as file, sealing(file, key, context=context) as sealed:
        while piece := plain.read(PIECE):
            sealed.write(piece)


def unseal(source: Path, target: Path, key: bytes, *, context: bytes) -> None:
    """Write a sealed file's content to another, which appears only when all of it has proved true.

    Raises:
        SealBroken: the file is not what was sealed with this key and context; nothing is left of the target.
        OSError: one of the files cannot be read or written; nothing is left of the target.
    """
    with source.open("rb") as file, _replacing(target) as plain:
        sealed = Unsealing(file, key, context=context, name=str(source))
        while piece := sealed.read(PIECE):
            plain.write(piece)


@contextmanager
def sealing(file: IO[bytes], key: bytes, *, context: bytes) -> Iterator[Sealing]:
    """Seal what the block writes; if the block fails, the file lacks its end and will be refused."""
    writer = Sealing(file, key, context=context)
    yield writer
    writer.finish()


def has_its_end(file: IO[bytes], key: bytes, *, context: bytes) -> bool:
    """Say whether a sealed file was written to its end with this key; only its last piece is read.

    Args:
        file: seekable, at the header.
        key: as it was sealed with.
        context: as it was sealed with.
    """
    header = file.read(HEADER)
    begin, size = file.tell(), PIECE + _TAG
    whole = max(0, file.seek(0, os.SEEK_END) - begin - 1) // size
    file.seek(begin + whole * size)
    try:
        _Pieces(header, key, context, done=whole).open(file.read(), last=True)
    except InvalidTag:
        return False
    return True


class Sealing:
    """Writes sealed pieces to a file; without `finish`, what was written stays unreadable."""

    def __init__(self, file: IO[bytes], key: bytes, *, context: bytes) -> None:
        """Write the header."""
        header = MAGIC + VERSION + os.urandom(_SALT)
        file.write(header)
        self._file = file
        self._pieces = _Pieces(header, key, context)
        self._pending = bytearray()

    def write(self, content: bytes) -> int:
        """Take content of any size; at most a piece of it waits in memory."""
        self._pending += content
        # The last piece is known to be the last only at the end: a full one waits until more comes.
        while len(self._pending) > PIECE:
            self._file.write(self._pieces.seal(bytes(self._pending[:PIECE]), last=False))
            del self._pending[:PIECE]
        return len(content)

    def finish(self) -> None:
        """Write the last piece."""
        self._file.write(self._pieces.seal(bytes(self._pending), last=True))


class Unsealing:
    """Reads the content of a sealed file, in order; what `read` returns is authentic, the end included."""

    def __init__(self, file: IO[bytes], key: bytes, *, context: bytes, name: str) -> None:
        """Read the header.

        Raises:
            SealBroken: it is no sealed file of a version that is known here.
        """
        self._name = name
        header = file.read(HEADER)
        if len(header) < HEADER or not header.startswith(MAGIC):
            raise SealBroken(f"{name} is no sealed file of ExpiryTrack.")
        if not header.startswith(MAGIC + VERSION):
            version = header[len(MAGIC)]
            raise SealBroken(f"{name} is of version {version}, which is not known here: update ExpiryTrack.")
        self._file = file
        self._pieces = _Pieces(header, key, context)
        self._next = file.read(PIECE + _TAG)
        self._content = b""
        self._at = 0
        self._ended = False

    def read(self, size: int) -> bytes:
        """Return up to so many bytes of content (at least 1), and none at its end.

        Raises:
            SealBroken: the next piece is not the one that was sealed here, or the end is missing.
        """
        if self._at == len(self._content) and not self._ended:
            self._content, self._at = self._piece(), 0
        part = self._content[self._at : self._at + size]
        self._at += len(part)
        return part

    def _piece(self) -> bytes:
        sealed, self._next = self._next, self._file.read(PIECE + _TAG)
        self._ended = not self._next
        try:
            return self._pieces.open(sealed, last=self._ended)
        except InvalidTag:
            raise SealBroken(
                f"{self._name} is damaged, cut off, or was sealed with another key: nothing of it was used."
            ) from None


class _Pieces:
    """The cipher of one file: counts its pieces."""

    def __init__(self, header: bytes, key: bytes, context: bytes, *, done: int = 0) -> None:
        if len(key) != _KEY:
            raise ValueError(f"a key has {_KEY} bytes, not {len(key)}")
        derived = HKDF(SHA256(), length=_KEY, salt=header[-_SALT:], info=MAGIC + VERSION + context).derive(key)
        self._cipher = AESGCM(derived)
        self._number = done

    def seal(self, content: bytes, *, last: bool) -> bytes:
        return self._cipher.encrypt(self._nonce(last=last), content, None)

    def open(self, sealed: bytes, *, last: bool) -> bytes:
        if len(sealed) < _TAG:
            raise InvalidTag
        return self._cipher.decrypt(self._nonce(last=last), sealed, None)

    def _nonce(self, *, last: bool) -> bytes:
        self._number += 1
        return self._number.to_bytes(11, "big") + bytes([last])


@contextmanager
def _replacing(target: Path) -> Iterator[IO[bytes]]:
    """Yield a file that takes the target's place, on disk, when the block ends well, and goes when it does not."""
    unfinished = target.with_name(f"{target.name}.unfinished")
    try:
        with open(unfinished, "wb", opener=opener) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(target)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)
