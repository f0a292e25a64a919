"""Codes and tokens as the sandbox issues them: how long each lives, and when it is used up.

Belongs here: issuing and judging. Routes and pages are in `login.py`; requests are counted by `limits.py`. As with
Upstox (docs/upstox-api.md), a code is good once and for two minutes, even if its exchange fails; a token dies at the
next 03:30 in India, however late it was made, or when it is logged out; and it looks like a JWT.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

CODE_LIFE = 120.0
IST = timedelta(hours=5, minutes=30)
NIGHT = timedelta(hours=3, minutes=30)
"""The hour in India at which tokens die."""


@dataclass(frozen=True, slots=True)
class _Code:
    client_id: str
    redirect_uri: str
    dies_at: float


@dataclass(frozen=True, slots=True)
class _Token:
    user_id: str
    dies_at: float


def next_night(now: float) -> float:
    """Return the next 03:30 in India, in epoch seconds like `now`."""
    local = datetime.fromtimestamp(now, UTC) + IST - NIGHT
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    return (midnight + NIGHT - IST).timestamp()


class Authority:
    """Issues codes and tokens, and knows which are good; `now` gives epoch seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        """Begin with none."""
        self.now = now
        self._key = secrets.token_bytes(32)
        self._codes: dict[str, _Code] = {}
        self._tokens: dict[str, _Token] = {}
        self._revoked: set[str] = set()

    def new_code(self, client_id: str, redirect_uri: str) -> str:
        """Return a code of six characters, which Upstox's samples have."""
        code = secrets.token_hex(3)
        self._codes[code] = _Code(client_id, redirect_uri, self.now() + CODE_LIFE)
        return code

    def take_code(self, code: str, client_id: str, redirect_uri: str) -> bool:
        """Use a code up, and say whether it was good for this client and address."""
        known = self._codes.pop(code, None)
        return (
            known is not None
            and (known.client_id, known.redirect_uri) == (client_id, redirect_uri)
            and self.now() < known.dies_at
        )

    def new_token(self, user_id: str, *, plus: bool) -> str:
        """Return a token of the day in the form of a signed JWT."""
        now = self.now()
        claims = {
            "sub": user_id,
            "jti": secrets.token_hex(12),
            "isMultiClient": False,
            "isPlusPlan": plus,
            "iat": int(now),
            "iss": "udapi-gateway-service",
            "exp": int(next_night(now)),
        }
        head, body = (_base64(msgspec.json.encode(part)) for part in ({"typ": "JWT", "alg": "HS256"}, claims))
        signature = _base64(hmac.digest(self._key, f"{head}.{body}".encode(), hashlib.sha256))
        token = f"{head}.{body}.{signature}"
        self._tokens[token] = _Token(user_id, next_night(now))
        return token

    def is_dead(self, token: str) -> bool:
        """Say whether a token was logged out or is past its night; one that was not issued here has no night."""
        known = self._tokens.get(token)
        return token in self._revoked or (known is not None and known.dies_at <= self.now())

    def issued(self, token: str) -> bool:
        """Say whether a token was issued here."""
        return token in self._tokens

    def user_of(self, token: str) -> str | None:
        """Return the user of a token that was issued here."""
        known = self._tokens.get(token)
        return known.user_id if known else None

    def revoke(self, token: str) -> None:
        """Log a token out."""
        self._revoked.add(token)


def _base64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()
