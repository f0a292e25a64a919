"""Certificates, pins, redirects and signatures against real TLS servers of this machine.

What counts is what the server saw: where a connection is refused, never an `Authorization` header.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import threading
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import hpack
import httpx
import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from http_message_signatures import HTTPMessageVerifier, InvalidSignature, MappingKeyResolver
from http_message_signatures.algorithms import ED25519, HMAC_SHA256
from pydantic import SecretStr

from expirytrack_dagster.errors import (
    CertificateRefused,
    ConfigurationError,
    EdgeBlocked,
    ExpiryTrackError,
    NetworkError,
)
from expirytrack_dagster.settings import Settings, load_settings
from expirytrack_dagster.state import StateDatabase, open_state
from expirytrack_dagster.upstox.client import UpstoxClient
from expirytrack_dagster.upstox.ledger import RequestLedger
from expirytrack_dagster.upstox.oauth import App, LoginApi
from expirytrack_dagster.upstox.signing import COVERED
from expirytrack_dagster.upstox.transport import open_http, spki_pin
from expirytrack_dagster_tests.statements import sql

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NIFTY, DAY = "NSE_INDEX|Nifty 50", date(2025, 8, 28)
TOKEN = "secret-token-of-the-day"
OTHER_PIN = "sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
BODY = b'{"status":"success","data":["2025-08-28"]}'


class _Server(ThreadingHTTPServer):
    """Answers over TLS and keeps the requests that it could read; the handshake happens in the request's thread."""

    def __init__(self, certificate: trustme.LeafCert) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        certificate.configure_cert(self.tls)
        self.location: str | None = None
        self.reset = False
        self.connections = 0
        self.seen: list[httpx.Request] = []

    @property
    def url(self) -> str:
        """Its address, with the name that its certificate is for."""
        return f"https://localhost:{self.server_port}"

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Shake hands, then read requests."""
        self.connections += 1
        if self.reset:
            request.recv(100)
            request.close()
            return
        with self.tls.wrap_socket(request, server_side=True) as secured:
            super().finish_request(secured, client_address)

    def handle_error(self, *_: object) -> None:
        """Stay silent: clients that leave early are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer a list of expiries, or redirect."""
        url = f"https://{self.headers['Host']}{self.path}"
        self.server.seen.append(httpx.Request("GET", url, headers=list(self.headers.items())))
        self.send_response(302 if self.server.location else 200)
        if self.server.location:
            self.send_header("Location", self.server.location)
        self.send_header("Content-Length", str(len(BODY)))
        self.send_header("Connection", "close")  # so that every request needs a handshake
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, *_: object) -> None:
        """Stay silent."""


class Place:
    """An authority, the folder of a test, and servers with certificates of the authority."""

    def __init__(self, folder: Path) -> None:
        """Make the authority."""
        self.folder = folder
        self.authority = trustme.CA()
        self.running: list[tuple[_Server, threading.Thread]] = []

    def serve(self, *names: str, authority: trustme.CA | None = None, expired: bool = False) -> _Server:
        """Serve with a certificate for these names, localhost by default."""
        past = datetime.now(UTC) - timedelta(days=1) if expired else None
        issuer = authority or self.authority
        server = _Server(issuer.issue_cert(*(names or ("localhost",)), not_after=past))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        self.running.append((server, thread))
        return server

    def settings(self, server: _Server, **others: Any) -> Settings:
        """Return settings for this server; the HTTP/2 and cache switches as a user has them."""
        return load_settings(home=self.folder, api_url=server.url, access_token=SecretStr(TOKEN), timeout=5, **others)

    def ask(self, server: _Server, **others: Any) -> list[date]:
        """Ask the server once for expiries, without retries, leaving a row in the ledger."""

        async def main() -> list[date]:
            settings = self.settings(server, max_retries=0, cache=False, **others)
            with open_state(settings) as state:
                async with UpstoxClient(settings, RequestLedger(state, settings.rate_limits)) as client:
                    return await client.get_expiries(NIFTY)

        return asyncio.run(main())

    def rows(self) -> list[tuple[Any, ...]]:
        """Return status and outcome of the ledger's rows."""
        with StateDatabase(self.folder / "state.sqlite") as state:
            return state.query(sql("SELECT status, outcome FROM requests ORDER BY id"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """Trust one authority, by the environment variable that a user would set, and stop all servers at the end."""
    made = Place(tmp_path)
    made.authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    yield made
    for server, thread in made.running:
        server.shutdown()
        thread.join()
        server.server_close()


def pin_of(pem: trustme.Blob) -> str:
    """Return the pin of a certificate."""
    return spki_pin(ssl.PEM_cert_to_DER_cert(pem.bytes().decode()))


def test_named_authority_is_trusted(place: Place) -> None:
    """SSL_CERT_FILE is enough for a gateway with an authority of its own."""
    server = place.serve()
    assert place.ask(server) == [DAY]
    assert server.seen[0].headers["Authorization"] == f"Bearer {TOKEN}"
    assert place.rows() == [(200, "ok")]


@pytest.mark.parametrize("whose", ["leaf", "authority"])
def test_pinned_key_is_accepted(place: Place, whose: str) -> None:
    """The host's own key and that of its authority will do, beside other pins."""
    server = place.serve()
    if whose == "leaf":
        pin = spki_pin(ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", server.server_port))))
    else:
        pin = pin_of(place.authority.cert_pem)
    assert place.ask(server, pins=f"{OTHER_PIN}, {pin}") == [DAY]


def test_other_key_gets_no_request(place: Place) -> None:
    """A trusted certificate of another key ends the handshake; the sentence shows the key that came."""
    server = place.serve()
    own = spki_pin(ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", server.server_port))))
    for http2 in (False, True):
        with pytest.raises(CertificateRefused, match="EXPIRYTRACK_PINS") as caught:
            place.ask(server, pins=OTHER_PIN, http2=http2)
        assert f"pin one of {own}, {pin_of(place.authority.cert_pem)} " in str(caught.value)
    assert server.connections == 3
    assert server.seen == []
    assert place.rows() == [(None, "network_error")] * 2


def test_pins_are_checked_on_every_connection(place: Place) -> None:
    """A host that comes back with another key in the middle of a run gets nothing more."""
    first = place.serve()
    pin = spki_pin(ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", first.server_port))))

    async def main() -> None:
        settings = place.settings(first, pins=pin, cache=False, max_retries=0)
        with open_state(settings) as state:
            async with UpstoxClient(settings, RequestLedger(state, settings.rate_limits)) as client:
                await client.get_expiries(NIFTY)
                place.authority.issue_cert("localhost").configure_cert(first.tls)
                await client.get_expiries(NIFTY)

    with pytest.raises(CertificateRefused):
        asyncio.run(main())
    assert len(first.seen) == 1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda place: place.serve(authority=trustme.CA()), "unable to get local issuer"),
        (lambda place: place.serve(expired=True), "certificate has expired"),
        (lambda place: place.serve("elsewhere.example"), "Hostname mismatch"),
    ],
    ids=["unknown authority", "expired", "another name"],
)
def test_bad_certificate_gets_no_request(place: Place, make: Any, words: str) -> None:
    """Each is one typed error that says what is wrong, is not tried again, and costs no more than its row."""
    server = make(place)
    with pytest.raises(CertificateRefused, match=words) as caught:
        place.ask(server)
    assert not caught.value.retryable
    assert str(caught.value).count(". ") == 0
    assert server.seen == []
    assert place.rows() == [(None, "network_error")]


def test_pin_does_not_replace_trust(place: Place) -> None:
    """A pinned key in a certificate of an unknown authority is refused all the same."""
    stranger = trustme.CA()
    server = place.serve(authority=stranger)
    with pytest.raises(CertificateRefused, match="local issuer"):
        place.ask(server, pins=pin_of(stranger.cert_pem))
    assert server.seen == []


def test_reset_handshake_may_be_tried_again(place: Place) -> None:
    """A connection that breaks during the handshake says nothing about certificates."""
    server = place.serve()
    server.reset = True
    with pytest.raises(NetworkError, match="cannot be reached") as caught:
        place.ask(server)
    assert caught.value.retryable
    assert server.seen == []
    assert place.rows() == [(None, "network_error")]


def test_plain_http_behind_an_https_address(place: Place) -> None:
    """A server that speaks no TLS is a network error, and never sees the token."""
    heard = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                heard.append(connection.recv(5000))
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        settings = place.settings(place.serve(), max_retries=0)
        settings = settings.model_copy(update={"api_url": f"https://localhost:{listening.getsockname()[1]}"})

        async def main() -> None:
            with open_state(settings) as state:
                async with UpstoxClient(settings, RequestLedger(state, settings.rate_limits)) as client:
                    await client.get_expiries(NIFTY)

        with pytest.raises(NetworkError):
            asyncio.run(main())
        thread.join()
    assert TOKEN.encode() not in heard[0]


def test_redirect_to_another_host_is_refused(place: Place) -> None:
    """Neither followed nor tried again; the sentence names the other host without what it was asked."""
    thief, server = place.serve(), place.serve()
    server.location = f"{thief.url}/steal?session=abc"
    with pytest.raises(EdgeBlocked, match=f"redirects to {thief.url}/steal, ") as caught:
        place.ask(server)
    assert "abc" not in str(caught.value)
    assert (len(server.seen), thief.connections) == (1, 0)
    assert place.rows() == [(302, "http_error")]


def test_no_token_in_the_clear_even_if_the_settings_were_fooled(place: Place) -> None:
    """The pool itself refuses plain http to any host but this machine."""
    settings = place.settings(place.serve()).model_copy(update={"api_url": "http://192.0.2.1"})

    async def main() -> None:
        async with open_http(settings) as http:
            await http.get("http://192.0.2.1/v2/user/profile", headers={"Authorization": f"Bearer {TOKEN}"})

    with pytest.raises(ConfigurationError, match="in the clear"):
        asyncio.run(main())


def test_missing_authority_file_is_a_configuration_error(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong SSL_CERT_FILE is named, not a traceback."""
    monkeypatch.setenv("SSL_CERT_FILE", str(place.folder / "absent.pem"))
    with pytest.raises(ConfigurationError, match="SSL_CERT_FILE"):
        place.ask(place.serve())


@pytest.mark.parametrize("pins", ["sha256/short", "md5/AAAA", "sha256/na\u00efve"])
def test_impossible_pins_are_refused(pins: str) -> None:
    """A pin that no key can have would lock the user out."""
    with pytest.raises(ConfigurationError, match="EXPIRYTRACK_PINS"):
        load_settings(pins=pins)


def test_gateway_verifies_ed25519_signatures(place: Place) -> None:
    """What the server received verifies with the public key alone; a changed token or path does not."""
    key = Ed25519PrivateKey.generate()
    path = place.folder / "signing.pem"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    server = place.serve()
    place.ask(server, signing_key=path, signing_key_id="desk-1")
    resolver = MappingKeyResolver(public_keys={"desk-1": key.public_key()}, private_keys={})
    verifier = HTTPMessageVerifier(signature_algorithm=ED25519, key_resolver=resolver)
    (request,) = server.seen
    (result,) = verifier.verify(request, max_age=timedelta(seconds=60), require_components=COVERED)
    assert {name for name in result.parameters if name in {"created", "keyid", "alg"}} == {"created", "keyid", "alg"}
    assert request.headers["Signature-Input"].startswith("expirytrack=")
    request.headers["Authorization"] = "Bearer another"
    with pytest.raises(InvalidSignature):
        verifier.verify(request)
    request.headers["Authorization"] = f"Bearer {TOKEN}"
    request.url = request.url.copy_with(path="/v2/user/profile")
    with pytest.raises(InvalidSignature):
        verifier.verify(request)


def test_gateway_verifies_hmac_signatures(place: Place) -> None:
    """A file that is no PEM is a shared secret; a trailing line end is not part of it. HTTP/2 changes nothing."""
    secret = b"a shared secret of more than 32 bytes"
    path = place.folder / "secret"
    path.write_bytes(secret + b"\n")
    server = place.serve()
    place.ask(server, signing_key=path, http2=True)
    resolver = MappingKeyResolver(public_keys={"expirytrack": secret}, private_keys={})
    HTTPMessageVerifier(signature_algorithm=HMAC_SHA256, key_resolver=resolver).verify(
        server.seen[0], require_components=COVERED
    )


def test_a_login_passes_the_gateway(place: Place) -> None:
    """The requests of a login carry no token: what they have is signed, and another path is found out."""
    secret = b"a shared secret of more than 32 bytes"
    path = place.folder / "secret"
    path.write_bytes(secret)
    sent: list[httpx.Request] = []

    def answered(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, json={"access_token": "the-token", "user_id": "AB1234"})

    settings = load_settings(home=str(place.folder), signing_key=path)
    api = LoginApi(settings, httpx.MockTransport(answered))
    asyncio.run(api.exchange(App(client_id="app", client_secret="the-secret"), "the-code", "http://127.0.0.1/"))
    (request,) = sent
    resolver = MappingKeyResolver(public_keys={"expirytrack": secret}, private_keys={})
    verifier = HTTPMessageVerifier(signature_algorithm=HMAC_SHA256, key_resolver=resolver)
    covered = [name for name in COVERED if name != "authorization"]
    (result,) = verifier.verify(request, max_age=timedelta(seconds=60), require_components=covered)
    assert "authorization" not in request.headers
    assert '"authorization"' not in result.covered_components
    request.url = request.url.copy_with(path="/v2/logout")
    with pytest.raises(InvalidSignature):
        verifier.verify(request)


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"too short", "fewer than 32 bytes"), (None, "cannot be read"),
     (b"-----BEGIN PRIVATE KEY-----\nTOPSECRET\n-----END PRIVATE KEY-----", "no unencrypted Ed25519")],
)  # fmt: skip
def test_unusable_signing_key(place: Place, content: bytes | None, words: str) -> None:
    """One sentence names the file and quotes nothing of it; nothing is sent."""
    path, server = place.folder / "key", place.serve()
    if content:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=words) as caught:
        place.ask(server, signing_key=path)
    assert "TOPSECRET" not in str(caught.value)
    assert caught.value.__cause__ is None or "TOPSECRET" not in repr(caught.value.__cause__)
    assert server.connections == 0


def test_secrets_show_nowhere(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """Neither token nor signing key are in logs at any level, errors, representations, the ledger or kept answers."""
    secret = "a shared secret of more than 32 bytes"
    (place.folder / "secret").write_text(secret)
    server = place.serve()
    texts: list[str] = []
    caplog.set_level(logging.NOTSET)

    async def main() -> None:
        settings = place.settings(server, max_retries=0, signing_key=place.folder / "secret")
        with open_state(settings) as state:
            async with UpstoxClient(settings, RequestLedger(state, settings.rate_limits)) as client:
                await client.get_expiries(NIFTY)
                texts.extend(map(repr, (client, settings, vars(client), client._http.auth)))  # noqa: SLF001  its secrets
                server.location = "https://localhost:1/"
                with pytest.raises(ExpiryTrackError) as caught:
                    await client.get_profile()
                chain: BaseException | None = caught.value
                while chain is not None:
                    texts.append(repr(chain) + repr(vars(chain)))
                    chain = chain.__cause__ or chain.__context__

    asyncio.run(main())
    kept = [path for path in place.folder.rglob("*") if path.is_file() and path.name != "secret"]
    assert {"answers.sqlite", "state.sqlite"} <= {path.name for path in kept}
    for hidden in (TOKEN, secret):
        assert hidden not in caplog.text
        assert not [text for text in texts if hidden in text]
        assert not [path for path in kept if hidden.encode() in path.read_bytes()]


def test_http2_does_not_log_the_token(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """The library that encodes HTTP/2 headers describes each of them at level DEBUG: opening a pool silences it."""
    asyncio.run(open_http(place.settings(place.serve())).aclose())
    caplog.set_level(logging.NOTSET)
    hpack.Encoder().encode([("authorization", f"Bearer {TOKEN}")])
    assert TOKEN not in caplog.text
