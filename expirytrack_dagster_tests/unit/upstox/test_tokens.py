"""Tokens: when they die, which one is used, and who they belong to."""

from __future__ import annotations

import asyncio
import json
from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expirytrack_dagster.errors import (
    LoginFailed,
    StorageError,
    TokenExpired,
    TokenMissing,
    TokenRejected,
    VaultDamaged,
)
from expirytrack_dagster.security.vault import open_vault
from expirytrack_dagster.settings import load_settings
from expirytrack_dagster.upstox.tokens import (
    Bearer,
    daily_death,
    duration,
    expiry_claim,
    expiry_of_issued,
    expiry_of_pasted,
    get_valid_token,
    is_token,
    open_store,
    token_state,
)

if TYPE_CHECKING:
    from expirytrack_dagster.settings import Settings
    from expirytrack_dagster.upstox.tokens import TokenStore

NOW = datetime(2026, 11, 25, 10, 0, tzinfo=UTC)
TONIGHT = datetime(2026, 11, 25, 22, 0, tzinfo=UTC)
INSTANTS = st.datetimes(datetime(1970, 1, 2), datetime(9999, 12, 30), timezones=st.timezones())  # noqa: DTZ001 -- zones are drawn


def jwt(**claims: Any) -> str:
    """Return a token of Upstox's form; its signature is none, since nobody here looks at it."""
    parts = (json.dumps(part).encode() for part in ({"typ": "JWT", "alg": "HS256"}, claims))
    return ".".join([*(urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts), "c2lnbmF0dXJl"])


class FakeClock:
    """A clock that a test sets."""

    def __init__(self, now: datetime) -> None:
        """Stand at this instant."""
        self.at = now

    def now(self) -> float:
        """Return epoch seconds."""
        return self.at.timestamp()

    async def sleep(self, seconds: float) -> None:
        """Jump."""
        self.at += timedelta(seconds=seconds)


@pytest.fixture
def settings() -> Settings:
    """Return settings without a token, whose vault is opened by a passphrase."""
    return load_settings(passphrase="a long enough passphrase")


@pytest.fixture
def store(settings: Settings) -> TokenStore:
    """Return the tokens of an empty vault."""
    return open_store(settings)


@given(INSTANTS)
def test_a_token_of_the_day_dies_at_the_first_half_past_three(issued: datetime) -> None:
    """Whenever it was made, in whatever time zone: the first 22:00 UTC strictly after, at most a day away."""
    death = daily_death(issued)
    assert (death.hour, death.minute, death.second, death.microsecond, death.utcoffset()) == (22, 0, 0, 0, timedelta(0))
    assert timedelta(0) < death - issued <= timedelta(days=1)


@pytest.mark.parametrize(
    ("issued", "minutes"),
    [("02:30:00", 60), ("03:29:59.999999", 0), ("03:30:00", 24 * 60), ("03:30:00.000001", 24 * 60 - 1), ("23:59", 211)],
)
def test_the_edges_of_the_night(issued: str, minutes: int) -> None:
    """One made at 02:30 lives an hour; one made at the very 03:30 lives until the next."""
    made = datetime.fromisoformat(f"2026-11-25T{issued}+05:30")
    assert (daily_death(made) - made) // timedelta(minutes=1) == minutes


@given(st.integers(0, 253_402_300_799))
def test_a_jwt_tells_its_death(exp: int) -> None:
    """Any whole second up to the year 9999 is read back."""
    assert expiry_claim(jwt(exp=exp)) == datetime.fromtimestamp(exp, UTC)


@given(st.one_of(st.text(), st.binary().map(lambda raw: f"a.{urlsafe_b64encode(raw).decode()}.c")))
def test_other_texts_tell_nothing(text: str) -> None:
    """Whatever is pasted, nothing breaks over it."""
    claim = expiry_claim(text)
    assert claim is None or claim.tzinfo is UTC


@pytest.mark.parametrize("exp", [None, "soon", 1e18, -1e18, [1], True])
def test_a_claim_that_is_no_time(exp: object) -> None:
    """A claim of another kind, or beyond all years, is none."""
    assert expiry_claim(jwt(exp=exp)) is None


