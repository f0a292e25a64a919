"""Logins against the sandbox over real HTTP: the three ways to a token, and attacks on them, which change nothing."""

from __future__ import annotations

import asyncio
import json
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import httpx
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from expirytrack_dagster.errors import (
    AnswerNotBelieved,
    ConfigurationError,
    ExpiryTrackError,
    LoginFailed,
    MalformedResponse,
    NetworkError,
    TokenMissing,
    TokenRejected,
)
from expirytrack_dagster.sandbox.running import Running, running
from expirytrack_dagster.sandbox.switches import App as SandboxApp
from expirytrack_dagster.sandbox.switches import Fault
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket
from expirytrack_dagster.security.audit import AuditLog
from expirytrack_dagster.security.vault import open_vault
from expirytrack_dagster.servers import free_port
from expirytrack_dagster.settings import load_settings
from expirytrack_dagster.upstox.auth import MOST_PROOFS, AuthManager, find_app, get_valid_token
from expirytrack_dagster.upstox.callback import LARGEST, callback_receiver, notification_receiver
from expirytrack_dagster.upstox.oauth import App, LoginApi
from expirytrack_dagster.upstox.tokens import daily_death, open_store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from expirytrack_dagster.settings import Settings
    from expirytrack_dagster.upstox.tokens import AccessToken

MARKET = SyntheticMarket(strikes=1, days=1, today=date(2025, 9, 10))
APP = SandboxApp()
DAY = 86_400.0


@dataclass
class Place:
    """A sandbox and the settings that lead to it."""

    upstox: Running
    settings: Settings
    manager: AuthManager = field(init=False)

    def __post_init__(self) -> None:
        """Make the manager of this place."""
        self.manager = AuthManager(self.settings)

    def press(self, address: str, press: str = "approve") -> str:
        """Follow the dialog's address and press a button; return where the browser is sent."""
        page = httpx.get(address, follow_redirects=True)
        form = dict(parse_qsl(urlsplit(str(page.url)).query)) | {"press": press}
        return httpx.post(f"{self.upstox.url}/_sandbox/login", data=form).headers["location"]

    def callback(self, **changed: str) -> list[tuple[str, str]]:
        """Begin a login, approve it, and return the callback's parameters, some of them changed."""
        query = dict(parse_qsl(urlsplit(self.press(self.manager.initiate_auth())).query)) | changed
        return list(query.items())

    def handle(self, query: list[tuple[str, str]]) -> AccessToken:
        """Hand a callback over."""
        return asyncio.run(self.manager.handle_callback(query))

    def notify(self, **changed: Any) -> AccessToken:
        """Hand a delivery over, some of its fields changed."""
        return asyncio.run(self.manager.handle_notification(json.dumps(self.delivery() | changed).encode()))

    def delivery(self) -> dict[str, Any]:
        """Return a good delivery, with a token that the sandbox knows."""
        token = self.upstox.sandbox._authority.new_token(APP.user_id, plus=True)  # noqa: SLF001 -- no other way to one
        return {
            "client_id": APP.client_id,
            "user_id": APP.user_id,
            "access_token": token,
            "token_type": "Bearer",
            "expires_at": str(int(daily_death(datetime.now(tz=UTC)).timestamp() * 1000)),
            "issued_at": "0",
            "message_type": "access_token",
        }

    def asked(self, endpoint: str) -> int:
        """Return how often the sandbox was asked this."""
        return sum(entry.endpoint == endpoint for entry in self.upstox.requests())

    def is_untouched(self) -> bool:
        """Say whether no token and no app is kept, and no vault made."""
        return not open_vault(self.settings).names() and not self.settings.vault.exists()


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Running]:
    """Serve one sandbox for all."""
    with running(MARKET, tokens=("pasted-token",)) as upstox:
        yield upstox


