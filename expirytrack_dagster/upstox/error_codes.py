"""What each documented error code of Upstox means to us: a class of our tree and one sentence that says what to do.

Only the table and its lookup belong here; reading an answer belongs to `refusals.py`. Sources: Upstox's error-code
pages and the error lists of its OpenAPI operations.
"""

from __future__ import annotations

from http import HTTPStatus

from expirytrack_dagster.errors import (
    DateRangeRefused,
    ExpiryTrackError,
    PlanRequired,
    RateLimited,
    RequestRefused,
    ServerError,
    TokenRejected,
)

_LOGIN = "run `expirytrack login`, or paste today's token into EXPIRYTRACK_ACCESS_TOKEN"
_DEFECT = "this is a defect of ExpiryTrack or a change of the API: report it with this message"

ERROR_CODES: dict[str, tuple[type[ExpiryTrackError], str]] = {
    # About one request
    "UDAPI100011": (RequestRefused, "Upstox does not know this instrument key: check the symbol or the key."),
    "UDAPI1021": (
        RequestRefused,
        "Upstox finds the key of the contract badly formed: it must be SEGMENT|token|DD-MM-YYYY.",
    ),
    "UDAPI1009": (RequestRefused, f"Upstox misses the instrument key: {_DEFECT}."),
    "UDAPI1011": (RequestRefused, "Upstox finds the instrument key badly formed: it must be like NSE_INDEX|Nifty 50."),
    "UDAPI1015": (RequestRefused, "Upstox wants a first day that is not after the last day: correct the dates."),
    "UDAPI1020": (
        RequestRefused,
        "Upstox does not offer this interval: use 1minute, 3minute, 5minute, 15minute, 30minute or day.",
    ),
    "UDAPI1022": (RequestRefused, f"Upstox misses the last day, or the code of a login: {_DEFECT}."),
    "UDAPI1088": (RequestRefused, "Upstox finds the expiry date invalid: take it from the list of expiries."),
    "UDAPI1148": (DateRangeRefused, "Upstox does not serve so many days at once: ask for a shorter range."),
    "UDAPI100036": (RequestRefused, f"Upstox finds the input invalid: {_DEFECT}."),
    "UDAPI100038": (RequestRefused, f"Upstox finds the input invalid: {_DEFECT}."),
    "UDAPI10000": (
        RequestRefused,
        "Upstox does not support this request: check that EXPIRYTRACK_API_URL is its true address.",
    ),
    "UDAPI100015": (RequestRefused, f"Upstox wants another version of the API: {_DEFECT}."),
    "UDAPI100060": (RequestRefused, "Upstox has no such route: check that EXPIRYTRACK_API_URL is its true address."),
    # About the account
    "UDAPI100050": (TokenRejected, f"The access token is wrong or has expired (they die at 03:30 IST): {_LOGIN}."),
    "UDAPI1149": (
        PlanRequired,
        "Expired instruments need an Upstox Plus plan: activate it in your Upstox account, then log in again.",
    ),
    "UDAPI100067": (TokenRejected, f"An extended token may not do this, an ordinary one may: {_LOGIN}."),
    "UDAPI100016": (
        TokenRejected,
        "Upstox does not accept the credentials of the app: check its key and secret, then log in again.",
    ),
    "UDAPI100058": (
        TokenRejected,
        "The account has no active segment: activate one in your Upstox account, then log in again.",
    ),
    "UDAPI100073": (TokenRejected, "The app is inactive: activate it on the Upstox developer page, then log in again."),
    # About logging in
    "UDAPI100057": (
        TokenRejected,
        "The code of the login is wrong, used up or too old: log in again, it works only once.",
    ),
    "UDAPI100068": (
        TokenRejected,
        "The app's key or its redirect address is wrong: copy both from the Upstox developer page.",
    ),
    "UDAPI100069": (
        TokenRejected,
        "The app's key and secret do not belong together: copy both from the Upstox developer page.",
    ),
    "UDAPI1017": (TokenRejected, "The app's key is missing: set it as the Upstox developer page shows it."),
    "UDAPI1018": (TokenRejected, "The redirect address is missing: set it as the Upstox developer page shows it."),
    "UDAPI1023": (TokenRejected, f"The kind of the login is missing: {_DEFECT}."),
    "UDAPI1024": (TokenRejected, "The app's secret is missing: set it as the Upstox developer page shows it."),
    # About the API itself
    "UDAPI10005": (
        RateLimited,
        "Upstox refuses because of too many requests: wait for half an hour, and check EXPIRYTRACK_RATE_LIMITS.",
    ),
    "UDAPI100500": (ServerError, "Something went wrong inside Upstox: try again later."),
}


def error_for(code: str | None, status: int, message: str, *, retry_after: float | None = None) -> ExpiryTrackError:
    """Return the error for an answer that is no success.

    Args:
        code: Upstox's code, if the answer carried one. It decides before the status does, because the status of
            some codes differs between reports (UDAPI1149 is a 401, not a 403).
        status: HTTP status.
        message: Upstox's own words, used when the code is not documented.
        retry_after: Seconds that the server wishes us to wait, if it said so.
    """
    kind, sentence = ERROR_CODES.get(code or "", (None, ""))
    if kind is None:
        kind = _kind_of_status(status)
        words = f": {message}" if message else ""
        sentence = f"Upstox answered {status}{f' {code}' if code else ''}{words}. {_advice(kind)}"
    else:
        sentence = f"{sentence} ({code})"
    if issubclass(kind, RateLimited):
        return kind(sentence, retry_after=retry_after)
    if issubclass(kind, ServerError):
        return kind(sentence, status=status)
    if issubclass(kind, RequestRefused):
        return kind(sentence, status=status, code=code)
    return kind(sentence)


def _kind_of_status(status: int) -> type[ExpiryTrackError]:
    if status == HTTPStatus.UNAUTHORIZED:
        return TokenRejected
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return RateLimited
    if status == HTTPStatus.LOCKED or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return ServerError
    return RequestRefused


def _advice(kind: type[ExpiryTrackError]) -> str:
    if issubclass(kind, TokenRejected):
        return f"{_LOGIN[0].upper()}{_LOGIN[1:]}."
    if issubclass(kind, RequestRefused):
        return "The same request will be refused again."
    return "Try again later."
