"""The sandbox's login over real HTTP: the dialog, each refusal of the token route, logout, and the approval."""

from __future__ import annotations

import json
from contextlib import contextmanager
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from expirytrack_dagster.sandbox.running import Running, running
from expirytrack_dagster.sandbox.switches import App
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket

if TYPE_CHECKING:
    from collections.abc import Iterator

MARKET = SyntheticMarket(strikes=1, days=1, today=date(2025, 9, 10))
APP = App()
ADDRESS = "http://127.0.0.1:8765/callback"
FORM = {
    "client_id": APP.client_id,
    "client_secret": APP.client_secret,
    "redirect_uri": ADDRESS,
    "grant_type": "authorization_code",
}
DIALOG = "/v2/login/authorization/dialog"
TOKEN = "/v2/login/authorization/token"
DAY = 86_400.0


@pytest.fixture
def upstox() -> Iterator[Running]:
    """Serve the sandbox."""
    with running(MARKET) as sandbox:
        yield sandbox


def code_of(sandbox: Running) -> str:
    """Press Approve, and return the code that the browser would bring."""
    form = {"client_id": APP.client_id, "redirect_uri": ADDRESS, "state": "s", "press": "approve"}
    answer = httpx.post(f"{sandbox.url}/_sandbox/login", data=form)
    query = parse_qs(urlsplit(answer.headers["location"]).query)
    assert query["state"] == ["s"]
    return query["code"][0]


def exchanged(sandbox: Running, **changed: str | None) -> httpx.Response:
    """Send the form of an exchange, with fields changed or left out (None)."""
    form = {name: value for name, value in ({"code": code_of(sandbox)} | FORM | changed).items() if value is not None}
    return httpx.post(sandbox.url + TOKEN, data=form)


def profile(sandbox: Running, token: str) -> httpx.Response:
    """Ask for the profile."""
    return httpx.get(f"{sandbox.url}/v2/user/profile", headers={"Authorization": f"Bearer {token}"})


def error(response: httpx.Response) -> tuple[int, str]:
    """Return the status and Upstox's code of an error."""
    return response.status_code, response.json()["errors"][0]["error_code"]


@contextmanager
def webhook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Listen at a free port; yield the address and what was posted there."""
    posted: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            del arguments

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/notify", posted
        finally:
            server.shutdown()
            thread.join()


def test_the_dialog_leads_to_a_page(upstox: Running) -> None:
    """It redirects to the login's page, whose markup cannot be broken by what was sent along."""
    query = {"response_type": "code", "client_id": APP.client_id, "redirect_uri": ADDRESS, "state": '"><script>'}
    answer = httpx.get(upstox.url + DIALOG, params=query, follow_redirects=True)
    assert [step.status_code for step in answer.history] == [302]
    assert ">Approve</button>" in answer.text
    assert "<script>" not in answer.text


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"redirect_uri": ADDRESS}, "UDAPI1017"),
        ({"client_id": APP.client_id}, "UDAPI1018"),
        ({"client_id": "other", "redirect_uri": ADDRESS}, "UDAPI100068"),
        ({"client_id": APP.client_id, "redirect_uri": "https://elsewhere.example/"}, "UDAPI100068"),
    ],
)
def test_the_dialog_refuses(upstox: Running, query: dict[str, str], code: str) -> None:
    """Without an app, an address, or for a pair that does not belong together."""
    assert error(httpx.get(upstox.url + DIALOG, params=query)) == (400, code)


def test_a_registered_address_is_the_only_one(upstox: Running) -> None:
    """With an address set, no other is taken, not even of this machine."""
    upstox.switch(app=App(redirect_uri="http://127.0.0.1:1/cb"))
    query = {"client_id": APP.client_id, "redirect_uri": ADDRESS}
    assert error(httpx.get(upstox.url + DIALOG, params=query)) == (400, "UDAPI100068")


def test_denying(upstox: Running) -> None:
    """The browser is sent back with an error and the state, without a code."""
    form = {"client_id": APP.client_id, "redirect_uri": ADDRESS, "state": "s", "press": "deny"}
    query = parse_qs(urlsplit(httpx.post(f"{upstox.url}/_sandbox/login", data=form).headers["location"]).query)
    assert (query["error"], query["state"]) == (["access_denied"], ["s"])
    assert "code" not in query


