"""Whether there is an access token now, and until when it lives; nothing is asked and no token is shown.

The expiry is read from the token itself, which is a JWT; one that is not, or does not say, is taken for good until the
API refuses it.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from expirytrack_dagster.settings import Settings

_PARTS = 3


@dataclass(frozen=True, slots=True)
class TokenState:
    """What is known of the token: `sentence` says what to do when it is not `usable`; times are UTC."""

    account: str
    source: Literal["environment", "vault"] | None
    expires_at: datetime | None
    seconds_left: float | None
    usable: bool
    sentence: str


def token_state(settings: Settings, now: datetime | None = None) -> TokenState:
    """Return what is known of the token of this process."""
    now = now or datetime.now(tz=UTC)
    if settings.access_token is None:
        return TokenState("default", None, None, None, usable=False, sentence="No access token: log in to Upstox.")
    expires = _expiry(settings.access_token.get_secret_value())
    left = None if expires is None else (expires - now).total_seconds()
    if left is not None and left <= 0:
        sentence = "The access token has died: log in to Upstox again."
        return TokenState("default", "environment", expires, 0.0, usable=False, sentence=sentence)
    return TokenState("default", "environment", expires, left, usable=True, sentence="The access token is good.")


def _expiry(token: str) -> datetime | None:
    parts = token.split(".")
    if len(parts) != _PARTS:
        return None
    try:
        claims = msgspec.json.decode(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        return datetime.fromtimestamp(float(claims["exp"]), UTC)
    except (binascii.Error, msgspec.MsgspecError, KeyError, TypeError, ValueError, OverflowError):
        return None
