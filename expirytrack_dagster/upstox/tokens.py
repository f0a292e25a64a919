"""The life of an access token and where it is kept: the environment, or the vault, one token an account.

When a token dies, which one is to be used, and storing and forgetting it belong here. How a token is got belongs to
`auth.py`; encryption belongs to the vault.

**A token of the day dies at 03:30 in India (22:00 UTC), however late it was made**: one made at 02:30 lives an hour.
Upstox has no refresh token, so nothing here renews anything. A token that is a JWT tells its own time of death, which
is believed where it is all that is known of a pasted token, and where it is earlier than the rule: see
docs/decisions/0056-when-a-token-dies.md. Nothing is verified that way: what a token is good for, the API decides.
"""

from __future__ import annotations

import asyncio
from base64 import urlsafe_b64decode
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal

import msgspec
from pydantic import SecretStr

from expirytrack_dagster.errors import (
    ExpiryTrackError,
    LoginFailed,
    StorageError,
    TokenExpired,
    TokenMissing,
    TokenRejected,
)
from expirytrack_dagster.ist import IST
from expirytrack_dagster.security import audit
from expirytrack_dagster.settings import DEFAULT_ACCOUNT

if TYPE_CHECKING:
    from expirytrack_dagster.security.vault import Vault
    from expirytrack_dagster.settings import Settings
    from expirytrack_dagster.upstox.clock import Clock

DEATH_HOUR = 22
"""The hour in UTC at which tokens of the day die: 03:30 in India, all the year."""
LONGEST = 4096
"""Characters: far more than any token of Upstox has."""
_JWT_PARTS = 3
_PREFIX = "token/"

Source = Literal["environment", "vault"]


def daily_death(issued: datetime) -> datetime:
    """Return when a token of the day dies: the first 22:00 UTC strictly after its issue."""
    issued = issued.astimezone(UTC)
    death = issued.replace(hour=DEATH_HOUR, minute=0, second=0, microsecond=0)
    return death if death > issued else death + timedelta(days=1)


class _Claims(msgspec.Struct):
    exp: float


def expiry_claim(token: str) -> datetime | None:
    """Return when a JWT says that it dies, None for any other text; its signature is not looked at."""
    parts = token.split(".")
    if len(parts) != _JWT_PARTS:
        return None
    try:
        payload = urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        return datetime.fromtimestamp(msgspec.json.decode(payload, type=_Claims).exp, UTC)
    except (ValueError, OverflowError, OSError, msgspec.MsgspecError):
        return None


def expiry_of_issued(token: str, issued: datetime) -> datetime:
    """Return when a token dies that a login has just brought: by the rule, or earlier if it says so."""
    return min(daily_death(issued), expiry_claim(token) or datetime.max.replace(tzinfo=UTC))


def expiry_of_pasted(token: str, pasted: datetime) -> datetime:
    """Return when a token of an unknown kind dies: when it says, else by the rule, as if it were made just now."""
    return expiry_claim(token) or daily_death(pasted)


