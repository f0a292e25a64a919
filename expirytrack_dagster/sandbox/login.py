"""Logging in at the sandbox: dialog, token, logout, and the request for approval with its webhook.

Belongs here: the routes of a login and their pages, for a browser and for a program. What is good is judged by
`tokens.py`; the app and its user are a switch (`switches.App`). None of these requests counts in a limit.

The dialog redirects to a page of the sandbox's own, as Upstox's does to its login host; there a person, or a test with
a browser, presses "Approve" or "Deny". An approval request waits at `/_sandbox/approvals` until it is approved there;
then the token is posted to the app's notifier address.
"""

from __future__ import annotations

import html
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode, urlsplit

import msgspec
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from expirytrack_dagster.sandbox import wire
from expirytrack_dagster.sandbox.tokens import Authority, next_night
from expirytrack_dagster.settings import is_loopback

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from starlette.requests import Request

    from expirytrack_dagster.sandbox.switches import App, Switches

    Answer = Callable[[Request], Awaitable[Response]]

DIALOG = "/v2/login/authorization/dialog"
LOGIN_PAGE = "/_sandbox/login"
APPROVALS = "/_sandbox/approvals"
NO_KEY = wire.Refusal(400, "UDAPI1017", "API Key is required")
NO_REDIRECT = wire.Refusal(400, "UDAPI1018", "Redirect URI is required")
NO_CODE = wire.Refusal(400, "UDAPI1022", "Auth code is required")
NO_GRANT = wire.Refusal(400, "UDAPI1023", "Grant type is required")
NO_SECRET = wire.Refusal(400, "UDAPI1024", "API Secret is required")
BAD_APP = wire.Refusal(401, "UDAPI100069", "Check your 'client_id' and 'client_secret'; one or both are incorrect")
BAD_ADDRESS = wire.Refusal(400, "UDAPI100068", "Check your 'client_id' and 'redirect_uri'; one or both are incorrect")
BAD_CODE = wire.Refusal(401, "UDAPI100057", "Invalid Auth code")
_FIELDS = {"client_id": NO_KEY, "redirect_uri": NO_REDIRECT, "code": NO_CODE, "client_secret": NO_SECRET}
_STYLE = (
    "body{font:1.1em sans-serif;margin:4em auto;max-width:30em}button{font:inherit;padding:.5em 2em;margin-right:1em}"
)