@pytest.fixture
def place(sandbox: Running) -> Place:
    """Return a fresh home with an app and a port of its own, and a sandbox without leftovers."""
    port = free_port()
    notifier = f"http://127.0.0.1:{free_port()}/notify"
    sandbox.switch(app=SandboxApp(notifier_url=notifier), ahead=0.0, faults=())
    sandbox.sandbox.log.clear()
    settings = load_settings(
        api_url=sandbox.url,
        client_id=APP.client_id,
        client_secret=APP.client_secret,
        redirect_uri=f"http://127.0.0.1:{port}/callback",
        notifier_url=notifier,
        passphrase="a long enough passphrase",
        max_retries=0,
    )
    return Place(sandbox, settings)


def stored(settings: Settings) -> str:
    """Return the token that is in use."""
    return get_valid_token(settings).secret.get_secret_value()


# The dialog


def test_a_login_by_the_dialog(place: Place) -> None:
    """A code is exchanged once, the token proved once and stored until the night, and the app remembered."""
    token = place.handle(place.callback())
    assert (token.account, token.user_id, token.source) == ("default", APP.user_id, "vault")
    assert token.expires_at == daily_death(datetime.now(tz=UTC))
    assert stored(place.settings) == token.secret.get_secret_value()
    assert place.manager.get_valid_token() == token
    assert (place.asked("token"), place.asked("profile")) == (1, 1)
    without = place.settings.model_copy(update={"client_id": None, "client_secret": None})
    assert find_app(without) == App(client_id=APP.client_id, client_secret=APP.client_secret)
    assert find_app(without.model_copy(update={"client_id": "other"})) is None
    assert find_app(without.model_copy(update={"account": "second"})) is None


def test_the_address_has_no_secret(place: Place) -> None:
    """It holds the app's key, the redirect address, the state, and nothing else."""
    address = place.manager.initiate_auth()
    query = parse_qs(urlsplit(address).query)
    assert set(query) == {"response_type", "client_id", "redirect_uri", "state"}
    assert len(query["state"][0]) >= 43
    assert APP.client_secret not in address
    assert place.manager.initiate_auth() != address


def test_a_wrong_state(place: Place) -> None:
    """It is not believed, nothing is asked, and the true callback is still taken after it."""
    true = place.callback()
    forged = [(name, "forged" if name == "state" else value) for name, value in true]
    for query in (forged, [pair for pair in true if pair[0] != "state"], [("state", ""), ("code", "x")]):
        with pytest.raises(AnswerNotBelieved, match="wrong state"):
            place.handle(query)
    assert place.asked("token") == 0
    assert place.is_untouched()
    assert place.handle(true).user_id == APP.user_id


def test_a_replayed_callback(place: Place) -> None:
    """The second time the state is used up: nothing is asked, and the token stays what it was."""
    true = place.callback()
    token = place.handle(true)
    with pytest.raises(AnswerNotBelieved, match="came again"):
        place.handle(true)
    assert place.asked("token") == 1
    assert stored(place.settings) == token.secret.get_secret_value()


def test_a_state_belongs_to_its_login(place: Place) -> None:
    """A callback of an earlier address of the same login, or of another login, is not believed."""
    first = place.callback()
    second = place.callback()
    with pytest.raises(AnswerNotBelieved):
        place.handle(first)
    with pytest.raises(AnswerNotBelieved):
        asyncio.run(AuthManager(place.settings).handle_callback(second))
    assert place.is_untouched()
    assert place.handle(second)


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(st.lists(st.tuples(st.sampled_from(["state", "code", "error", "x"]), st.text(max_size=60)), max_size=5))
def test_no_made_up_callback_is_believed(place: Place, query: list[tuple[str, str]]) -> None:
    """Whatever somebody makes up who does not know the state, nothing is asked and the login still waits."""
    place.manager.initiate_auth()
    with pytest.raises(AnswerNotBelieved):
        place.handle(query)
    assert not place.upstox.requests()
    assert place.manager._state is not None  # noqa: SLF001 -- what nobody outside may see


def test_parameters_twice(place: Place) -> None:
    """A callback with two codes or two states is none of Upstox's."""
    true = place.callback()
    for extra in (("code", "other"), ("state", "other"), true[0]):
        with pytest.raises(AnswerNotBelieved, match="twice"):
            place.handle([*true, extra])
    assert place.asked("token") == 0


