"""Codes and tokens of the sandbox: single use, two minutes, dead at 03:30 in India."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expirytrack_dagster.sandbox.tokens import CODE_LIFE, Authority, next_night
from expirytrack_dagster.upstox.tokens import daily_death

APP, ADDRESS = "app", "http://127.0.0.1:1/callback"
NOON = datetime(2026, 11, 25, 6, 30, tzinfo=UTC).timestamp()
NIGHT = datetime(2026, 11, 25, 22, 0, tzinfo=UTC).timestamp()


class Hand:
    """A clock's hand that a test moves."""

    def __init__(self) -> None:
        """Stand at noon."""
        self.now = NOON


@pytest.fixture
def hand() -> Hand:
    """Return a clock's hand."""
    return Hand()


@pytest.fixture
def authority(hand: Hand) -> Authority:
    """Return an authority that looks at it."""
    return Authority(lambda: hand.now)


def test_a_code_is_good_once(authority: Authority) -> None:
    """The second time it is not, nor is any other code."""
    code = authority.new_code(APP, ADDRESS)
    assert authority.take_code(code, APP, ADDRESS)
    assert not authority.take_code(code, APP, ADDRESS)
    assert not authority.take_code("abcdef", APP, ADDRESS)


@pytest.mark.parametrize(("app", "address"), [("other", ADDRESS), (APP, f"{ADDRESS}/")])
def test_a_code_is_used_up_by_a_wrong_exchange(authority: Authority, app: str, address: str) -> None:
    """An exchange by another app or for another address fails, and uses it up."""
    code = authority.new_code(APP, ADDRESS)
    assert not authority.take_code(code, app, address)
    assert not authority.take_code(code, APP, ADDRESS)


def test_a_code_grows_old(authority: Authority, hand: Hand) -> None:
    """After two minutes it is good for nothing."""
    code = authority.new_code(APP, ADDRESS)
    hand.now += CODE_LIFE
    assert not authority.take_code(code, APP, ADDRESS)


def test_a_token_is_a_jwt_that_dies_in_the_night(authority: Authority, hand: Hand) -> None:
    """It has the claims that Upstox's has, and dies at 03:30 in India to the second."""
    token = authority.new_token("SB0001", plus=True)
    payload = token.split(".")[1]
    claims = json.loads(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    assert set(claims) == {"sub", "jti", "isMultiClient", "isPlusPlan", "iat", "iss", "exp"}
    assert (claims["sub"], claims["exp"], claims["isPlusPlan"]) == ("SB0001", NIGHT, True)
    hand.now = NIGHT - 1
    assert not authority.is_dead(token)
    hand.now = NIGHT
    assert authority.is_dead(token)
    assert authority.user_of(token) == "SB0001"


def test_a_logout_kills_a_token(authority: Authority) -> None:
    """Its own tokens and foreign ones alike; others live."""
    first, second = authority.new_token("A", plus=True), authority.new_token("A", plus=True)
    authority.revoke(first)
    authority.revoke("foreign")
    assert [authority.is_dead(token) for token in (first, second, "foreign", "other")] == [True, False, True, False]
    assert (authority.issued(second), authority.issued("other"), authority.user_of("other")) == (True, False, None)


@given(st.datetimes(datetime(1971, 1, 1), datetime(2100, 1, 1)))  # noqa: DTZ001 -- taken as UTC below
def test_both_sides_know_the_same_night(moment: datetime) -> None:
    """The sandbox's rule and the client's, written apart, name the same instant."""
    moment = moment.replace(tzinfo=UTC)
    night = next_night(moment.timestamp())
    assert abs(night - daily_death(moment).timestamp()) < 1e-3 or daily_death(moment) - moment < timedelta(
        milliseconds=1
    )