def test_an_exchange_brings_a_token_that_works(upstox: Running) -> None:
    """The answer has Upstox's shape, not wrapped, and its token opens the API until it is logged out."""
    answer = exchanged(upstox).json()
    assert {"email", "user_id", "access_token", "extended_token", "is_active"} < set(answer)
    assert not {"status", "data", "expires_in", "token_type", "refresh_token"} & set(answer)
    token = answer["access_token"]
    assert profile(upstox, token).json()["data"]["user_id"] == "SB0001"
    headers = {"Authorization": f"Bearer {token}"}
    gone = httpx.delete(f"{upstox.url}/v2/logout", headers=headers)
    assert gone.json() == {"status": "success", "data": True}
    assert error(profile(upstox, token)) == (401, "UDAPI100050")
    assert error(httpx.delete(f"{upstox.url}/v2/logout", headers=headers)) == (401, "UDAPI100050")
    assert error(httpx.delete(f"{upstox.url}/v2/logout")) == (401, "UDAPI100050")


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"client_id": None}, (400, "UDAPI1017")),
        ({"redirect_uri": None}, (400, "UDAPI1018")),
        ({"code": None}, (400, "UDAPI1022")),
        ({"grant_type": None}, (400, "UDAPI1023")),
        ({"client_secret": None}, (400, "UDAPI1024")),
        ({"client_secret": "wrong"}, (401, "UDAPI100069")),
        ({"client_id": "other"}, (401, "UDAPI100069")),
        ({"code": "abcdef"}, (401, "UDAPI100057")),
        ({"redirect_uri": "http://127.0.0.1:1/other"}, (401, "UDAPI100057")),
    ],
)
def test_the_exchange_refuses(upstox: Running, changed: dict[str, str | None], expected: tuple[int, str]) -> None:
    """Each missing or wrong field has its documented code."""
    assert error(exchanged(upstox, **changed)) == expected


def test_a_code_is_used_up_even_by_a_failed_exchange(upstox: Running) -> None:
    """A wrong secret uses it up; so does a good exchange."""
    code = code_of(upstox)
    assert error(exchanged(upstox, code=code, client_secret="wrong")) == (401, "UDAPI100069")
    assert error(exchanged(upstox, code=code)) == (401, "UDAPI100057")
    code = code_of(upstox)
    assert exchanged(upstox, code=code).status_code == 200
    assert error(exchanged(upstox, code=code)) == (401, "UDAPI100057")


def test_the_night_kills_a_token(upstox: Running) -> None:
    """When the sandbox's clock passes 03:30 in India the token is dead, and a new login helps."""
    token = exchanged(upstox).json()["access_token"]
    assert profile(upstox, token).status_code == 200
    upstox.switch(ahead=DAY)
    assert error(profile(upstox, token)) == (401, "UDAPI100050")
    assert profile(upstox, exchanged(upstox).json()["access_token"]).status_code == 200


def test_a_new_token_begins_no_new_window(upstox: Running) -> None:
    """Requests with two tokens of one user count together; a login counts nowhere."""
    for _ in range(2):
        token = exchanged(upstox).json()["access_token"]
        assert profile(upstox, token).status_code == 200
    assert upstox.stats()["max_in_window"]["2000/1800"] == 2


def test_an_approval_is_delivered(upstox: Running) -> None:
    """A request waits on the page; approved, its token goes to the notifier address in the documented form."""
    with webhook() as (address, posted):
        upstox.switch(app=App(notifier_url=address))
        route = f"{upstox.url}/v3/login/auth/token/request/{APP.client_id}"
        data = httpx.post(route, json={"client_secret": APP.client_secret}).json()["data"]
        assert data["notifier_url"] == address
        assert APP.client_id in httpx.get(f"{upstox.url}/_sandbox/approvals").text
        approved = httpx.post(f"{upstox.url}/_sandbox/approvals", data={"client_id": APP.client_id})
        assert approved.text == f"{address} answered 200"
        assert httpx.post(f"{upstox.url}/_sandbox/approvals", data={"client_id": APP.client_id}).status_code == 404
    (delivery,) = posted
    assert set(delivery) == {
        "client_id",
        "user_id",
        "access_token",
        "token_type",
        "expires_at",
        "issued_at",
        "message_type",
    }
    assert (delivery["client_id"], delivery["message_type"]) == (APP.client_id, "access_token")
    assert delivery["expires_at"] == data["authorization_expiry"]
    assert profile(upstox, delivery["access_token"]).status_code == 200


@pytest.mark.parametrize(
    ("client_id", "body", "expected"),
    [
        (APP.client_id, {}, (400, "UDAPI1024")),
        (APP.client_id, {"client_secret": "wrong"}, (401, "UDAPI100069")),
        ("other", {"client_secret": APP.client_secret}, (401, "UDAPI100069")),
    ],
)
def test_the_approval_refuses(upstox: Running, client_id: str, body: dict[str, str], expected: tuple[int, str]) -> None:
    """Without a secret, or for an app that it does not belong to; nothing then waits on the page."""
    assert error(httpx.post(f"{upstox.url}/v3/login/auth/token/request/{client_id}", json=body)) == expected
    assert "Nobody asks" in httpx.get(f"{upstox.url}/_sandbox/approvals").text