def test_a_denied_login(place: Place) -> None:
    """The user's no ends the login, with Upstox's word for it; it cannot be used again."""
    query = parse_qsl(urlsplit(place.press(place.manager.initiate_auth(), "deny")).query)
    with pytest.raises(LoginFailed, match="The user denied the request") as caught:
        place.handle(query)
    assert not isinstance(caught.value, AnswerNotBelieved)
    with pytest.raises(AnswerNotBelieved):
        place.handle(query)
    assert place.is_untouched()


def test_a_used_code(place: Place) -> None:
    """A code that somebody was quicker with: UDAPI100057 in one sentence, which does not quote the code."""
    query = dict(place.callback())
    app = App(client_id=APP.client_id, client_secret=APP.client_secret)
    asyncio.run(LoginApi(place.settings).exchange(app, query["code"], place.settings.redirect_uri))
    with pytest.raises(TokenRejected, match="UDAPI100057") as caught:
        place.handle(list(query.items()))
    assert query["code"] not in str(caught.value)
    assert place.is_untouched()


@pytest.mark.parametrize(
    ("changed", "code"), [({"client_secret": "not-this-one"}, "UDAPI100069"), ({"client_id": "other"}, "UDAPI100068")]
)
def test_a_wrong_app(place: Place, changed: dict[str, str], code: str) -> None:
    """A wrong secret is refused at the exchange, a wrong key at the dialog already; neither secret is quoted."""
    settings = load_settings(**{**place.settings.model_dump(), **changed})
    manager = AuthManager(settings)
    address = manager.initiate_auth()
    if code == "UDAPI100068":
        assert httpx.get(address).json()["errors"][0]["error_code"] == code
        return
    query = parse_qsl(urlsplit(place.press(address)).query)
    with pytest.raises(TokenRejected, match=code) as caught:
        asyncio.run(manager.handle_callback(query))
    assert "not-this-one" not in str(caught.value)
    assert place.is_untouched()


def test_without_an_app(place: Place) -> None:
    """One sentence that says what to set."""
    manager = AuthManager(place.settings.model_copy(update={"client_secret": None}))
    with pytest.raises(ConfigurationError, match="EXPIRYTRACK_CLIENT_ID and EXPIRYTRACK_CLIENT_SECRET"):
        manager.initiate_auth()
    with pytest.raises(ConfigurationError):
        asyncio.run(manager.refresh_token())


def test_a_token_that_proves_false(place: Place) -> None:
    """When the profile refuses the token just issued, nothing is stored."""
    place.upstox.switch(faults=(Fault(401, endpoints=("profile",)),))
    with pytest.raises(TokenRejected, match="UDAPI100050"):
        place.handle(place.callback())
    assert place.is_untouched()


def test_another_user_in_the_browser(place: Place) -> None:
    """A login by another Upstox user does not take the account's name over, nor a second name the same user."""
    first = place.handle(place.callback())
    place.upstox.switch(app=SandboxApp(user_id="XX9999"))
    before = place.asked("profile")
    with pytest.raises(LoginFailed, match="of the Upstox user XX9999, but account 'default' is SB0001"):
        place.handle(place.callback())
    assert place.asked("profile") == before
    assert stored(place.settings) == first.secret.get_secret_value()
    second = Place(place.upstox, place.settings.model_copy(update={"account": "second"}))
    assert second.handle(second.callback()).user_id == "XX9999"
    place.upstox.switch(app=SandboxApp())
    with pytest.raises(LoginFailed, match="use --account default"):
        second.handle(second.callback())


# The receiver of the callback


@contextmanager
def listening(place: Place) -> Iterator[tuple[Any, str]]:
    """Begin a login and listen; yield the receiver and where the browser is sent after the approval."""
    address = place.manager.initiate_auth()
    with callback_receiver(place.settings, place.manager) as receiver:
        yield receiver, place.press(address)


