"""From an HTTP answer that is no success to the one error of our tree that tells it best.

Reading the error envelope, recognising the pages of the content network (Cloudflare) in front of the API, and quoting
a body safely belong here. What a code means belongs to `error_codes.py`; decoding successes to `wire.py` and
`decode.py`.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import msgspec

from expirytrack_dagster.errors import EdgeBlocked, ExpiryTrackError, RateLimited
from expirytrack_dagster.upstox.error_codes import error_for

EXCERPT = 200
EDGE_BAN, EDGE_RATE_LIMIT = "CLOUDFLARE1010", "CLOUDFLARE1015"
EDGE_PAGE = "WEB_PAGE"
"""Codes of ours for what no Upstox code names; `WEB_PAGE` is any other page in place of the API's answer."""
_TAG = re.compile(rb"<(script|style)\b.*?</\1\s*>|<[^>]*>", re.DOTALL | re.IGNORECASE)
_EDGE_CODE = re.compile(rb"\b(1010|1015)\b")


class _Entry(msgspec.Struct):
    error_code: str | None = None
    errorCode: str | None = None  # noqa: N815  the API's older spelling of the same field
    message: str | None = None


class _Problem(msgspec.Struct):
    status: str | None = None
    errors: list[_Entry] | None = None


_PROBLEM = msgspec.json.Decoder(_Problem)


def excerpt(body: bytes) -> str:
    """Return the first 200 characters of a body or a part of it, control characters escaped, fit for one line."""
    text = body[: 4 * EXCERPT].decode("utf-8", errors="replace")[:EXCERPT]
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def is_html(body: bytes) -> bool:
    """Say whether a body is a web page; no JSON text can begin like one."""
    return body[:64].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")


def is_too_fast(error: ExpiryTrackError, status: int, code: str | None) -> bool:
    """Say whether an answer means "slow down": 429 in any form, UDAPI10005, or Cloudflare's 1015."""
    return isinstance(error, RateLimited) or status == HTTPStatus.TOO_MANY_REQUESTS or code == EDGE_RATE_LIMIT


def retry_after_seconds(value: str | None, now: float) -> float | None:
    """Read a Retry-After header, seconds or a date, as seconds from `now` (seconds since the epoch)."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:  # "-0000" in the header: UTC without saying so
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.fromtimestamp(now, UTC)).total_seconds())


def refusal(
    status: int, body: bytes, *, retry_after: float | None = None
) -> tuple[ExpiryTrackError, str | None] | None:
    """Return the error that an answer stands for and its code, or None if it is a success so far.

    Code and words are quoted as `excerpt` does, so that they fit sentences and databases whatever the API sends.
    A web page is never a success, whatever its status; nor is an error envelope with status 200. Whether a success
    has the right shape is for the decoders to say.
    """
    if is_html(body):
        return _edge_error(status, body)
    ok = HTTPStatus(200) <= status < HTTPStatus(300)
    if ok and b'"error"' not in body[:EXCERPT]:
        return None
    try:
        problem = _PROBLEM.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None if ok else (error_for(None, status, excerpt(body), retry_after=retry_after), None)
    if ok and problem.status != "error":
        return None
    for entry in problem.errors or []:
        if code := excerpt((entry.error_code or entry.errorCode or "").encode()):
            words = excerpt((entry.message or "").encode())
            return error_for(code, status, words, retry_after=retry_after), code
    return error_for(None, status, excerpt(body), retry_after=retry_after), None


def _edge_error(status: int, body: bytes) -> tuple[EdgeBlocked, str]:
    match = _EDGE_CODE.search(_TAG.sub(b" ", body)) if status != HTTPStatus.OK else None
    code = f"CLOUDFLARE{match[1].decode()}" if match else EDGE_PAGE
    if code == EDGE_BAN:
        words = "Cloudflare has banned the signature of this client (error 1010): try from another network or later"
    elif code == EDGE_RATE_LIMIT or status == HTTPStatus.TOO_MANY_REQUESTS:
        words = "Cloudflare limits the rate of this address (error 1015): wait, and lower EXPIRYTRACK_RATE_LIMITS"
    else:
        words = "A web page came instead of the API's answer (maintenance, a proxy or a sign-in page): try again later"
    return EdgeBlocked(f"{words}. HTTP {status}: {excerpt(body)}", status=status), code