@given(INSTANTS, st.one_of(st.none(), st.integers(0, 253_402_300_799)))
def test_what_a_login_brings_never_outlives_the_night(issued: datetime, exp: int | None) -> None:
    """The rule holds even when the token claims a year; a token that claims less is believed."""
    token = "opaque" if exp is None else jwt(exp=exp)
    dies = expiry_of_issued(token, issued)
    assert dies <= daily_death(issued)
    assert exp is None or dies <= datetime.fromtimestamp(exp, UTC)


def test_what_is_pasted_may_live_a_year() -> None:
    """A pasted token that says so (an Analytics token) is not called dead after a day; one that says nothing is."""
    year = NOW + timedelta(days=365)
    assert expiry_of_pasted(jwt(exp=int(year.timestamp())), NOW) == year
    assert expiry_of_pasted("opaque", NOW) == TONIGHT


@pytest.mark.parametrize("text", ["", "two words", "line\nbreak", "na\u00efve", "x" * 5000, "tab\tbed", "\x7f"])
def test_what_is_no_token(text: str) -> None:
    """What no header can carry is no token."""
    assert not is_token(text)


def test_no_token(settings: Settings) -> None:
    """Without any: missing, and the sentence names both ways; no vault is made by looking."""
    with pytest.raises(TokenMissing, match=r"run `expirytrack login`, or set EXPIRYTRACK_ACCESS_TOKEN"):
        get_valid_token(settings, NOW)
    state = token_state(settings, NOW)
    assert (state.source, state.expires_at, state.seconds_left, state.usable) == (None, None, 0.0, False)
    assert not settings.vault.exists()


def test_a_stored_token_lives_until_the_night(settings: Settings, store: TokenStore) -> None:
    """A stored token is usable until its last second, and says how long that is; then it is expired."""
    store.put("default", "secret-token", "AB1234", NOW, TONIGHT)
    state = token_state(settings, NOW)
    assert (state.account, state.source, state.expires_at, state.usable) == ("default", "vault", TONIGHT, True)
    assert state.seconds_left == 12 * 3600
    assert state.lasts(12 * 3600)
    assert not state.lasts(12 * 3600 + 1)
    assert "until 03:30 IST on 26 November 2026, 12 h 0 min from now" in state.sentence
    soon = token_state(settings, TONIGHT - timedelta(minutes=59))
    assert soon.sentence.endswith(
        "59 min from now: what is not done by then waits for a new one (`expirytrack login`)."
    )
    token = get_valid_token(settings, TONIGHT - timedelta(microseconds=1))
    assert (token.secret.get_secret_value(), token.user_id) == ("secret-token", "AB1234")
    with pytest.raises(TokenExpired, match=r"died at 03:30 IST on 26 November 2026: run `expirytrack login`"):
        get_valid_token(settings, TONIGHT)
    dead = token_state(settings, TONIGHT)
    assert (dead.usable, dead.seconds_left) == (False, 0.0)


def test_the_environment_wins_over_the_vault(settings: Settings, store: TokenStore) -> None:
    """A token in the environment is used, with what it says of itself, and the vault is not even opened."""
    store.put("default", "stored", "AB1234", NOW, TONIGHT)
    settings.vault.write_bytes(b"not a vault")
    for text, dies in (("opaque", None), (jwt(exp=int(TONIGHT.timestamp())), TONIGHT)):
        pasted = load_settings(access_token=text)
        assert get_valid_token(pasted, NOW).secret.get_secret_value() == text
        state = token_state(pasted, NOW)
        assert (state.source, state.expires_at, state.usable) == ("environment", dies, True)
        assert state.seconds_left == (dies and (dies - NOW).total_seconds())
    with pytest.raises(TokenExpired, match="set today's, or unset it and run `expirytrack login`"):
        get_valid_token(load_settings(access_token=jwt(exp=int(NOW.timestamp()))), NOW)
    with pytest.raises(TokenRejected):
        get_valid_token(load_settings(access_token="two words"), NOW)
    assert token_state(load_settings(access_token="two words"), NOW).source == "environment"