def is_token(text: str) -> bool:
    """Say whether a text can be a token at all: no header carries anything else."""
    return 0 < len(text) <= LONGEST and text.isascii() and text.isprintable() and " " not in text


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A token and what is known of it; `expires_at` (UTC) is None where nothing tells it."""

    account: str
    secret: SecretStr
    source: Source
    expires_at: datetime | None
    user_id: str | None = None

    def is_dead(self, now: datetime) -> bool:
        """Say whether its time is over."""
        return self.expires_at is not None and self.expires_at <= now


@dataclass(frozen=True, slots=True)
class TokenState:
    """What there is to know of an account's token, but the token.

    `expires_at` is in UTC; `seconds_left` is 0 for a dead or missing token, and None where nothing tells when it
    dies. `usable` says that asking with it makes sense; only the API can say that it is good. `sentence` is for the
    user and says what to do.
    """

    account: str
    source: Source | None
    expires_at: datetime | None
    seconds_left: float | None
    usable: bool
    sentence: str

    def lasts(self, seconds: float) -> bool:
        """Say whether work of so many seconds, begun now, ends before the token dies; unknown counts as yes."""
        return self.usable and (self.seconds_left is None or self.seconds_left >= seconds)

    def as_json(self) -> dict[str, object]:
        """Return what `token --json` prints; times are ISO 8601, in UTC and in Indian time."""
        expires = self.expires_at
        return {
            "account": self.account,
            "usable": self.usable,
            "source": self.source,
            "expires_at": expires.isoformat() if expires else None,
            "expires_at_ist": expires.astimezone(IST).isoformat() if expires else None,
            "minutes_left": None if self.seconds_left is None else round(self.seconds_left / 60, 1),
            "sentence": self.sentence,
        }


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    """A token as the vault keeps it."""

    token: str
    user_id: str
    issued_at: datetime
    expires_at: datetime

    def __repr__(self) -> str:
        """Return no secret."""
        return f"<the stored token of {self.user_id}>"


class TokenStore:
    """The tokens of all accounts in one vault.

    An account's name and an Upstox user belong together for as long as the name has a token: rate limits are counted
    by name here and by user at Upstox, and a token that somebody else slips in is of another user.
    """

    def __init__(self, vault: Vault) -> None:
        """Keep the vault."""
        self._vault = vault

    def get(self, account: str) -> AccessToken | None:
        """Return an account's token, dead or alive.

        Raises:
            StorageError: the vault holds something else in its place.
        """
        if (kept := self._vault.get(_PREFIX + account)) is None:
            return None
        try:
            record = msgspec.json.decode(kept, type=_Record)
        except msgspec.MsgspecError:  # its text could quote the token
            raise StorageError(
                f"The vault's entry of account '{account}' cannot be read by this version of ExpiryTrack: run "
                "`expirytrack logout`, then `expirytrack login`."
            ) from None
        return AccessToken(account, SecretStr(record.token), "vault", record.expires_at, record.user_id)

    def put(self, account: str, token: str, user_id: str, issued_at: datetime, expires_at: datetime) -> AccessToken:
        """Store an account's token in place of an older one.

        Raises:
            LoginFailed: the name belongs to another Upstox user, or the user to another name.
        """
        self.check_user(account, user_id)
        record = _Record(token=token, user_id=user_id, issued_at=issued_at, expires_at=expires_at)
        self._vault.put(_PREFIX + account, msgspec.json.encode(record))
        return AccessToken(account, SecretStr(token), "vault", expires_at, user_id)

    def check_user(self, account: str, user_id: str) -> None:
        """Refuse a token of a user that would not be the one behind this name, or has another name already.

        Raises:
            LoginFailed: it is so; the sentence says what to do.
        """
        for name in self.accounts():
            kept = self.get(name)
            if kept is None or (name == account) == (kept.user_id == user_id):
                continue
            if name == account:
                raise LoginFailed(
                    f"This login is of the Upstox user {user_id}, but account '{account}' is {kept.user_id}, whose "
                    "token stays: name another account with --account, or log this one out first."
                )
            raise LoginFailed(
                f"The Upstox user {user_id} is account '{name}' here, and its limits are counted there: use "
                f"--account {name}, or log that one out first."
            )

    def forget(self, account: str) -> bool:
        """Remove an account's token; False if there was none."""
        return self._vault.delete(_PREFIX + account)

    def accounts(self) -> list[str]:
        """Return the names of the accounts that have a token, dead or alive."""
        return sorted(name.removeprefix(_PREFIX) for name in self._vault.names() if name.startswith(_PREFIX))


def open_store(settings: Settings) -> TokenStore:
    """Return the tokens in the vault of this home."""
    from expirytrack_dagster.security.vault import open_vault  # noqa: PLC0415 -- loads the keyring's back ends

    return TokenStore(open_vault(settings))


def held_token(settings: Settings) -> AccessToken | None:
    """Return the token to be used, dead or alive: the environment's before the vault's.

    Raises:
        TokenRejected: the environment holds something that is no token.
        VaultError: the vault cannot be opened.
    """
    pasted = settings.access_token.get_secret_value().strip() if settings.access_token else ""
    if not pasted:
        return open_store(settings).get(settings.account)
    if not is_token(pasted):
        raise TokenRejected("EXPIRYTRACK_ACCESS_TOKEN holds characters that no token has: paste it again.")
    return AccessToken(settings.account, SecretStr(pasted), "environment", expiry_claim(pasted))


def get_valid_token(settings: Settings, now: datetime | None = None) -> AccessToken:
    """Return the token of the settings' account, without asking the API.

    Raises:
        TokenMissing: there is none.
        TokenExpired: it has died.
        TokenRejected: the environment holds something that is no token.
        VaultError: the vault cannot be opened.
    """
    token = held_token(settings)
    if token is None:
        raise TokenMissing(_missing(settings.account))
    if token.is_dead(now or datetime.now(tz=UTC)):
        raise TokenExpired(_expired(token))
    return token


