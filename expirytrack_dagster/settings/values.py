"""Values of settings: how they are written, what makes one unfit, and in which words a person is told what is allowed.

What knows a single value belongs here. Which settings there are is `model.py`, where their values come from
`loading.py`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
import math
import re
import types
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin
from urllib.parse import SplitResult, urlsplit

from pydantic import SecretStr
from pydantic_core.core_schema import CoreSchema, no_info_after_validator_function

from expirytrack_dagster.address import parse_server, without_password

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic.fields import FieldInfo

PREFIX = "EXPIRYTRACK_"
"""What the variables of the environment begin with."""
UPSTOX_API_URL = "https://api.upstox.com"
LOGIN_URL = "http://127.0.0.1:8765/callback"
SERVER_DRIVER = "postgresql+psycopg2"
"""How SQLAlchemy is told the driver that is installed; otherwise it looks for another one."""
DATA_PATH = "a path of a folder, or s3://BUCKET/PREFIX/"
SHORTEST_PASSPHRASE = 8
MAIL_ADDRESS = r"[^\s,@<>]+@[^\s,@<>]+"
MAIL_ADDRESSES = rf"{MAIL_ADDRESS}(\s*,\s*{MAIL_ADDRESS})*"


@dataclass(frozen=True, slots=True)
class Allowed:
    """Stands in a setting's annotation and says in words what may be written, where its type does not tell.

    Where it has a pattern too, text has to match that as a whole.
    """

    words: str
    pattern: str | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Let pydantic check the pattern, so that the words are told where it does not match."""
        schema = handler(source)
        return schema if self.pattern is None else no_info_after_validator_function(self._match, schema)

    def _match(self, text: str | None) -> str | None:
        if text is not None and self.pattern is not None and not re.fullmatch(self.pattern, text):
            message = f"use {self.words}"
            raise ValueError(message)
        return text


@dataclass(frozen=True, slots=True, order=True)
class RateLimit:
    """At most `requests` in any `seconds`."""

    seconds: float
    requests: int

    def __str__(self) -> str:
        """Return the form in which the setting is written, `requests/seconds`."""
        return f"{self.requests}/{self.seconds:g}"


def parse_rate_limits(text: object) -> object:
    """Turn `50/1,500/60,2000/1800` into windows, the shortest first; anything but text passes unchanged."""
    if not isinstance(text, str):
        return text
    limits = []
    for part in text.split(","):
        requests, _, seconds = part.strip().partition("/")
        try:
            limit = RateLimit(seconds=float(seconds), requests=int(requests))
        except ValueError:
            message = f"'{part.strip()}' is not of the form requests/seconds, such as 50/1"
            raise ValueError(message) from None
        if limit.requests < 1 or not 0 < limit.seconds < math.inf:
            message = f"'{part.strip()}' allows nothing: both numbers must be above zero"
            raise ValueError(message)
        limits.append(limit)
    return tuple(sorted(limits))


def is_loopback(url: str) -> bool:
    """Say whether the address names this machine itself."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_data_path(place: str | None) -> str | None:
    """Accept where the files of a lake lie.

    Raises:
        ValueError: it is of another kind of object store, or names no bucket.
    """
    if place is not None and "://" in place and not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]+(/[^?#\s]*)?", place):
        message = f"use {DATA_PATH}"
        raise ValueError(message)
    return place


def check_api_url(url: str) -> str:
    """Accept an address of the API without its final slash: https, or plain http on this machine."""
    parts = _address(url, such_as=UPSTOX_API_URL)
    if parts.scheme not in {"http", "https"}:
        message = f"'{url}' is not an address such as {UPSTOX_API_URL}"
        raise ValueError(message)
    if parts.scheme == "http" and not is_loopback(url):
        message = f"'{url}' would send the token in the clear: use https (plain http is for this machine alone)"
        raise ValueError(message)
    return url.rstrip("/")


def check_receiver(url: str) -> str:
    """Accept what a receiver can listen at or a browser be sent to: https, or http on this machine with its port."""
    parts = _address(url, such_as=LOGIN_URL)
    if parts.port == 0:
        message = f"'{url}' is not an address such as {LOGIN_URL}"
        raise ValueError(message)
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(url)):
        message = f"'{url}' would carry a login in the clear: use https (plain http is for this machine alone)"
        raise ValueError(message)
    return url


def _address(url: str, *, such_as: str) -> SplitResult:
    """Take an address apart; it has a host, a port that can be one, and neither a name with password nor a query."""
    try:
        parts = urlsplit(url)
        fit = parts.hostname and (parts.port is None or parts.port >= 0)  # a port that is no number raises
    except ValueError:
        fit = False
    if not fit or parts.query or parts.fragment or parts.username or parts.password:
        message = f"'{url}' is not an address such as {such_as}"
        raise ValueError(message)
    return parts


def check_server(url: str) -> str:
    """Accept the address of a database of PostgreSQL, postgresql://USER@HOST:PORT/DATABASE, without a password."""
    try:
        parse_server(url)
        fit = url.startswith(("postgresql://", f"{SERVER_DRIVER}://"))
    except ValueError:
        fit = False
    if not fit:
        message = "use an address such as postgresql://USER@HOST:5432/DATABASE"
        raise ValueError(message)
    if without_password(url) != url:
        message = "no password may stand in an address, where others can read it: give it in PGPASSWORD or in ~/.pgpass"
        raise ValueError(message)
    return url