class LoginDesk:
    """The routes of a login.

    Args:
        authority: Issues codes and tokens.
        switches: Returns the switches in force.
        refused: Makes the answer of a refusal.
        logged: Records a request and its answer under an endpoint's name, and returns the answer.
    """

    def __init__(
        self,
        authority: Authority,
        switches: Callable[[], Switches],
        refused: Callable[[wire.Refusal], Response],
        logged: Callable[[Request, str, Response], Response],
    ) -> None:
        """Begin without a request for approval."""
        self._authority = authority
        self._switches = switches
        self._refused = refused
        self._logged = logged
        self._waiting: dict[str, App] = {}

    def routes(self) -> list[Route]:
        """Return the routes."""

        def route(path: str, method: str, endpoint: str, answer: Answer) -> Route:
            async def answered(request: Request) -> Response:
                return self._logged(request, endpoint, await answer(request))

            return Route(path, answered, methods=[method])

        return [
            route(DIALOG, "GET", "dialog", self._dialog),
            route("/v2/login/authorization/token", "POST", "token", self._token),
            route("/v2/logout", "DELETE", "logout", self._logout),
            route("/v3/login/auth/token/request/{client_id}", "POST", "approval", self._request_approval),
            Route(LOGIN_PAGE, self._page, methods=["GET"]),
            Route(LOGIN_PAGE, self._pressed, methods=["POST"]),
            Route(APPROVALS, self._approvals, methods=["GET"]),
            Route(APPROVALS, self._approve, methods=["POST"]),
        ]

    async def _dialog(self, request: Request) -> Response:
        query = dict(request.query_params)
        if not query.get("client_id"):
            return self._refused(NO_KEY)
        if not query.get("redirect_uri"):
            return self._refused(NO_REDIRECT)
        if not self._knows(query):
            return self._refused(BAD_ADDRESS)
        return RedirectResponse(f"{LOGIN_PAGE}?{urlencode(query)}", 302)

    async def _page(self, request: Request) -> Response:
        hidden = "".join(
            f'<input type="hidden" name="{html.escape(name)}" value="{html.escape(value)}">'
            for name, value in request.query_params.items()
        )
        app = self._switches().app
        words = f"<p>Let the app <b>{html.escape(app.client_id)}</b> use the account {html.escape(app.user_id)}?</p>"
        buttons = _button("approve", "Approve") + _button("deny", "Deny")
        return _html("Sandbox login", f'{words}<form method="post">{hidden}{buttons}</form>')

    async def _pressed(self, request: Request) -> Response:
        form = await _form(request)
        if not self._knows(form):
            return self._refused(BAD_ADDRESS)
        address = form["redirect_uri"]
        answer = {"state": form["state"]} if "state" in form else {}
        if form.get("press") == "deny":
            answer |= {"error": "access_denied", "error_description": "The user denied the request"}
        else:
            answer |= {"code": self._authority.new_code(form["client_id"], address)}
        return RedirectResponse(f"{address}?{urlencode(answer)}", 302)

    async def _token(self, request: Request) -> Response:
        form, switches = await _form(request), self._switches()
        code = form.get("code", "")
        good = self._authority.take_code(code, form.get("client_id", ""), form.get("redirect_uri", ""))
        for name, refusal in _FIELDS.items():
            if not form.get(name):
                return self._refused(refusal)
        if form.get("grant_type") != "authorization_code":
            return self._refused(NO_GRANT)
        if (form["client_id"], form["client_secret"]) != (switches.app.client_id, switches.app.client_secret):
            return self._refused(BAD_APP)
        if not good:
            return self._refused(BAD_CODE)
        token = self._authority.new_token(switches.app.user_id, plus=switches.plus)
        body = wire.PROFILE | {"user_id": switches.app.user_id, "access_token": token, "extended_token": None}
        return _json(body)

    async def _logout(self, request: Request) -> Response:
        token = wire.bearer(request.headers.get("authorization", ""))
        if not token or self._authority.is_dead(token):
            return self._refused(wire.BAD_TOKEN)
        self._authority.revoke(token)
        return _json({"status": "success", "data": True})

    async def _request_approval(self, request: Request) -> Response:
        app = self._switches().app
        try:
            secret = msgspec.json.decode(await request.body(), type=dict[str, str]).get("client_secret")
        except msgspec.MsgspecError:
            secret = None
        if not secret:
            return self._refused(NO_SECRET)
        if (request.path_params["client_id"], secret) != (app.client_id, app.client_secret):
            return self._refused(BAD_APP)
        self._waiting[app.client_id] = app
        expiry = next_night(self._authority.now())
        data = {"authorization_expiry": f"{expiry * 1000:.0f}", "notifier_url": app.notifier_url}
        return _json({"status": "success", "data": data})

    async def _approvals(self, _: Request) -> Response:
        forms = "".join(
            f"<p>The app <b>{html.escape(name)}</b> asks for a token.</p>"
            f'<form method="post"><input type="hidden" name="client_id" value="{html.escape(name)}">'
            f"{_button('approve', 'Approve')}</form>"
            for name in self._waiting
        )
        return _html("Sandbox approvals", forms or "<p>Nobody asks for approval.</p>")

    async def _approve(self, request: Request) -> Response:
        """Post a token to the notifier address; the answer says what came back from there."""
        app = self._waiting.pop((await _form(request)).get("client_id", ""), None)
        if app is None:
            return PlainTextResponse("Nobody asks for approval.", 404)
        now = self._authority.now()
        body = {
            "client_id": app.client_id,
            "user_id": app.user_id,
            "access_token": self._authority.new_token(app.user_id, plus=self._switches().plus),
            "token_type": "Bearer",
            "expires_at": f"{next_night(now) * 1000:.0f}",
            "issued_at": f"{now * 1000:.0f}",
            "message_type": "access_token",
        }
        import httpx  # noqa: PLC0415 -- no other answer needs a client, and every command would load it

        async with httpx.AsyncClient(trust_env=False, timeout=20) as http:
            try:
                answered = (await http.post(app.notifier_url, json=body)).status_code
            except httpx.HTTPError as error:
                return PlainTextResponse(f"{app.notifier_url}: {type(error).__name__}", 502)
        return PlainTextResponse(f"{app.notifier_url} answered {answered}")

    def _knows(self, asked: Mapping[str, str]) -> bool:
        """Say whether an app and a redirect address belong together: any address of this machine, unless one is set."""
        app, address = self._switches().app, asked.get("redirect_uri", "")
        registered = address == app.redirect_uri if app.redirect_uri else is_loopback(address)
        return asked.get("client_id") == app.client_id and registered and urlsplit(address).scheme in {"http", "https"}


async def _form(request: Request) -> dict[str, str]:
    return dict(parse_qsl((await request.body()).decode("latin-1"), keep_blank_values=True))


def _json(content: object) -> Response:
    return Response(msgspec.json.encode(content), media_type="application/json")


def _button(value: str, label: str) -> str:
    return f'<button name="press" value="{value}">{label}</button>'


def _html(title: str, content: str) -> Response:
    icon = '<link rel="icon" href="data:,">'  # or the browser asks for one, as a request that nobody made
    head = f'<meta charset="utf-8"><title>{title}</title>{icon}<style>{_STYLE}</style>'
    return HTMLResponse(f"<!DOCTYPE html><html><head>{head}</head><body><h1>{title}</h1>{content}</body></html>")
