"""Logging in: the one way in which a token gets into the vault, and what is believed on that way.

The order of a login, the checks of what comes back, and the proof of a token belong here. What is sent belongs to
`oauth.py`, listening for answers to `callback.py`, the life and the place of tokens to `tokens.py`, questions to the
person to `commands/account.py`.

Three ways lead to a token, and all end in the same proof: a call of the profile with it, whose user becomes, or
already is, the one behind the account's name. Then it is stored.

- **The dialog** (`initiate_auth`, `handle_callback`): the user logs in at Upstox, which sends the browser back with a
  code. The callback is believed for a `state` that only this login knows, once.
- **The approval** (`refresh_token`, `handle_notification`): Upstox asks the user, and delivers the token to the app's
  notifier webhook. Nothing signs that delivery, so all that speaks for it is the proof.
- **Pasting** (`accept_pasted`): the user copied it from the developer page.

Upstox has no refresh token: every way needs the user. Nothing here pretends otherwise.
"""

from __future__ import annotations

import secrets
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
from pydantic import SecretStr

from expirytrack_dagster.errors import (
    AnswerNotBelieved,
    AuthenticationError,
    ConfigurationError,
    ExpiryTrackError,
    LoginFailed,
    TokenRejected,
)
from expirytrack_dagster.security import audit
from expirytrack_dagster.upstox.client import UpstoxClient
from expirytrack_dagster.upstox.clock import SystemClock
from expirytrack_dagster.upstox.ledger import open_ledger
from expirytrack_dagster.upstox.oauth import App, Approval, LoginApi, dialog_url
from expirytrack_dagster.upstox.refusals import excerpt
from expirytrack_dagster.upstox.tokens import (
    AccessToken,
    TokenState,
    daily_death,
    expiry_of_issued,
    expiry_of_pasted,
    get_valid_token,
    is_token,
    open_store,
    token_state,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import httpx

    from expirytrack_dagster.security.vault import Vault
    from expirytrack_dagster.settings import Settings
    from expirytrack_dagster.upstox.clock import Clock

__all__ = ["AccessToken", "AuthManager", "Goodbye", "TokenState", "find_app", "get_valid_token", "token_state"]

STATE_BYTES = 32
MOST_PROOFS = 5
"""Deliveries to the webhook that are proved: each costs a request, and whoever reaches the webhook can send one."""
_APP = "app/"


@dataclass(frozen=True, slots=True)
class Goodbye:
    """What a logout did: whether there was a token here, and why Upstox did not end it, None if it did or had."""

    forgotten: bool
    not_revoked: str | None


class _Delivery(msgspec.Struct, frozen=True):
    """What the notifier webhook gets; times are milliseconds since the epoch, as text."""

    client_id: str
    user_id: str
    access_token: str
    message_type: str
    expires_at: str

    def __repr__(self) -> str:
        """Return no secret."""
        return f"<a delivery for {self.client_id}>"


class AuthManager:
    """Logs one account in and out, and knows its token.

    Args:
        settings: They name the account, its app, the API and the vault.
        app: The key and the secret of the app, where the settings have none (see `find_app`).
        clock: What time it is, and waits of the profile call.
        transport: Replaces the network, for tests.
    """

    def __init__(
        self,
        settings: Settings,
        app: App | None = None,
        *,
        clock: Clock | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Keep the parts; nothing is asked and the vault is not opened."""
        self._settings = settings
        self._given_app = app
        self._clock = clock or SystemClock()
        self._transport = transport
        self._api = LoginApi(settings, transport)
        self._state: str | None = None
        self._proofs = 0
        self._under_way = 0

    def initiate_auth(self) -> str:
        """Return the address at which the user logs in; a callback of an earlier one is not believed any more.

        Raises:
            ConfigurationError: no app is known.
        """
        app = self._app()
        self._state = secrets.token_urlsafe(STATE_BYTES)
        return dialog_url(self._settings.api_url, app.client_id, self._settings.redirect_uri, self._state)

    async def handle_callback(self, query: Sequence[tuple[str, str]]) -> AccessToken:
        """Turn what the browser brought back into a stored token.

        Args:
            query: The parameters of the redirect, in their order.

        Raises:
            AnswerNotBelieved: it is no answer to this login, which still waits; nothing was asked or changed.
            LoginFailed: the user or Upstox said no, or it is the token of another user; the login is over.
            ExpiryTrackError: of the exchange or the proof; the code is used up, and the login is over.
        """
        if len({name for name, _ in query}) < len(query):
            raise AnswerNotBelieved("The callback names something twice, which Upstox does not: it was ignored.")
        answer = dict(query)
        expected = self._state
        if expected is None:
            raise AnswerNotBelieved("A callback came again, or without a login under way: it was ignored.")
        if not secrets.compare_digest(answer.get("state", "").encode(), expected.encode()):
            raise AnswerNotBelieved("A callback came that does not belong to this login (wrong state): it was ignored.")
        self._state = None  # used, whatever follows
        if error := answer.get("error"):
            words = excerpt((answer.get("error_description") or error).encode())
            raise LoginFailed(f"Upstox did not let the login pass ({words}): run the login again.")
        if not (code := answer.get("code", "").strip()):
            raise LoginFailed("Upstox sent the browser back without a code: run the login again.")
        app = self._app()
        with self._settling():
            issued = await self._api.exchange(app, code, self._settings.redirect_uri)
            now = self._now()
            self._check_user(issued.user_id)
            return await self._settle(issued.secret.get_secret_value(), issued.user_id, now, app, way="dialog")

    async def refresh_token(self) -> Approval:
        """Ask Upstox to ask the user for a new token; it is delivered to `handle_notification`, if the user agrees.

        There is no refreshing without the user: no refresh token exists. A login by the dialog does the same.

        Raises:
            ConfigurationError: no app is known.
            ExpiryTrackError: Upstox refuses the app, or cannot be reached.
        """
        return await self._api.request_approval(self._app())

    async def handle_notification(self, body: bytes) -> AccessToken:
        """Turn what came to the notifier webhook into a stored token.

        Raises:
            AnswerNotBelieved: it is not of this app, no token, or not proved; nothing was changed, the wait goes on.
            LoginFailed: too much came that was not proved.
            ExpiryTrackError: the proof could not be had.
        """
        app = self._app()
        try:
            delivery = msgspec.json.decode(body, type=_Delivery)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise AnswerNotBelieved("Something came that is no delivery of a token: it was ignored.") from None
        if not secrets.compare_digest(delivery.client_id.encode(), app.client_id.encode()):
            raise AnswerNotBelieved("A token came that is not for this app: it was ignored.")
        if delivery.message_type != "access_token" or not is_token(delivery.access_token):
            raise AnswerNotBelieved("Something came that holds no token: it was ignored.")
        now = self._now()
        dies_at = _moment(delivery.expires_at)
        if dies_at <= now:
            raise AnswerNotBelieved("A token came that is dead already: it was ignored.")
        try:
            self._check_user(delivery.user_id)
            self._proofs += 1
            if self._proofs <= MOST_PROOFS:
                with self._settling():
                    return await self._settle(
                        delivery.access_token, delivery.user_id, now, app, way="approval", latest=dies_at
                    )
        except AuthenticationError as error:
            raise AnswerNotBelieved(f"A token came that proved false, and was ignored: {error}") from None
        raise LoginFailed(
            f"{MOST_PROOFS} tokens came that proved false: see who reaches the notifier webhook, then try again."
        )

    async def accept_pasted(self, token: str) -> AccessToken:
        """Prove and store a token that the user copied.

        Raises:
            LoginFailed: it cannot be a token, or is of another user.
            ExpiryTrackError: of the proof; nothing is stored.
        """
        token = token.strip()
        if not is_token(token):
            raise LoginFailed("What was pasted is no token: copy it again from the Upstox developer page.")
        now = self._now()
        if (expires_at := expiry_of_pasted(token, now)) <= now:
            raise LoginFailed("What was pasted is a token that has died already: make a new one, and copy that.")
        return self._keep(token, await self._user_of(token), now, expires_at, way="paste")

    async def logout(self) -> Goodbye:
        """End the account's token at Upstox and forget it here; it is forgotten even when Upstox does not end it.

        Raises:
            VaultError: the vault cannot be opened.
        """
        store, account = open_store(self._settings), self._settings.account
        reason = None
        try:
            token = store.get(account)
            if token is not None and not token.is_dead(self._now()):
                await self._api.revoke(token.secret)
        except TokenRejected:
            pass  # dead at Upstox already
        except ExpiryTrackError as error:
            reason = str(error)
        finally:
            forgotten = store.forget(account)
        if forgotten:
            audit.record(self._settings, "logout", account=account, revoked=reason is None)
        return Goodbye(forgotten, reason)

    def get_valid_token(self) -> AccessToken:
        """Return the account's token, without asking the API; raises like `tokens.get_valid_token`."""
        return get_valid_token(self._settings, self._now())

    @property
    def is_settling(self) -> bool:
        """Say whether an answer is being exchanged or proved: full limits can make that take half an hour."""
        return self._under_way > 0

    @contextmanager
    def _settling(self) -> Iterator[None]:
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    async def _settle(
        self, token: str, user_id: str, now: datetime, app: App, *, way: str, latest: datetime | None = None
    ) -> AccessToken:
        """Prove a token that was issued now, then store it, and the app that got it."""
        if not is_token(token):
            raise LoginFailed("Upstox sent something that is no token: run the login again.")
        if await self._user_of(token) != user_id:
            raise LoginFailed("The token is not of the user that it was said to be of: run the login again.")
        expires_at = min(expiry_of_issued(token, now), latest or daily_death(now))
        stored = self._keep(token, user_id, now, expires_at, way=way)
        remember_app(self._settings, app)
        return stored

    def _check_user(self, user_id: str) -> None:
        """Refuse a user who is not the one behind the account's name, before a request is spent on the token."""
        open_store(self._settings).check_user(self._settings.account, user_id)

    def _keep(self, token: str, user_id: str, now: datetime, expires_at: datetime, *, way: str) -> AccessToken:
        account = self._settings.account
        stored = open_store(self._settings).put(account, token, user_id, now, expires_at)
        audit.record(
            self._settings, "login", account=account, upstox_user=user_id, way=way, dies_at=expires_at.isoformat()
        )
        return stored

    async def _user_of(self, token: str) -> str:
        """Ask for the profile with a token: who answers is its user."""
        settings = self._settings.model_copy(update={"access_token": SecretStr(token), "max_retries": 1})
        ledger = open_ledger(settings)
        async with UpstoxClient(settings, ledger, clock=self._clock, fresh=True, transport=self._transport) as client:
            return (await client.get_profile()).user_id

    def _app(self) -> App:
        app = self._given_app or find_app(self._settings)
        if app is None:
            raise ConfigurationError(
                "No app of the Upstox developer page is known: set EXPIRYTRACK_CLIENT_ID and EXPIRYTRACK_CLIENT_SECRET "
                "to its API key and secret, or use `expirytrack login --paste`."
            )
        return app

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.now(), UTC)


def find_app(settings: Settings) -> App | None:
    """Return the app of an account: that of the settings, else the one that logged the account in before.

    Raises:
        VaultError: the vault cannot be opened.
    """
    if settings.client_id and settings.client_secret:
        return App(client_id=settings.client_id, client_secret=settings.client_secret.get_secret_value())
    kept = _vault(settings).get(_APP + settings.account)
    if kept is None:
        return None
    with suppress(msgspec.MsgspecError):  # of another version: asked for again
        app = msgspec.json.decode(kept, type=App)
        if settings.client_id in {None, app.client_id}:
            return app
    return None


def remember_app(settings: Settings, app: App) -> None:
    """Keep an app beside the token that it got, so that the next login needs no secret in the environment."""
    _vault(settings).put(_APP + settings.account, msgspec.json.encode(app))


def _vault(settings: Settings) -> Vault:
    from expirytrack_dagster.security.vault import open_vault  # noqa: PLC0415 -- loads the keyring's back ends

    return open_vault(settings)


def _moment(milliseconds: str) -> datetime:
    try:
        return datetime.fromtimestamp(int(milliseconds) / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        raise AnswerNotBelieved("A delivery came that does not say until when it is good: it was ignored.") from None