def test_the_browser_gets_a_page(place: Place) -> None:
    """The page says that it is done, may not be kept, and the token is there when it is shown."""
    with listening(place) as (receiver, address):
        page = httpx.get(address)
        assert (page.status_code, page.headers["cache-control"]) == (200, "no-store")
        assert "You are logged in" in page.text
        assert receiver.wait(1).user_id == APP.user_id
        assert httpx.get(address).status_code == 409


def test_an_answer_at_the_last_moment(place: Place) -> None:
    """One that came in time is waited for, although its exchange and its proof take longer."""
    with listening(place) as (receiver, address), ThreadPoolExecutor() as browser:
        place.upstox.switch(delay_after=(1.0, 1.0))
        try:
            page = browser.submit(httpx.get, address, timeout=30)
            while not place.manager.is_settling:
                assert not page.done()
            assert receiver.wait(0.01).user_id == APP.user_id
        finally:
            place.upstox.switch(delay_after=(0.0, 0.0))
        assert page.result().status_code == 200
    assert not place.manager.is_settling


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "localhost:{port}", "127.0.0.1:1"]
)
def test_a_callback_from_another_host(place: Place, host: str) -> None:
    """A name that a page of another site led to this machine is refused, although all else is right."""
    with listening(place) as (receiver, address):
        named = host.format(port=urlsplit(address).port)
        page = httpx.get(address, headers={"Host": named})
        assert page.status_code == 400
        assert "from another host" in page.text
        with pytest.raises(LoginFailed, match="No answer came"):
            receiver.wait(0.01)
        assert place.asked("token") == 0
        assert place.is_untouched()
        assert httpx.get(address).status_code == 200


@pytest.mark.parametrize("host", ["localhost", "[::1]"])
def test_other_names_of_this_machine(place: Place, host: str) -> None:
    """A redirect address may name this machine in any way; the browser's callback then bears that name."""
    if host == "[::1]" and not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    settings = load_settings(**{**place.settings.model_dump(), "redirect_uri": f"http://{host}:{free_port()}/callback"})
    with listening(Place(place.upstox, settings)) as (receiver, address):
        assert httpx.get(address).status_code == 200
        assert receiver.wait(1).user_id == APP.user_id


def test_other_paths_and_methods(place: Place) -> None:
    """Nothing but a GET of the one path is looked at."""
    with listening(place) as (receiver, address):
        parts = urlsplit(address)
        assert httpx.post(address).status_code == 405
        assert httpx.get(f"http://{parts.netloc}/other?{parts.query}").status_code == 404
        assert httpx.get(f"http://{parts.netloc}{parts.path}/?{parts.query}").status_code == 404
        with pytest.raises(LoginFailed):
            receiver.wait(0.01)


def test_it_listens_on_this_machine_alone(place: Place) -> None:
    """The port is bound to the loopback address, so that no other machine can connect."""
    with listening(place) as (receiver, _):
        assert receiver._server.servers[0].sockets[0].getsockname()[0] == "127.0.0.1"  # noqa: SLF001 -- the only witness


def test_a_callback_from_another_machine(place: Place) -> None:
    """Should anything lead another machine here after all, its callback is refused: only this one may speak."""
    with listening(place) as (receiver, address):

        async def ask(peer: str) -> httpx.Response:
            transport = httpx.ASGITransport(receiver._server.config.app, client=(peer, 5))  # noqa: SLF001 -- as uvicorn
            async with httpx.AsyncClient(transport=transport) as client:
                return await client.get(address)

        page = asyncio.run(ask("192.0.2.1"))
        assert (page.status_code, "from another host" in page.text) == (400, True)
        assert asyncio.run(ask("127.0.0.1")).status_code == 200


def test_a_sentence_is_text_on_the_page(place: Place) -> None:
    """What a stranger put into the address is shown as text, never as markup."""
    with listening(place) as (_, address):
        state = parse_qs(urlsplit(address).query)["state"][0]
        parts = urlsplit(address)
        error = "%3Cscript%3Ealert(1)%3C/script%3E"
        page = httpx.get(f"http://{parts.netloc}{parts.path}?state={state}&error={error}")
        assert page.status_code == 400
        assert "<script>" not in page.text
        assert "&lt;script&gt;" in page.text


