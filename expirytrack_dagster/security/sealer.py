"""Small pieces of data sealed with a key of the vault (AES-256-GCM), each bound to the place where it belongs.

For values that fit in memory, such as kept answers; whole files are sealed by `sealed_files.py`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NONCE_BYTES = 12


@dataclass(frozen=True, slots=True)
class Sealer:
    """Seals and opens with one key."""

    key: bytes = field(repr=False)

    def seal(self, plain: bytes, place: str) -> bytes:
        """Return the data sealed; they open in this place only."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + AESGCM(self.key).encrypt(nonce, plain, place.encode())

    def opened(self, sealed: bytes, place: str) -> bytes | None:
        """Return what was sealed for this place; None when it was altered, or sealed elsewhere or not at all."""
        try:
            return AESGCM(self.key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], place.encode())
        except (InvalidTag, ValueError):  # too short to be anything
            return None
