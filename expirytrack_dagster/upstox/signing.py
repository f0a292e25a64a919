"""HTTP message signatures (RFC 9421) for those who reach Upstox through a gateway of their own.

Upstox itself asks for none. Only reading the key and signing requests belong here; a gateway verifies the signature,
and removes it or passes it on, as it likes.

Covered are the method, the host, the path, the query and the `Authorization` header, with the time of signing and the
key's id: whoever changes one of them on the way, or replays the request later, is found out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from http_message_signatures import HTTPMessageSigner, MappingKeyResolver
from http_message_signatures.algorithms import ED25519, HMAC_SHA256

from expirytrack_dagster.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from expirytrack_dagster.settings import Settings

COVERED = ("@method", "@authority", "@path", "@query", "authorization")
LABEL = "expirytrack"
SHORTEST_SECRET = 32
"""Bytes: a shared secret shorter than the hash is easier to guess than the hash (RFC 2104, 3)."""


class Signature(httpx.Auth):
    """Signs every request just before it is sent."""

    def __init__(self, key: bytes | Ed25519PrivateKey, key_id: str) -> None:
        """Keep the key; its kind decides the algorithm, ed25519 or hmac-sha256."""
        self._key_id = key_id
        self._signer = HTTPMessageSigner(
            signature_algorithm=HMAC_SHA256 if isinstance(key, bytes) else ED25519,
            key_resolver=MappingKeyResolver(public_keys={}, private_keys={key_id: key}),
        )

    def auth_flow(self, request: httpx.Request) -> Iterator[httpx.Request]:  # type: ignore[override]  # no reply is awaited
        """Add `Signature-Input` and `Signature`."""
        # The requests of a login carry no token yet; the signer refuses to cover what is not there.
        covered = [name for name in COVERED if name != "authorization" or name in request.headers]
        self._signer.sign(request, key_id=self._key_id, label=LABEL, covered_component_ids=covered)
        yield request


def signature(settings: Settings) -> Signature | None:
    """Return what signs this process's requests, None where no key is configured.

    Raises:
        ConfigurationError: the key cannot be read or is of no use; its content is not quoted.
    """
    if settings.signing_key is None:
        return None
    return Signature(_read_key(settings.signing_key), settings.signing_key_id)


def _read_key(path: Path) -> bytes | Ed25519PrivateKey:
    try:
        content = path.read_bytes().strip()
    except OSError as error:
        raise ConfigurationError(
            f"EXPIRYTRACK_SIGNING_KEY {str(path)!r} cannot be read: {error.strerror or error}."
        ) from error
    if not content.startswith(b"-----BEGIN"):
        if len(content) < SHORTEST_SECRET:
            raise ConfigurationError(
                f"EXPIRYTRACK_SIGNING_KEY {str(path)!r} holds fewer than {SHORTEST_SECRET} bytes: make a longer secret."
            )
        return content
    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        # Not "from error": a library may quote what it could not read.
        raise ConfigurationError(
            f"EXPIRYTRACK_SIGNING_KEY {str(path)!r} is no unencrypted Ed25519 private key in PEM form: make one with "
            "`openssl genpkey -algorithm ed25519`."
        ) from None
    return key
