"""What `expirytrack doctor` learns from the API with one request: reachability, clock, token, plan.

The request takes a slot of the ledger like any other; where there is none at once, nothing is asked. A list of expiries
is asked for, because it alone tells all four: an account without the Plus plan is refused it. Without a usable token it
is asked all the same, without one: the refusal still tells the time.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING

import httpx

from expirytrack_dagster.collect.tracking import tracked
from expirytrack_dagster.errors import (
    AuthenticationError,
    EdgeBlocked,
    ExpiryTrackError,
    MalformedResponse,
    NetworkError,
    PlanRequired,
    ServerError,
    TruncatedResponse,
)
from expirytrack_dagster.observe.doctor import PATIENCE, Line, isolated, ok, require_sound_state
from expirytrack_dagster.state import open_state
from expirytrack_dagster.upstox.calls import Call, Receipt
from expirytrack_dagster.upstox.clock import SystemClock
from expirytrack_dagster.upstox.ledger import Wait, open_ledger
from expirytrack_dagster.upstox.refusals import refusal
from expirytrack_dagster.upstox.tokens import get_valid_token, login_command, token_state
from expirytrack_dagster.upstox.transport import open_http, redirected, unreached
from expirytrack_dagster.upstox.wire import decode_expiries

if TYPE_CHECKING:
    from expirytrack_dagster.settings import Settings
    from expirytrack_dagster.upstox.clock import Clock
    from expirytrack_dagster.upstox.tokens import TokenState

ANYTHING = "NSE_INDEX|Nifty 50"
"""What is asked about where nothing is tracked yet."""
LONGEST_WAIT = 10.0
"""Seconds to wait for the answer."""

AHEAD_A_LITTLE, AHEAD = 5.0, 60.0
"""Seconds by which a clock may be wrong before that is a warning, and a failure: tokens and windows go by it."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What one request brought.

    `ahead` are seconds by which this machine's clock is ahead of the API's; `error` is what the answer stands for, None
    where the list came; `requests` how many were sent, and `unasked` why none was.
    """

    requests: int = 0
    ahead: float | None = None
    error: ExpiryTrackError | None = None
    unasked: str | None = None


@dataclass(frozen=True, slots=True)
class Visit:
    """The lines about the API, and how many requests they cost."""

    lines: list[Line]
    requests: int


def visit(settings: Settings, clock: Clock | None = None) -> Visit:
    """Ask once and say what that tells; nothing is raised, and nothing waited for longer than an answer."""
    clock = clock or SystemClock()
    quick = settings.model_copy(
        update={
            "lock_timeout": min(settings.lock_timeout, PATIENCE),
            "timeout": min(settings.timeout, LONGEST_WAIT),
        }
    )
    token = token_state(quick, datetime.fromtimestamp(clock.now(), UTC))
    asked = Asked()

    def ask_once() -> list[Line]:
        nonlocal asked
        require_sound_state(quick)
        asked = asyncio.run(_ask(quick, token, clock))
        return [_reachability(quick, asked), _clock_line(asked)]

    lines = isolated("reachability", ask_once)
    lines += isolated("token", lambda: [_token(quick, token, asked)])
    lines += isolated("plan", lambda: [_plan(token, asked)])
    return Visit(lines, asked.requests)


async def _ask(settings: Settings, token: TokenState, clock: Clock) -> Asked:
    names = tracked(open_state(settings, timeout=PATIENCE))
    key = names[0].instrument_key if names else ANYTHING
    ledger = open_ledger(settings, clock)
    taken = ledger.acquire(Call("expiries", key), lease=settings.timeout)
    if isinstance(taken, Wait):
        return Asked(unasked=f"The limits have no room for a request for {taken.seconds:.0f} s ({taken.reason}).")
    receipt = Receipt("abandoned")
    try:
        receipt, asked = await _exchange(settings, token, clock, key)
    finally:
        ledger.settle(taken, receipt)
    return asked


async def _exchange(settings: Settings, token: TokenState, clock: Clock, key: str) -> tuple[Receipt, Asked]:
    headers = {}
    if token.usable:
        secret = get_valid_token(settings, datetime.fromtimestamp(clock.now(), UTC)).secret
        headers = {"Authorization": f"Bearer {secret.get_secret_value()}"}
    url = f"{settings.api_url}/v2/expired-instruments/expiries"
    sent = clock.now()
    try:
        async with open_http(settings) as http:
            response = await http.get(url, params={"instrument_key": key}, headers=headers)
    except httpx.TimeoutException:
        silent = NetworkError(f"{settings.api_url} did not answer within {settings.timeout:g} s.")
        return Receipt("network_error"), Asked(1, error=silent)
    except (httpx.TransportError, httpx.DecodingError) as failure:
        return Receipt("network_error"), Asked(1, error=unreached(settings.api_url, failure))
    arrived = clock.now()
    ahead = _ahead(response.headers.get("Date"), (sent + arrived) / 2)
    error, code = _meaning(response)
    if not token.usable and response.status_code == HTTPStatus.UNAUTHORIZED:
        # Nobody was refused: what the sensors take for a refused token must not come from here.
        return Receipt("abandoned", arrived, response.status_code), Asked(1, ahead)
    outcome = "ok" if error is None else "malformed" if isinstance(error, MalformedResponse) else "http_error"
    return Receipt(outcome, arrived, response.status_code, code, len(response.content)), Asked(1, ahead, error)  # type: ignore[arg-type]


def _meaning(response: httpx.Response) -> tuple[ExpiryTrackError | None, str | None]:
    """Return the error that an answer stands for and its code, None where it is the list."""
    if away := redirected(response):
        return away, None
    if refused := refusal(response.status_code, response.content):
        return refused
    try:
        decode_expiries(response.content)
    except (MalformedResponse, TruncatedResponse) as error:
        return error, None
    return None, None


def _ahead(date: str | None, here: float) -> float | None:
    """Compare the moment of an answer with its Date header, which has whole seconds."""
    try:
        there = parsedate_to_datetime(date or "")
    except ValueError:
        return None
    return here - (there if there.tzinfo else there.replace(tzinfo=UTC)).timestamp() - 0.5


def _reachability(settings: Settings, asked: Asked) -> Line:
    host = settings.api_url
    if asked.unasked is not None:
        return Line("reachability", "warn", f"{asked.unasked}", "Run this again later.")
    if isinstance(asked.error, (ServerError, TruncatedResponse)):
        return Line(
            "reachability", "fail", str(asked.error), "Upstox has an outage: wait, it is tried again by itself."
        )
    if isinstance(asked.error, (NetworkError, EdgeBlocked, MalformedResponse)) or (
        asked.error is not None and not asked.requests
    ):
        return Line(
            "reachability",
            "fail",
            str(asked.error),
            "Check the connection, EXPIRYTRACK_API_URL and the proxy (HTTPS_PROXY) or gateway on the way.",
        )
    return ok("reachability", f"{host} answers.")


def _clock_line(asked: Asked) -> Line:
    if asked.ahead is None:
        why = "no answer" if asked.error or asked.unasked else "its answer has no Date"
        return Line("clock", "warn", f"The API's time is not known: {why}.", "Mend what is said of reachability.")
    seconds = abs(asked.ahead)
    if seconds <= AHEAD_A_LITTLE:
        return ok("clock", "This machine's clock agrees with the API's.")
    side = "ahead of" if asked.ahead > 0 else "behind"
    return Line(
        "clock",
        "fail" if seconds > AHEAD else "warn",
        f"This machine's clock is {seconds:,.0f} s {side} the API's.",
        "Let the system set its time (timedatectl set-ntp true; on Windows: w32tm /resync).",
    )


def _token(settings: Settings, token: TokenState, asked: Asked) -> Line:
    login = f"Run: {login_command(token.account).strip('`')}"
    if not token.usable:
        return Line("token", "fail", token.sentence, login, 4)
    if isinstance(asked.error, AuthenticationError) and not isinstance(asked.error, PlanRequired):
        return Line("token", "fail", str(asked.error), login, 4)
    if not token.lasts(settings.token_warning_minutes * 60):
        return Line("token", "warn", token.sentence, f"{login} after 03:30 IST")
    return ok("token", token.sentence)


def _plan(token: TokenState, asked: Asked) -> Line:
    if isinstance(asked.error, PlanRequired):
        mend = "Take out the Upstox Plus plan, then log in again: only it has expired contracts."
        return Line("plan", "fail", str(asked.error), mend, 4)
    if token.usable and asked.requests and asked.error is None:
        return ok("plan", "The account may ask for expired contracts.")
    return Line("plan", "warn", "Not known, because the API gave no list.", "Mend what is said above.")