def test_a_taken_port(place: Place) -> None:
    """Another login at the same address is one sentence."""
    with (
        socket.create_server(("127.0.0.1", urlsplit(place.settings.redirect_uri).port or 0)),
        pytest.raises(ConfigurationError, match="Nothing can listen at"),
        callback_receiver(place.settings, place.manager),
    ):
        pass


def test_an_address_elsewhere(place: Place) -> None:
    """A redirect address of another machine cannot be listened at, and the sentence says what to do."""
    settings = place.settings.model_copy(update={"redirect_uri": "https://example.com/callback"})
    with pytest.raises(ConfigurationError, match="this machine cannot listen"):
        callback_receiver(settings, place.manager)


# The approval


def test_an_approval(place: Place) -> None:
    """The request, the user's approval on the page, the webhook, the proof: then the token is stored."""
    with notification_receiver(place.settings, place.manager) as receiver:
        approval = asyncio.run(place.manager.refresh_token())
        assert approval.lapses_at == daily_death(datetime.now(tz=UTC))
        assert approval.notifier_url == place.settings.notifier_url
        approved = httpx.post(f"{place.upstox.url}/_sandbox/approvals", data={"client_id": APP.client_id})
        assert approved.text.endswith("answered 200")
        token = receiver.wait(5)
    assert stored(place.settings) == token.secret.get_secret_value()
    assert token.expires_at == daily_death(datetime.now(tz=UTC))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"client_id": "other"}, "not for this app"),
        ({"message_type": "order"}, "holds no token"),
        ({"access_token": "two words"}, "holds no token"),
        ({"access_token": ""}, "holds no token"),
        ({"access_token": None}, "no delivery"),
        ({"expires_at": "0"}, "dead already"),
        ({"expires_at": "soon"}, "until when"),
        ({"expires_at": "9" * 40}, "until when"),
    ],
)
def test_a_delivery_that_is_none(place: Place, changed: dict[str, Any], words: str) -> None:
    """Another app's, or one without a living token: refused before a request is spent on it."""
    with pytest.raises(AnswerNotBelieved, match=words):
        place.notify(**changed)
    assert not place.upstox.requests()
    assert place.is_untouched()


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"null", b'{"client_id":"sandbox-app"}'])
def test_a_body_that_is_none(place: Place, body: bytes) -> None:
    """Any other body is refused as it is."""
    with pytest.raises(AnswerNotBelieved, match="no delivery"):
        asyncio.run(place.manager.handle_notification(body))
    assert not place.upstox.requests()


def test_a_made_up_token_is_proved_false(place: Place) -> None:
    """It costs one request of the profile and changes nothing; the true one is taken after it."""
    with pytest.raises(AnswerNotBelieved, match="proved false"):
        place.notify(access_token="made-up")
    assert place.asked("profile") == 1
    assert place.is_untouched()
    assert place.notify().user_id == APP.user_id


def test_somebody_elses_token(place: Place) -> None:
    """A good token of another user is refused: he cannot lay his account under ours, nor lie about whose it is."""
    place.handle(place.callback())
    before = stored(place.settings)
    other = place.upstox.sandbox._authority.new_token("XX9999", plus=True)  # noqa: SLF001 -- no other way to one
    with pytest.raises(AnswerNotBelieved, match="XX9999"):
        place.notify(access_token=other, user_id="XX9999")
    with pytest.raises(AnswerNotBelieved, match="not of the user"):
        place.notify(access_token=other)
    assert stored(place.settings) == before


def test_proofs_are_not_given_away(place: Place) -> None:
    """After a handful of tokens that proved false the login ends: strangers cannot spend the account's requests."""
    for _ in range(MOST_PROOFS):
        with pytest.raises(AnswerNotBelieved):
            place.notify(access_token="made-up")
    with pytest.raises(LoginFailed, match="proved false") as caught:
        place.notify(access_token="made-up")
    assert not isinstance(caught.value, AnswerNotBelieved)
    assert place.asked("profile") == MOST_PROOFS