def parse_pins(text: object) -> object:
    """Turn `sha256/...,sha256/...` into hashes of public keys; anything but text passes unchanged."""
    if not isinstance(text, str):
        return text
    pins = tuple(part.strip() for part in text.split(","))
    for pin in pins:
        try:
            digest = base64.b64decode(pin.removeprefix("sha256/"), validate=True)
        except binascii.Error:
            digest = b""
        if not pin.startswith("sha256/") or len(digest) != hashlib.sha256().digest_size:
            message = f"'{pin}' is not of the form sha256/ and 44 characters of base64"
            raise ValueError(message)
    return pins


def check_webhook(url: SecretStr | None) -> SecretStr | None:
    """Accept an address to which alerts are posted: https, or http on this machine; it is never quoted."""
    if url is not None:
        try:
            parts = urlsplit(url.get_secret_value())
            fit = bool(parts.hostname) and (parts.port is None or parts.port > 0)  # a port that is no number raises
        except ValueError:
            fit = False
        if not fit or not (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.geturl()))):
            message = "use an https address, such as https://hooks.slack.com/services/... (http is for this machine)"
            raise ValueError(message)
    return url


def check_telegram_token(token: SecretStr | None) -> SecretStr | None:
    """Accept what @BotFather gives: a number, a colon, and a secret; it is never quoted."""
    if token is not None and not re.fullmatch(r"\d+:[\w-]+", token.get_secret_value(), re.ASCII):
        message = "use the token as @BotFather shows it, digits, a colon, and letters"
        raise ValueError(message)
    return token


def check_passphrase(passphrase: SecretStr | None) -> SecretStr | None:
    """Refuse a passphrase that is too short to be one, without showing it."""
    if passphrase is not None and len(passphrase.get_secret_value()) < SHORTEST_PASSPHRASE:
        message = f"a passphrase needs at least {SHORTEST_PASSPHRASE} characters"
        raise ValueError(message)
    return passphrase


def allowed(field: FieldInfo) -> str:
    """Say in words what may be written for a setting; the words fit behind "use"."""
    for item in field.metadata:
        if isinstance(item, Allowed):
            return item.words
    kind, choices = _kind(field.annotation), [str(choice) for choice in get_args(_kind(field.annotation))]
    if choices:
        return " or ".join(part for part in (", ".join(choices[:-1]), choices[-1]) if part)
    if kind is bool:
        return "on or off"
    if kind in {int, float}:
        return ("a whole number" if kind is int else "a number") + _bounds(field.metadata)
    return "a path" if kind is Path else "text"


def is_secret(field: FieldInfo) -> bool:
    """Say whether a setting must never be shown."""
    return _kind(field.annotation) is SecretStr


def is_path(field: FieldInfo) -> bool:
    """Say whether a setting names a file or folder."""
    return _kind(field.annotation) is Path


def _kind(annotation: Any) -> Any:
    """Return a type without `| None`; a `Literal` as it is."""
    if get_origin(annotation) in {Union, types.UnionType}:
        (annotation,) = (one for one in get_args(annotation) if one is not type(None))
    return annotation if get_origin(annotation) in {None, Literal} else get_origin(annotation)


def _bounds(metadata: list[Any]) -> str:
    bound = {name: getattr(item, name) for item in metadata for name in ("ge", "gt", "le") if hasattr(item, name)}
    low, above, high = (bound.get(name) for name in ("ge", "gt", "le"))
    if low is not None:
        return f" from {low:,} to {high:,}" if high is not None else f" of at least {low:,}"
    return " and ".join(
        words
        for words in (
            f" above {above:,}" if above is not None else "",
            f"at most {high:,}" if high is not None else "",
        )
        if words
    )