def token_state(settings: Settings, now: datetime | None = None) -> TokenState:
    """Return the state of the token of the settings' account, without asking the API.

    Where the vault cannot be opened, no token is usable, and the sentence is the vault's.
    """
    now = now or datetime.now(tz=UTC)
    try:
        token = held_token(settings)
    except ExpiryTrackError as error:
        source: Source | None = "environment" if isinstance(error, TokenRejected) else None
        return TokenState(settings.account, source, None, 0.0, usable=False, sentence=str(error))
    if token is None:
        return TokenState(settings.account, None, None, 0.0, usable=False, sentence=_missing(settings.account))
    if token.expires_at is None:
        sentence = f"{_name(token)} does not say when it dies; a token of the day does at the next 03:30 IST."
        return TokenState(token.account, token.source, None, None, usable=True, sentence=sentence)
    if token.is_dead(now):
        return TokenState(token.account, token.source, token.expires_at, 0.0, usable=False, sentence=_expired(token))
    left = (token.expires_at - now).total_seconds()
    sentence = f"{_name(token)} lives until {in_india(token.expires_at)}, {duration(left)} from now"
    soon = left < settings.token_warning_minutes * 60
    sentence += f": what is not done by then waits for a new one ({login_command(token.account)})." if soon else "."
    return TokenState(token.account, token.source, token.expires_at, left, usable=True, sentence=sentence)


def in_india(moment: datetime) -> str:
    """Return a moment as Indian time for a sentence."""
    return moment.astimezone(IST).strftime("%H:%M IST on %d %B %Y")


def duration(seconds: float) -> str:
    """Return a length of time for a sentence."""
    hours, minutes = divmod(int(seconds // 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def login_command(account: str) -> str:
    """Return the command that logs an account in."""
    return "`expirytrack login`" if account == DEFAULT_ACCOUNT else f"`expirytrack login --account {account}`"


def _name(token: AccessToken) -> str:
    if token.source == "environment":
        return "The token in EXPIRYTRACK_ACCESS_TOKEN"
    return f"The access token of account '{token.account}'"


def _missing(account: str) -> str:
    return (
        f"No access token of account '{account}': run {login_command(account)}, or set EXPIRYTRACK_ACCESS_TOKEN to "
        "today's token from the Upstox developer page."
    )


def _expired(token: AccessToken) -> str:
    died = in_india(token.expires_at) if token.expires_at else ""
    advice = f"run {login_command(token.account)}"
    if token.source == "environment":
        advice = f"set today's, or unset it and {advice}"
    return f"{_name(token)} died at {died}: {advice}."


class Bearer:
    """The token as one client uses it: got when first needed, looked at before each request, got anew once it died.

    So a login during a collection is of use to it, and a token that dies by its time costs no request. That a run
    uses a token is noted in the audit log.
    """

    def __init__(self, settings: Settings, clock: Clock, run_id: str | None = None) -> None:
        """Keep the parts; the vault is not opened yet."""
        self._settings = settings
        self._clock = clock
        self._run_id = run_id
        self._held: AccessToken | None = None
        self._turn = asyncio.Lock()

    async def header(self) -> dict[str, str]:
        """Return the header of a request that is sent now; raises like `get_valid_token`."""
        async with self._turn:
            now = self._now()
            if self._held is None or self._held.is_dead(now):
                self._held = await asyncio.to_thread(self._take, now)
            return _header(self._held)

    async def was_replaced(self, refused: dict[str, str]) -> bool:
        """Say, after the API refused a request with this header, whether a login has brought another token since."""
        async with self._turn:
            if self._held is not None and _header(self._held) == refused:
                try:
                    newest = await asyncio.to_thread(get_valid_token, self._settings, self._now())
                except ExpiryTrackError:  # none at all: what the API said is the better sentence
                    return False
                if _header(newest) == refused:
                    return False
                self._held = None
        return True

    def _take(self, now: datetime) -> AccessToken:
        token = get_valid_token(self._settings, now)
        if self._run_id is not None:
            audit.record(self._settings, "token_use", account=token.account, source=token.source, run=self._run_id)
        return token

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.now(), UTC)


def _header(token: AccessToken) -> dict[str, str]:
    return {"Authorization": f"Bearer {token.secret.get_secret_value()}"}
