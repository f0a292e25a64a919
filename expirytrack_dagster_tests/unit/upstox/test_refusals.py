"""Errors of the API: every documented code, the two spellings, and web pages in place of answers."""

from __future__ import annotations

import orjson
import pytest

from expirytrack_dagster.errors import (
    AuthenticationError,
    DateRangeRefused,
    EdgeBlocked,
    ExpiryTrackError,
    PlanRequired,
    RateLimited,
    RequestRefused,
    ServerError,
    TokenRejected,
)
from expirytrack_dagster.upstox.error_codes import ERROR_CODES
from expirytrack_dagster.upstox.refusals import is_too_fast, refusal, retry_after_seconds

DOCUMENTED = [
    "UDAPI100011",
    "UDAPI1021",
    "UDAPI1009",
    "UDAPI1011",
    "UDAPI1015",
    "UDAPI1020",
    "UDAPI1022",
    "UDAPI1088",
    "UDAPI1148",
    "UDAPI100050",
    "UDAPI1149",
    "UDAPI100067",
    "UDAPI100060",
    "UDAPI10005",
    "UDAPI100500",
    "UDAPI10000",
    "UDAPI100015",
    "UDAPI100016",
    "UDAPI100036",
    "UDAPI100038",
    "UDAPI100073",
    "UDAPI100058",
    "UDAPI100057",
    "UDAPI100068",
    "UDAPI100069",
    "UDAPI1017",
    "UDAPI1018",
    "UDAPI1023",
    "UDAPI1024",
]
NEW, OLD = "error_code", "errorCode"


def envelope(code: str, spelling: str = NEW, message: str = "Upstox's words") -> bytes:
    """Write an error as the API does."""
    return orjson.dumps({"status": "error", "errors": [{spelling: code, "message": message}]})


def error_of(status: int, body: bytes) -> ExpiryTrackError:
    """Return the error of an answer that has one."""
    refused = refusal(status, body)
    assert refused is not None
    return refused[0]


def test_every_documented_code_has_a_sentence() -> None:
    """The table is complete, and each entry is one sentence."""
    assert set(ERROR_CODES) == set(DOCUMENTED)
    for _, sentence in ERROR_CODES.values():
        assert sentence.endswith(".")
        assert sentence.count(". ") == 0


@pytest.mark.parametrize("spelling", [NEW, OLD])
@pytest.mark.parametrize("code", DOCUMENTED)
def test_code_decides_and_is_shown(code: str, spelling: str) -> None:
    """Both spellings of the field are read, and the message names the code."""
    refused = refusal(400, envelope(code, spelling))
    assert refused is not None
    assert type(refused[0]) is ERROR_CODES[code][0]
    assert refused[1] == code
    assert code in str(refused[0])


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [(401, "UDAPI1149", PlanRequired), (403, "UDAPI1149", PlanRequired), (401, "UDAPI100050", TokenRejected),
     (400, "UDAPI1148", DateRangeRefused), (429, "UDAPI10005", RateLimited), (400, "X1", RequestRefused),
     (401, "X1", TokenRejected), (423, "X1", ServerError), (500, "X1", ServerError), (503, "X1", ServerError),
     (429, "X1", RateLimited), (302, "X1", RequestRefused), (200, "UDAPI100011", RequestRefused)],
)  # fmt: skip
def test_class_follows_code_then_status(status: int, code: str, kind: type[ExpiryTrackError]) -> None:
    """An undocumented code falls back on the status, with the API's own words."""
    error = error_of(status, envelope(code))
    assert type(error) is kind
    if code == "X1":
        assert "Upstox's words" in str(error)
        assert "X1" in str(error)
    if isinstance(error, RequestRefused):
        assert (error.status, error.code) == (status, code)


@pytest.mark.parametrize("body", [b"", b"Bad gateway", b"[]", b'{"errors":5}', b"\xff"])
def test_errors_without_an_envelope_use_the_status(body: bytes) -> None:
    """Whatever the body, a 502 is a server error and a 401 an authentication error."""
    assert isinstance(error_of(502, body), ServerError)
    assert isinstance(error_of(401, body), AuthenticationError)


def test_long_foreign_messages_are_cut() -> None:
    """An unknown message is quoted with 200 characters at most, on one line."""
    text = str(error_of(400, envelope("X1", message="a\nb" + "x" * 5000)))
    assert "a\\nb" in text
    assert len(text) < 350


def test_a_foreign_code_is_one_line_that_any_database_can_keep() -> None:
    """It goes into the ledger and into sentences, whatever signs it has and however long it is."""
    for code, kept in (("UDAPI\0001\n", "UDAPI\\x001\\n"), ("X" * 5000, "X" * 200)):
        refused = refusal(400, envelope(code))
        assert refused is not None
        assert refused[1] == kept
        assert isinstance(refused[0], RequestRefused)
        assert refused[0].code == kept
        assert kept in str(refused[0])


def test_successes_are_no_refusals() -> None:
    """A success, even one that mentions the word error, is left to the decoders."""
    assert refusal(200, b'{"status":"success","data":[]}') is None
    assert refusal(200, b'{"status":"success","data":["error"]}') is None
    assert refusal(200, b"cut off") is None


PAGE = "<!DOCTYPE html>\n<html><head><script>x='1015 1010'</script></head><body>%s</body></html>"


@pytest.mark.parametrize(
    ("status", "text", "words", "too_fast"),
    [(403, "Error <b>1010</b> Access denied", "error 1010", False), (429, "Error 1015", "error 1015", True),
     (403, "Error <span>1015</span>", "error 1015", True), (429, "slow down", "error 1015", True),
     (503, "maintenance", "web page", False), (200, "Error 1015, sign in", "web page", False)],
)  # fmt: skip
def test_web_pages_are_recognised(status: int, text: str, words: str, too_fast: bool) -> None:  # noqa: FBT001  a table
    """Cloudflare's pages by their number, other pages as pages; numbers in scripts do not count."""
    refused = refusal(status, (PAGE % text).encode())
    assert refused is not None
    error, code = refused
    assert isinstance(error, EdgeBlocked)
    assert error.status == status
    assert words in str(error)
    assert "<!DOCTYPE html>\\n" in str(error)
    assert is_too_fast(error, status, code) is too_fast


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(None, None), ("7", 7.0), (" 7 ", 7.0), ("soon", None), ("-5", None), ("Thu, 01 Jan 1970 00:20:00 GMT", 200.0),
     ("Thu, 01 Jan 1970 00:20:00 -0000", 200.0), ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0)],
)  # fmt: skip
def test_retry_after_is_read(value: str | None, seconds: float | None) -> None:
    """Seconds and dates; nonsense is as if the header were absent."""
    assert retry_after_seconds(value, now=1000.0) == seconds