def test_half_a_delivery(place: Place) -> None:
    """Who goes away in the middle of a body does not end the login, nor do many who lie about the user."""
    with notification_receiver(place.settings, place.manager) as receiver:
        port = urlsplit(place.settings.notifier_url).port or 0
        with socket.create_connection(("127.0.0.1", port)) as stranger:
            stranger.sendall(b"POST /notify HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{")
        place.handle(place.callback())
        for _ in range(MOST_PROOFS + 1):
            body = json.dumps(place.delivery() | {"user_id": "XX9999"})
            assert httpx.post(place.settings.notifier_url, content=body).status_code == 400
        with pytest.raises(LoginFailed, match="No answer came"):
            receiver.wait(0.01)
        assert httpx.post(place.settings.notifier_url, json=place.delivery()).status_code == 200
        assert receiver.wait(1).user_id == APP.user_id


def test_the_webhook_tells_strangers_nothing(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever is wrong, the answer is the same two words; the person at the terminal is told which."""
    with notification_receiver(place.settings, place.manager) as receiver:
        answers = [
            httpx.post(place.settings.notifier_url, content=body)
            for body in (b"{}", json.dumps(place.delivery() | {"client_id": "other"}), b"x" * (LARGEST + 1))
        ]
        with pytest.raises(LoginFailed):
            receiver.wait(0.01)
    assert {(answer.status_code, answer.text) for answer in answers} == {(400, "not taken")}
    assert [record.getMessage().split(":")[0] for record in caplog.records if record.name.endswith("callback")] == [
        "Something came that is no delivery of a token",
        "A token came that is not for this app",
        "Something came that is far too long for a token",
    ]
    assert place.is_untouched()


# Pasting and logging out


def test_a_pasted_token(place: Place) -> None:
    """It is proved and stored, until the night if it says nothing of its death."""
    token = asyncio.run(place.manager.accept_pasted(" pasted-token\n"))
    assert (token.user_id, token.expires_at) == (APP.user_id, daily_death(datetime.now(tz=UTC)))
    assert stored(place.settings) == "pasted-token"


@pytest.mark.parametrize(
    ("text", "error"),
    [("", LoginFailed), ("two words", LoginFailed), ("wrong-token", TokenRejected), ("a.eyJleHAiOjF9.c", LoginFailed)],
)
def test_a_bad_paste(place: Place, text: str, error: type[ExpiryTrackError]) -> None:
    """What is no token, a dead one, or a wrong one: one sentence that does not quote it, and nothing is stored."""
    with pytest.raises(error) as caught:
        asyncio.run(place.manager.accept_pasted(text))
    assert not text or text not in str(caught.value)
    assert place.is_untouched()


def test_logging_out(place: Place) -> None:
    """The token is dead at Upstox and gone here; a second logout asks nothing."""
    token = place.handle(place.callback())
    goodbye = asyncio.run(place.manager.logout())
    assert (goodbye.forgotten, goodbye.not_revoked) == (True, None)
    with pytest.raises(TokenMissing):
        get_valid_token(place.settings)
    with pytest.raises(TokenRejected):
        asyncio.run(place.manager.accept_pasted(token.secret.get_secret_value()))
    assert asyncio.run(place.manager.logout()).forgotten is False
    assert place.asked("logout") == 1


def test_logging_out_without_the_network(place: Place) -> None:
    """The token is forgotten all the same, and the reason why Upstox was not told comes back."""
    place.handle(place.callback())
    away = AuthManager(place.settings.model_copy(update={"api_url": f"http://127.0.0.1:{free_port()}"}))
    goodbye = asyncio.run(away.logout())
    assert goodbye.forgotten
    assert goodbye.not_revoked is not None
    assert "cannot be reached" in goodbye.not_revoked
    with pytest.raises(TokenMissing):
        get_valid_token(place.settings)


def test_logging_out_what_upstox_ended(place: Place) -> None:
    """A token that Upstox does not take any more needs no ending."""
    token = place.handle(place.callback())
    asyncio.run(LoginApi(place.settings).revoke(token.secret))
    goodbye = asyncio.run(place.manager.logout())
    assert (goodbye.forgotten, goodbye.not_revoked) == (True, None)


def test_logging_out_a_dead_token(place: Place) -> None:
    """A token that died by itself is forgotten without a request."""
    yesterday = datetime.now(tz=UTC) - timedelta(days=1)
    open_store(place.settings).put("default", "dead", APP.user_id, yesterday, yesterday)
    assert asyncio.run(place.manager.logout()).not_revoked is None
    assert not place.upstox.requests()


def test_the_audit_log_names_logins(place: Place) -> None:
    """Each login and logout is a line with the account, the user and the way; none has a secret."""
    token = place.handle(place.callback())
    place.notify()
    asyncio.run(place.manager.accept_pasted("pasted-token"))
    asyncio.run(place.manager.logout())
    entries = [entry for entry in AuditLog(place.settings.audit).entries() if entry]
    assert [(entry.event, entry.details.get("way")) for entry in entries] == [
        ("login", "dialog"),
        ("login", "approval"),
        ("login", "paste"),
        ("logout", None),
    ]
    assert {entry.details.get("upstox_user", APP.user_id) for entry in entries} == {APP.user_id}
    text = place.settings.audit.read_text()
    assert not [s for s in (token.secret.get_secret_value(), "pasted-token", APP.client_secret) if s in text]


# What Upstox may answer


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (httpx.Response(200, json={"access_token": "a", "no": "user"}), MalformedResponse),
        (httpx.Response(200, json={"status": "error", "errors": [{"errorCode": "UDAPI100057"}]}), TokenRejected),
        (httpx.Response(200, content=b'{"access_token":"the-tok'), ExpiryTrackError),
        (
            httpx.Response(400, json={"errors": [{"errorCode": "NEW", "message": "bad the-code the-secret"}]}),
            ExpiryTrackError,
        ),
        (httpx.Response(302, headers={"Location": "https://elsewhere.example/?code=the-code"}), ExpiryTrackError),
        (httpx.Response(403, html="<h1>Error 1010</h1>"), ExpiryTrackError),
        (httpx.ReadTimeout("slow"), NetworkError),
        (httpx.ConnectError("away"), NetworkError),
    ],
    ids=["no user", "error as 200", "cut off", "quoting", "redirect", "edge", "timeout", "connect"],
)
def test_odd_answers_to_the_exchange(
    place: Place, answer: httpx.Response | Exception, error: type[ExpiryTrackError]
) -> None:
    """Each is one sentence without the code, the secret or the token, sent once, and nothing hangs on it."""
    sent: list[httpx.Request] = []

    def answered(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        if isinstance(answer, Exception):
            raise answer
        return answer

    api = LoginApi(place.settings, httpx.MockTransport(answered))
    with pytest.raises(error) as caught:
        asyncio.run(api.exchange(App(client_id="app", client_secret="the-secret"), "the-code", "http://127.0.0.1/"))
    told = f"{caught.value} {caught.value!r} {caught.value.__cause__!r}"
    assert not [secret for secret in ("the-code", "the-secret", "the-tok") if secret in told]
    assert len(sent) == 1


def test_secrets_travel_in_the_body(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """At any level of logging, in the ledger and in the sandbox's list of addresses: no code, secret or token."""
    query = dict(place.callback())
    caplog.clear()  # the test's own browser was here
    caplog.set_level("DEBUG")
    token = place.handle(list(query.items())).secret.get_secret_value()
    asyncio.run(place.manager.logout())
    ledger = b"".join(path.read_bytes() for path in place.settings.home.glob("state.sqlite*"))
    addresses = " ".join(entry.path for entry in place.upstox.requests())
    for secret in (APP.client_secret, token, query["code"]):
        assert secret not in caplog.text
        assert secret not in addresses
        assert secret.encode() not in ledger
    assert f"{App(client_id='a', client_secret='the-secret')!r}" == "<the app a>"