def test_a_vault_that_does_not_open(settings: Settings, store: TokenStore) -> None:
    """The state says so in the vault's sentence; asking for the token raises it."""
    store.put("default", "stored", "AB1234", NOW, TONIGHT)
    settings.vault.write_bytes(b"not a vault")
    state = token_state(settings, NOW)
    assert (state.usable, state.source) == (False, None)
    assert "not a vault" in state.sentence
    with pytest.raises(VaultDamaged):
        get_valid_token(settings, NOW)


def test_accounts_are_apart(settings: Settings, store: TokenStore) -> None:
    """Each name has its token, and the settings choose."""
    store.put("default", "first", "AB1", NOW, TONIGHT)
    store.put("second", "other", "AB2", NOW, TONIGHT)
    assert store.accounts() == ["default", "second"]
    second = settings.model_copy(update={"account": "second"})
    assert get_valid_token(second, NOW).secret.get_secret_value() == "other"
    assert store.forget("second")
    assert not store.forget("second")
    with pytest.raises(TokenMissing, match=r"run `expirytrack login --account second`"):
        get_valid_token(second, NOW)


def test_a_name_and_a_user_belong_together(store: TokenStore) -> None:
    """Neither another user under a name nor a second name for a user is taken, until the name is free again."""
    store.put("default", "first", "AB1", NOW, TONIGHT)
    store.put("default", "of the next day", "AB1", NOW, TONIGHT)
    with pytest.raises(LoginFailed, match="account 'default' is AB1"):
        store.put("default", "slipped-in", "AB2", NOW, TONIGHT)
    with pytest.raises(LoginFailed, match="AB1 is account 'default' here"):
        store.put("second", "same user", "AB1", NOW, TONIGHT)
    kept = store.get("default")
    assert kept is not None
    assert kept.secret.get_secret_value() == "of the next day"
    assert store.accounts() == ["default"]
    store.forget("default")
    store.put("second", "same user", "AB1", NOW, TONIGHT)


def test_an_entry_of_another_version(settings: Settings, store: TokenStore) -> None:
    """An entry of another shape is one sentence, which does not quote it."""
    open_vault(settings).put("token/default", b'{"token": "secret-of-the-future"}')
    with pytest.raises(StorageError, match="cannot be read by this version") as caught:
        store.get("default")
    assert caught.value.__cause__ is None
    assert "secret-of-the-future" not in str(caught.value)


def test_no_representation_shows_it(settings: Settings, store: TokenStore) -> None:
    """Neither the token nor its state shows it, nor does the file of the vault."""
    token = store.put("default", "secret-token", "AB1", NOW, TONIGHT)
    assert "secret-token" not in f"{token} {token!r} {token_state(settings, NOW)!r} {settings!r}"
    assert b"secret-token" not in settings.vault.read_bytes()


def test_a_client_takes_up_a_new_login(settings: Settings, store: TokenStore) -> None:
    """A client reads the vault once, notices the token's death by its own clock, and goes on with a new one."""
    clock = FakeClock(NOW)
    bearer = Bearer(settings, clock)
    store.put("default", "first", "AB1", NOW, TONIGHT)
    assert asyncio.run(bearer.header()) == {"Authorization": "Bearer first"}
    store.put("default", "second", "AB1", NOW, TONIGHT)
    assert asyncio.run(bearer.header()) == {"Authorization": "Bearer first"}
    clock.at = TONIGHT
    with pytest.raises(TokenExpired):
        asyncio.run(bearer.header())
    store.put("default", "third", "AB1", TONIGHT, daily_death(TONIGHT))
    assert asyncio.run(bearer.header()) == {"Authorization": "Bearer third"}


@pytest.mark.parametrize(("seconds", "words"), [(0, "0 min"), (59, "0 min"), (3599, "59 min"), (45_296, "12 h 34 min")])
def test_durations(seconds: float, words: str) -> None:
    """Minutes are counted down, as a clock would."""
    assert duration(seconds) == words
