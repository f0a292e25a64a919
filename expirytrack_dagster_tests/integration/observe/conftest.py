"""Real servers for the channels of alerts, on this machine: one for mail, one for webhooks and bots."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Message as Receiver
from aiosmtpd.smtp import AuthResult, LoginPassword

from expirytrack_dagster.warehouse.connection import Warehouse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from email.message import Message
    from pathlib import Path

PASSWORD = "the-password-of-the-mail"


def closed_port() -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Inbox(Receiver):
    """Keeps the mails that it gets; says no while `refuses` holds an answer."""

    def __init__(self) -> None:
        """Begin empty."""
        super().__init__()
        self.mails: list[Message] = []
        self.refuses: str | None = None
        self.logins: list[tuple[str, str]] = []

    def handle_message(self, message: Message) -> None:
        """Keep a mail."""
        self.mails.append(message)

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 -- its name there
        """Take a mail, or say no."""
        if self.refuses:
            return self.refuses
        return str(await super().handle_DATA(server, session, envelope))

    def authenticate(self, _server: Any, _session: Any, _envelope: Any, _mechanism: Any, data: Any) -> AuthResult:
        """Let the one user in."""
        assert isinstance(data, LoginPassword)
        self.logins.append((data.login.decode(), data.password.decode()))
        return AuthResult(success=data.password.decode() == PASSWORD, handled=False)


@dataclass
class MailServer:
    """A mail server that runs: its port and what it got."""

    port: int
    inbox: Inbox


@pytest.fixture
def mail_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MailServer]:
    """Run a mail server that wants encryption and a login, with a certificate that this process trusts."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    inbox = Inbox()
    controller = Controller(
        inbox,
        hostname="127.0.0.1",
        port=closed_port(),
        tls_context=context,
        require_starttls=True,
        auth_required=True,
        authenticator=inbox.authenticate,
    )
    controller.start()
    try:
        yield MailServer(controller.port, inbox)
    finally:
        controller.stop()


@dataclass
class Hook:
    """A web server that takes messages; answers with the statuses that it is given, then with 200."""

    url: str
    posts: list[tuple[str, Any]] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    before: Callable[[], object] = lambda: None


@contextmanager
def listening() -> Iterator[Hook]:
    """Run a web server until the block ends."""
    hook = Hook("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            hook.before()
            status = hook.answers.pop(0) if hook.answers else 200
            if status == 200:
                hook.posts.append((self.path, json.loads(body)))
            said = b'{"ok": true}' if status == 200 else f"no, not at {self.path}".encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: object) -> None:
            """Be quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hook.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hook
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def hook() -> Iterator[Hook]:
    """Run a web server that takes messages."""
    with listening() as running:
        yield running


@pytest.fixture(scope="module")
def pristine_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an archive of one cell: a contract of 120 candles."""
    folder = tmp_path_factory.mktemp("pristine")
    archive = Warehouse(folder / "expirytrack.duckdb")
    with archive.writing() as connection:
        connection.execute(
            "INSERT INTO candles BY NAME SELECT 'NIFTY' AS underlying, DATE '2025-08-28' AS expiry,"
            " 'NSE_FO|1|28-08-2025' AS instrument_key, 29272545 + i // 2 AS minute,"
            " 1.0 AS open, 1.0 AS high, 1.0 AS low, 1.0 AS close, 1 AS volume, 1 AS open_interest FROM range(120) r(i)"
        )
        connection.execute(
            "INSERT INTO contract_status BY NAME SELECT 'NIFTY' AS underlying, DATE '2025-08-28' AS expiry,"
            " 'NSE_FO|1|28-08-2025' AS instrument_key, 'complete' AS status, 1 AS requests, 120 AS received,"
            " 120 AS candles, 0 AS quarantined, 0 AS duplicates, 0 AS discarded, now() AS checked_at"
        )
    return archive.database
