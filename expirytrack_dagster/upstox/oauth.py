"""The requests of a login: the address of the dialog, the exchange of its code, the approval request, logging out.

Only what goes over the wire belongs here; the order of things, and what is believed, belongs to `auth.py`. Sources:
Upstox's pages on authorising, the token, logout, and the access token request (V3).

None of these is ever tried again by itself: a code is used up by its first exchange, even by one that fails. They are
no requests for data and made without the limits' ledger: the API limits users by their tokens, which come only now.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlencode

import httpx
import msgspec
from pydantic import SecretStr

from expirytrack_dagster.errors import MalformedResponse, NetworkError, TruncatedResponse
from expirytrack_dagster.upstox.refusals import refusal
from expirytrack_dagster.upstox.transport import open_http, redirected, unreached

if TYPE_CHECKING:
    from collections.abc import Iterable

    from expirytrack_dagster.errors import ExpiryTrackError
    from expirytrack_dagster.settings import Settings

DIALOG = "/v2/login/authorization/dialog"
TOKEN = "/v2/login/authorization/token"  # noqa: S105 -- a path
LOGOUT = "/v2/logout"
APPROVAL = "/v3/login/auth/token/request/"
T = TypeVar("T")


class App(msgspec.Struct, frozen=True, kw_only=True):
    """An app of the Upstox developer page; the secret is in no representation."""

    client_id: str
    client_secret: str

    def __repr__(self) -> str:
        """Return no secret."""
        return f"<the app {self.client_id}>"


@dataclass(frozen=True, slots=True)
class Issued:
    """What a successful exchange brings."""

    secret: SecretStr
    user_id: str


@dataclass(frozen=True, slots=True)
class Approval:
    """A request for approval that lies before the user: until when (UTC), and where Upstox will deliver the token."""

    lapses_at: datetime
    notifier_url: str


class _TokenAnswer(msgspec.Struct):
    access_token: str
    user_id: str


class _ApprovalData(msgspec.Struct):
    authorization_expiry: str  # milliseconds since the epoch, as text
    notifier_url: str


class _ApprovalAnswer(msgspec.Struct):
    status: str
    data: _ApprovalData


def dialog_url(api_url: str, client_id: str, redirect_uri: str, state: str) -> str:
    """Return the address at which the user logs in; it holds no secret."""
    query = {"response_type": "code", "client_id": client_id, "redirect_uri": redirect_uri, "state": state}
    return f"{api_url}{DIALOG}?{urlencode(query, quote_via=quote, safe='')}"


class LoginApi:
    """Sends the requests of a login, one connection each.

    All raise what the API's refusal stands for (mostly `TokenRejected`), `NetworkError`, `CertificateRefused`,
    `TruncatedResponse` or `MalformedResponse`. No sentence quotes a code, a secret, or an answer that has a token.
    """

    def __init__(self, settings: Settings, transport: httpx.AsyncBaseTransport | None = None) -> None:
        """Keep the parts; `transport` replaces the network, for tests."""
        self._settings = settings
        self._transport = transport

    async def exchange(self, app: App, code: str, redirect_uri: str) -> Issued:
        """Turn the code of a callback into a token; the code is used up, whatever happens."""
        form = {
            "code": code,
            "client_id": app.client_id,
            "client_secret": app.client_secret,
            "redirect_uri": redirect_uri,
            "grant_type": "authorization_code",
        }
        answer = _decoded(await self._send("POST", TOKEN, (code, app.client_secret), data=form), _TokenAnswer)
        return Issued(SecretStr(answer.access_token), answer.user_id)

    async def request_approval(self, app: App) -> Approval:
        """Ask Upstox to ask the user, in the Upstox app and by WhatsApp, for a new token."""
        path = APPROVAL + quote(app.client_id, safe="")
        body = await self._send("POST", path, (app.client_secret,), json={"client_secret": app.client_secret})
        data = _decoded(body, _ApprovalAnswer).data
        try:
            lapses_at = datetime.fromtimestamp(int(data.authorization_expiry) / 1000, UTC)
        except (ValueError, OverflowError, OSError):
            raise MalformedResponse("Upstox does not say until when the request for approval stands.") from None
        return Approval(lapses_at, data.notifier_url)

    async def revoke(self, token: SecretStr) -> None:
        """End a token at Upstox."""
        secret = token.get_secret_value()
        await self._send("DELETE", LOGOUT, (secret,), headers={"Authorization": f"Bearer {secret}"})

    async def _send(self, method: str, path: str, secrets: Iterable[str], **content: Any) -> bytes:
        url = self._settings.api_url
        try:
            async with asyncio.timeout(self._settings.timeout), open_http(self._settings, self._transport) as http:
                response = await http.request(method, url + path, **content)
        except (TimeoutError, httpx.TimeoutException):
            # Not "from error": the request, and with it the secret, would hang on the exception.
            raise NetworkError(
                f"{url} did not answer within {self._settings.timeout:g} s: check the connection, then log in again."
            ) from None
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise unreached(url, error) from None
        if away := redirected(response):
            raise away
        if refused := refusal(response.status_code, response.content):
            raise _without(secrets, refused[0])
        return response.content


def _without(secrets: Iterable[str], error: ExpiryTrackError) -> ExpiryTrackError:
    """Take secrets out of a sentence that quotes an answer: Upstox may repeat the value that it refuses."""
    sentence = str(error)
    for secret in secrets:
        sentence = sentence.replace(secret, "...")
    error.args = (sentence,)
    return error


def _decoded(body: bytes, shape: type[T]) -> T:
    """Read an answer that may hold a token, and so is never quoted."""
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.ValidationError:
        raise MalformedResponse("Upstox's answer to the login is not of the documented shape: log in again.") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise TruncatedResponse("Upstox's answer to the login is cut off or no JSON: log in again.") from None
