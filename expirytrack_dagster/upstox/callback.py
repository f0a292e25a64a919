"""Waiting for the answer to a login: a server on this machine, for one path and for as long as the login lasts.

Listening, who may speak, and what the sender gets to see belong here; what an answer is worth is for `auth.py` to say,
whose method is called for each one. An answer that it does not believe gets a refusal, and the waiting goes on: whoever
sends nonsense, or half of it, can neither end a login nor take part in it.

The server listens on the loopback address alone. A **callback** is the user's own browser's, so its `Host` has to be
the one of the redirect address: a page of another site that leads its own name to this machine is refused. A
**notification** comes from Upstox through whatever leads it here (a proxy, a tunnel) and bears that one's name.
"""

from __future__ import annotations

import html
import logging
import socket
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from http import HTTPStatus
from typing import TYPE_CHECKING, Self
from urllib.parse import parse_qsl, urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from expirytrack_dagster.errors import AnswerNotBelieved, ConfigurationError, ExpiryTrackError, LoginFailed
from expirytrack_dagster.settings import PREFIX, is_loopback

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from expirytrack_dagster.settings import Settings
    from expirytrack_dagster.upstox.auth import AuthManager
    from expirytrack_dagster.upstox.tokens import AccessToken

LARGEST = 16 * 1024
"""Bytes of a notification, many times what Upstox sends."""
LOGGED_IN = "You are logged in. You may close this window."
_LOG = logging.getLogger(__name__)
_TICK = 0.5
_PATIENCE = 2
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Receiver:
    """Listens for the length of a `with` block; `wait` returns the token that an answer brought.

    Args:
        url: Where to listen: http on this machine.
        setting: The setting that says so, for sentences.
        method: The HTTP method of an answer.
        accept: Turns an answer into a token; raises `AnswerNotBelieved` for one that changes nothing, and any other
            error for one that ends the login.
        reply: Makes the page of a sentence and a status.
        is_settling: Says whether an answer is being looked into, whose end is worth waiting for.

    Raises:
        ConfigurationError: the address is none that this machine can listen at.
    """

    def __init__(
        self,
        url: str,
        setting: str,
        method: str,
        accept: Callable[[Request], Awaitable[AccessToken]],
        reply: Callable[[str, HTTPStatus], Response],
        is_settling: Callable[[], bool],
    ) -> None:
        """Prepare; nothing listens yet."""
        parts = urlsplit(url)
        if parts.scheme != "http" or not is_loopback(url):
            raise ConfigurationError(
                f"{PREFIX}{setting.upper()} is {url}, where this machine cannot listen: use an address such as "
                "http://127.0.0.1:8765/callback, or `expirytrack login --paste`."
            )
        self._url = url
        self._address = ("127.0.0.1" if parts.hostname == "localhost" else str(parts.hostname), parts.port or 80)
        self._accept = accept
        self._reply = reply
        self._is_settling = is_settling
        self._outcome: Future[AccessToken] = Future()
        app = Starlette(routes=[Route(parts.path or "/", self._answer, methods=[method])])
        app.router.redirect_slashes = False
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                http="h11",
                ws="none",
                lifespan="off",
                log_level="critical",
                access_log=False,  # the address of a callback holds the code
                server_header=False,
                proxy_headers=False,  # who speaks is who is connected
                timeout_graceful_shutdown=_PATIENCE,
            )
        )
        self._thread: threading.Thread

    def __enter__(self) -> Self:
        """Begin to listen.

        Raises:
            ConfigurationError: another program listens there.
        """
        family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
        try:
            listening = socket.create_server(self._address, family=family)
        except OSError as error:
            raise ConfigurationError(
                f"Nothing can listen at {self._url} ({error.strerror or error}): end what does, such as another login."
            ) from error
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listening]}, name="login", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Stop listening, once the browser has its page."""
        self._server.should_exit = True
        self._thread.join()

    def wait(self, seconds: float, tell: Callable[[float], None] = lambda _: None) -> AccessToken:
        """Return the token.

        Args:
            seconds: How long to wait for an answer; one that has come is waited for to its end.
            tell: Called about twice a second with the seconds left.

        Raises:
            LoginFailed: nothing came in time.
            ExpiryTrackError: the login failed.
        """
        left = seconds
        while left > 0 or self._is_settling():
            tell(max(left, 0.0))
            try:
                return self._outcome.result(min(_TICK, max(left, 0.01)))  # short, so that Ctrl-C is heard everywhere
            except NotYet:
                left -= _TICK
        raise LoginFailed(f"No answer came within {seconds / 60:.0f} minutes: run the login again.")

    async def _answer(self, request: Request) -> Response:
        if self._outcome.done():
            return self._reply("This login is over.", HTTPStatus.CONFLICT)
        try:
            token = await self._accept(request)
        except ClientDisconnect:  # in the middle of a body; nobody is there to read an answer
            return self._reply("", HTTPStatus.BAD_REQUEST)
        except AnswerNotBelieved as error:
            _LOG.warning("%s", error)
            return self._reply(str(error), HTTPStatus.BAD_REQUEST)
        except Exception as error:
            if not self._outcome.done():  # two may have been under way: the first decides
                self._outcome.set_exception(error)
            if not isinstance(error, ExpiryTrackError):
                raise
            return self._reply(str(error), HTTPStatus.BAD_REQUEST)
        if not self._outcome.done():
            self._outcome.set_result(token)
        return self._reply(LOGGED_IN, HTTPStatus.OK)


def callback_receiver(settings: Settings, manager: AuthManager) -> Receiver:
    """Return what waits for the browser at the redirect address; raises as `Receiver`."""
    own = urlsplit(settings.redirect_uri).netloc.lower()

    async def accept(request: Request) -> AccessToken:
        if request.headers.get("host", "").lower() != own or not _is_near(request):
            raise AnswerNotBelieved("A callback came from another host: it was ignored.")
        return await manager.handle_callback(
            parse_qsl(request.scope["query_string"].decode("latin-1"), keep_blank_values=True)
        )

    return Receiver(settings.redirect_uri, "redirect_uri", "GET", accept, _page, lambda: manager.is_settling)


def notification_receiver(settings: Settings, manager: AuthManager) -> Receiver:
    """Return what waits for Upstox at the notifier address; raises as `Receiver`."""

    async def accept(request: Request) -> AccessToken:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > LARGEST:
                raise AnswerNotBelieved("Something came that is far too long for a token: it was ignored.")
        return await manager.handle_notification(bytes(body))

    return Receiver(settings.notifier_url, "notifier_url", "POST", accept, _receipt, lambda: manager.is_settling)


def _is_near(request: Request) -> bool:
    return request.client is not None and is_loopback(f"//{_bracketed(request.client.host)}")


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _page(sentence: str, status: HTTPStatus) -> Response:
    """Return a page for the user's browser."""
    head = '<meta charset="utf-8"><title>ExpiryTrack</title><style>body{font:1.1em sans-serif;margin:3em}</style>'
    body = f"<h1>ExpiryTrack</h1><p>{html.escape(sentence)}</p>"
    return HTMLResponse(f"<!DOCTYPE html><html><head>{head}</head><body>{body}</body></html>", status, _HEADERS)


def _receipt(_: str, status: HTTPStatus) -> Response:
    """Return a receipt that tells a stranger nothing."""
    return PlainTextResponse("received" if status is HTTPStatus.OK else "not taken", status)
