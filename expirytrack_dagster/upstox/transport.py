"""The way to the API's host: encryption, certificates, pinned keys, redirects, and the connection pool.

Whatever decides *to whom* a request goes belongs here, so that the token reaches nobody but the host that the settings
name. Signing requests belongs to `signing.py`; what is asked, and what an answer means, to `client.py` and
`refusals.py`.

**Certificates** are checked against the usual public authorities. A gateway with an authority of its own is trusted
by naming its certificate file in the environment variable `SSL_CERT_FILE`, as for other programs that use OpenSSL.

**Pins** (`EXPIRYTRACK_PINS`) are SHA-256 hashes of a public key (SPKI, as in RFC 7469). A connection is good if any
certificate of its *verified* chain has one of them: pin the leaf to accept one key only, or an authority to survive
the host's renewals. Certificates that a server merely sends along prove nothing and are not looked at. The check is
part of every handshake, so a connection of the wrong key never carries a request.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import ssl
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import httpx
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from expirytrack_dagster.errors import CertificateRefused, ConfigurationError, EdgeBlocked, NetworkError
from expirytrack_dagster.settings import is_loopback
from expirytrack_dagster.upstox.signing import signature

if TYPE_CHECKING:
    from collections.abc import Collection

    from expirytrack_dagster.settings import Settings


def open_http(settings: Settings, transport: httpx.AsyncBaseTransport | None = None) -> httpx.AsyncClient:
    """Return the connection pool to the API; nothing is sent yet.

    Args:
        settings: Address, timeout, pool size, protocol, pins and signing key.
        transport: Replaces the network, for tests.

    Raises:
        ConfigurationError: a file of certificates or the signing key cannot be used.
    """
    # hpack describes every header that it encodes, the token among them, when someone logs at level DEBUG.
    logging.getLogger("hpack").setLevel(logging.INFO)
    connections = settings.workers * 2
    return httpx.AsyncClient(
        verify=_tls(settings),
        http2=settings.http2,
        limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
        timeout=settings.timeout,
        follow_redirects=False,  # the token must not travel to another host
        trust_env=not is_loopback(settings.api_url),  # a proxy cannot reach this machine's own loopback
        headers={"Accept": "application/json", "User-Agent": f"expirytrack/{version('expirytrack-dagster')}"},
        auth=signature(settings),
        event_hooks={"request": [_refuse_clear_text]},
        transport=transport,
    )


def unreached(url: str, error: Exception) -> NetworkError | CertificateRefused:
    """Return our error for a connection that httpx could not open: a bad certificate is not tried again."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return CertificateRefused(
                f"The certificate of {url} cannot be trusted ({cause.verify_message}), so nothing was sent: check "
                "EXPIRYTRACK_API_URL and this machine's date, or name your gateway's authority in SSL_CERT_FILE."
            )
        cause = cause.__cause__ or cause.__context__
    return NetworkError(f"{url} cannot be reached ({type(error).__name__} {error}): check the connection.")


def redirected(response: httpx.Response) -> EdgeBlocked | None:
    """Return the error that a redirect stands for; the API itself sends none."""
    if not response.has_redirect_location:
        return None
    try:
        target = str(response.url.join(response.headers["Location"]).copy_with(userinfo=b"", query=None, fragment=None))
    except httpx.InvalidURL:
        target = "an address that cannot be read"
    return EdgeBlocked(
        f"{response.url.host} redirects to {target}, to which nothing was sent: sign in to this network if it asks "
        f"for that, or check that EXPIRYTRACK_API_URL is the API's true address. HTTP {response.status_code}.",
        status=response.status_code,
    )


def spki_pin(certificate: bytes) -> str:
    """Return the pin of a DER certificate's public key, `sha256/...` in base64 (RFC 7469, 2.4)."""
    key = x509.load_der_x509_certificate(certificate).public_key()
    digest = hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    return f"sha256/{base64.b64encode(digest).decode()}"


async def _refuse_clear_text(request: httpx.Request) -> None:
    """Stand behind the settings' own check: whatever built the address, no token leaves the machine in the clear."""
    if request.url.scheme != "https" and not is_loopback(str(request.url)):
        raise ConfigurationError(f"{request.url.host} would get the token in the clear: use an https address.")


def _tls(settings: Settings) -> ssl.SSLContext:
    if settings.api_url.startswith("http://"):
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # never used; loading the authorities takes a while
    try:
        context = httpx.create_ssl_context()
    except OSError as error:
        raise ConfigurationError(
            f"The certificates that SSL_CERT_FILE or SSL_CERT_DIR names cannot be read: {error}."
        ) from error
    if settings.pins:
        context.sslobject_class = _pinned_to(settings.pins)
    return context


def _pinned_to(pins: Collection[str]) -> type[ssl.SSLObject]:
    class Pinned(ssl.SSLObject):
        """One end of a TLS connection whose handshake fails unless a key of the chain is pinned."""

        def do_handshake(self) -> None:
            """Finish the handshake, or raise CertificateRefused before anything can be sent."""
            super().do_handshake()
            presented = [spki_pin(certificate) for certificate in _verified_chain(self)]
            if not set(presented) & set(pins):
                raise CertificateRefused(
                    f"{self.server_hostname} presented none of the keys of EXPIRYTRACK_PINS, so nothing was sent: if "
                    f"its operator confirms the change, pin one of {', '.join(presented)} (its own key first)."
                )

    return Pinned


def _verified_chain(connection: Any) -> list[bytes]:
    """Return the DER certificates from the leaf to a trusted authority."""
    if hasattr(connection, "get_verified_chain"):
        chain: list[bytes] = connection.get_verified_chain()
        return chain
    # Python 3.11 and 3.12 have the same function without the public name; both versions get only security fixes.
    return [
        ssl.PEM_cert_to_DER_cert(certificate.public_bytes())
        for certificate in connection._sslobj.get_verified_chain()  # noqa: SLF001  see above
    ]
