"""The HTTP side of the sandbox: routes, the order of the checks, limits, faults, and what tests may look at.

Belongs here: which answer a request gets. Formats are in `wire.py`, parameters in `asking.py`, data in the markets.

A request is checked as docs/upstox-api.md lists it: route (404), token (401), limits (429), form (400), plan
(401), key (400), range (400). It counts in its token's windows when it has arrived with a good token, whatever its
answer; the content network's faults come before that and do not count. The instruments master is public and does not
count either, nor do the requests of a login (`login.py`).

For tests, outside of Upstox's paths, uncounted and without a token:

- `GET /_sandbox/stats`: requests by endpoint, answers by status ("reset" for a reset connection), violations (requests
  refused for a full window), and for each limit the most arrivals in any window.
- `GET /_sandbox/requests`: arrival (epoch seconds), endpoint, path with query as sent, status; in order of the answers.
- `GET /_sandbox/planted`: every planted row, see `planting.py`.
- `POST /_sandbox/switches`: set the named switches; the answer is all of them.
"""

from __future__ import annotations

import asyncio
import math
import time
import zlib
from collections import Counter
from datetime import date, timedelta
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qsl

import msgspec
import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.routing import Route

from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.sandbox import asking, wire
from expirytrack_dagster.sandbox.bars import filled
from expirytrack_dagster.sandbox.limits import Limiter
from expirytrack_dagster.sandbox.login import LoginDesk
from expirytrack_dagster.sandbox.market import expiry_of
from expirytrack_dagster.sandbox.planting import Planted, PlantedMarket
from expirytrack_dagster.sandbox.switches import FaultCounter, Switches, changed
from expirytrack_dagster.sandbox.tokens import Authority
from expirytrack_dagster.settings import INSTRUMENTS_PATH, RateLimit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from expirytrack_dagster.sandbox.bars import Bars
    from expirytrack_dagster.sandbox.market import Market

UPSTOX_LIMITS = (RateLimit(1, 50), RateLimit(60, 500), RateLimit(1800, 2000))
EXPIRED = "/v2/expired-instruments"
CANDLES = f"{EXPIRED}/historical-candle/"
QUERIES = {
    "expiries": f"{EXPIRED}/expiries",
    "option_contracts": f"{EXPIRED}/option/contract",
    "future_contracts": f"{EXPIRED}/future/contract",
}
SIX_MONTHS = 183  # days
EVERY_TENTH = 10
RESET = "reset"

NOT_FOUND = wire.Refusal(404, "UDAPI100060", "Resource not Found.")
LIMIT = wire.Refusal(429, "UDAPI10005", "Too Many Request Sent")
PLAN = wire.Refusal(401, "UDAPI1149", "This API is available exclusively with an Upstox Plus plan subscription")
KEY = wire.Refusal(400, "UDAPI100011", "Invalid Instrument key")
RANGE = wire.Refusal(400, "UDAPI1148", "Invalid date range")
FAULTS = {
    refusal.status: refusal
    for refusal in (
        KEY,
        wire.BAD_TOKEN,
        wire.Refusal(403, "UDAPI100067", "The API you are trying to access is not permitted with an extended_token"),
        wire.Refusal(423, "UDAPI100423", "The service is locked at this time"),  # the real code is not known
        LIMIT,
        wire.Refusal(500, "UDAPI100500", "Something went wrong... please contact us"),
        wire.Refusal(503, "UDAPI100503", "The service is under maintenance"),  # the real code is not known
    )
}
PAGES = {
    "cloudflare_1010": (403, wire.page("Error 1010", "The owner of this website has banned your browser. Cloudflare")),
    "cloudflare_1015": (429, wire.page("Error 1015", "You are being rate limited. Cloudflare")),
    "html": (200, wire.page("Upstox", "We will be back soon.")),
}


class Logged(NamedTuple):
    """One request: epoch seconds of its arrival, endpoint, path and query as sent, status ("reset" for none)."""

    arrived: float
    endpoint: str
    path: str
    status: int | str


class Sandbox:
    """One local Upstox as an ASGI application.

    Args:
        market: where the data come from.
        limits: windows of the rate limiter; none means that nothing is refused.
        switches: how it behaves.
        tokens: the only tokens that it takes beside those of its own logins; any non-empty one by default.
        clock: steady seconds, on which arrivals are counted.
        wall: epoch seconds, by which codes and tokens live; `Switches.ahead` is added.
    """

    def __init__(
        self,
        market: Market,
        *,
        limits: Sequence[RateLimit] = UPSTOX_LIMITS,
        switches: Switches | None = None,
        tokens: Collection[str] = (),
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Build the routes."""
        self.market = market
        self.limiter = Limiter(limits)
        self.log: list[Logged] = []
        # Set by the host, which alone knows the sockets: cuts the connection of a request.
        self.cut: Callable[[Scope], None] = lambda _: None
        self._tokens = frozenset(tokens)
        self._token_uses: Counter[str] = Counter()
        self._clock = clock
        self._epoch = time.time() - clock()
        self._random = np.random.default_rng(0)
        self.set_switches(switches or Switches())
        self._authority = Authority(lambda: wall() + self.switches.ahead)
        desk = LoginDesk(
            self._authority,
            lambda: self.switches,
            _refused,
            lambda request, endpoint, response: self._logged(request, endpoint, self._clock(), response),
        )
        api = [Route(path, self._listing(endpoint), methods=["GET"]) for endpoint, path in QUERIES.items()]
        self._app = Starlette(
            routes=[
                *api,
                Route(CANDLES + "{rest:path}", self._candles, methods=["GET"]),
                Route("/v2/user/profile", self._profile, methods=["GET"]),
                *desk.routes(),
                Route(INSTRUMENTS_PATH, self._instruments, methods=["GET"]),
                Route("/_sandbox/stats", self._looked_at(self.stats), methods=["GET"]),
                Route("/_sandbox/requests", self._looked_at(lambda: self.log), methods=["GET"]),
                Route("/_sandbox/planted", self._looked_at(self.planted), methods=["GET"]),
                Route("/_sandbox/switches", self._switch, methods=["POST"]),
            ],
            # A known path with another method is as unknown as any other path.
            exception_handlers={404: self._unknown, 405: self._unknown},
        )
        self._app.router.redirect_slashes = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        await self._app(scope, receive, send)

    def set_switches(self, switches: Switches) -> None:
        """Set all switches; the counts of the faults start anew.

        Raises:
            ConfigurationError: a contract to plant in is unknown or has too few candles.
        """
        self._market = PlantedMarket(self.market, switches.planted)
        self._faults = FaultCounter(switches.faults)
        self.switches = switches

    def planted(self) -> list[Planted]:
        """Return every planted row as it is served."""
        return self._market.planted()

    def stats(self) -> dict[str, object]:
        """Return the counts of `/_sandbox/stats`."""
        return {
            "requests": dict(Counter(entry.endpoint for entry in self.log)),
            "statuses": dict(Counter(str(entry.status) for entry in self.log)),
            "violations": self.limiter.violations,
            "max_in_window": self.limiter.most_in_any_window(),
        }

    def _listing(self, endpoint: str) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            # parse_qsl turns both + and %20 into a space, which Upstox's clients send.
            query = dict(parse_qsl(request.scope["query_string"].decode("latin-1"), keep_blank_values=True))
            asked = asking.contracts(query, dated=endpoint != "expiries")
            return await self._api(request, endpoint, query.get("instrument_key", ""), asked)

        return answer

    async def _candles(self, request: Request) -> Response:
        segments = asking.split_path(request.scope["raw_path"], CANDLES)
        if segments is None:
            return await self._unknown(request, None)
        return await self._api(request, "candles", segments[0], asking.candles(segments))

    async def _profile(self, request: Request) -> Response:
        token = wire.bearer(request.headers.get("authorization", ""))
        return await self._api(request, "profile", "", self._authority.user_of(token) or self.switches.app.user_id)

    async def _instruments(self, request: Request) -> Response:
        body = await run_in_threadpool(self.market.instruments_master)
        return self._logged(request, "instruments", self._clock(), Response(body, media_type="application/gzip"))

    async def _unknown(self, request: Request, _: Exception | None) -> Response:
        response = _refused(NOT_FOUND)
        if not request.url.path.startswith("/_sandbox"):
            self._logged(request, "unknown", self._clock(), response)
        return response

    async def _api(
        self,
        request: Request,
        endpoint: str,
        target: str,
        asked: asking.Contracts | asking.Candles | wire.Refusal | str,
    ) -> Response:
        """Answer a request of the API's own paths: delays, the answer, the log."""
        await self._delay(self.switches.delay_before)
        arrived = self._clock()
        kind = self._faults.pick(endpoint, target, edge=True)
        response: Response | None
        if kind in PAGES:
            response = _page(kind)
        else:
            response = self._admitted(request, endpoint, arrived) or await self._answered(endpoint, target, asked)
        await self._delay(self.switches.delay_after)
        if response is None:
            self.cut(request.scope)
            while (await request.receive())["type"] != "http.disconnect":
                pass
            response = Response()
            response.status_code = 0
        return self._logged(request, endpoint, arrived, response)

    def _admitted(self, request: Request, endpoint: str, arrived: float) -> Response | None:
        """Check the token and the limits; None means that the request may go on."""
        token = wire.bearer(request.headers.get("authorization", ""))
        taken = not self._tokens or token in self._tokens or self._authority.issued(token)
        if not token or not taken or self._authority.is_dead(token):
            return _refused(wire.BAD_TOKEN)
        self._token_uses[token] += 1
        if self.switches.token_life is not None and self._token_uses[token] > self.switches.token_life:
            return _refused(wire.BAD_TOKEN)
        user = self._authority.user_of(token) or token  # a new token of the day begins no new window
        key = user if self.switches.limit_scope == "account" else f"{user} {endpoint}"
        wait = self.limiter.admit(key, arrived, count_refused=self.switches.count_refused)
        return _refused(LIMIT, retry_after=wait if self.switches.retry_after else None) if wait else None

    async def _answered(
        self, endpoint: str, target: str, asked: asking.Contracts | asking.Candles | wire.Refusal | str
    ) -> Response | None:
        """Answer an admitted request, spoilt if a fault hits it; None means that the connection is to be reset."""
        kind = self._faults.pick(endpoint, target, edge=False)
        if kind == RESET:
            return None
        if kind in FAULTS:
            return _refused(FAULTS[kind])
        if kind in PAGES:
            return _page(kind)
        if isinstance(asked, wire.Refusal):
            return _refused(asked)
        body = await run_in_threadpool(self._body, endpoint, asked)
        if isinstance(body, wire.Refusal):
            return _refused(body)
        if kind == "empty":
            body = wire.NO_CANDLES if endpoint == "candles" else wire.NO_DATA
        elif kind == "wrong_shape":
            body = wire.WRONG_SHAPE
        elif kind == "truncate":
            body = body[: len(body) // 2]
        return Response(body, media_type="application/json")

    def _body(self, endpoint: str, asked: asking.Contracts | asking.Candles | str) -> bytes | wire.Refusal:
        """Return the good answer to a well-formed request, or why there is none; a profile is asked by its user."""
        if isinstance(asked, str):
            return wire.success(wire.PROFILE | {"user_id": asked})
        if not self.switches.plus:
            return PLAN
        if isinstance(asked, asking.Candles):
            return self._candle_body(asked)
        if asked.expiry is None:
            expiries = self._market.expiries(asked.key)
            return KEY if expiries is None else wire.success([day for day in expiries if self._reaches(day)])
        find = self._market.option_contracts if endpoint == "option_contracts" else self._market.future_contracts
        rows = find(asked.key, asked.expiry)
        return KEY if rows is None else wire.success(rows if self._reaches(asked.expiry) else [])

    def _candle_body(self, asked: asking.Candles) -> bytes | wire.Refusal:
        switches, from_date = self.switches, asked.from_date
        if switches.newest_days is not None and asked.interval != "day":
            from_date = max(from_date, asked.to_date - timedelta(days=switches.newest_days - 1))
        bars = self._market.candles(asked.key, asked.interval, from_date, asked.to_date)
        if bars is None or not self._reaches(expiry_of(asked.key)):
            return KEY
        if switches.range_cap is not None and (asked.to_date - asked.from_date).days >= switches.range_cap:
            return RANGE
        return wire.candles(self._arranged(bars, asked))

    def _arranged(self, bars: Bars, asked: asking.Candles) -> Bars:
        """Put the candles in the order of the answer: newest first, unless switched otherwise."""
        if self.switches.zero_volume:
            bars = filled(bars, asked.interval)
        order = np.arange(len(bars))[::-1]
        if self.switches.duplicated:
            order = np.repeat(order, np.where(np.arange(len(bars)) % EVERY_TENTH == 0, 2, 1))
        if self.switches.shuffled:
            order = np.random.default_rng(zlib.crc32(asked.key.encode())).permutation(order)
        return bars.take(order)

    def _reaches(self, expiry: date) -> bool:
        """Say whether an expiry is recent enough for the depth that is switched on."""
        return self.switches.depth == "floor" or expiry >= self._market.today - timedelta(days=SIX_MONTHS)

    async def _delay(self, bounds: tuple[float, float]) -> None:
        if bounds[1] > 0:
            await asyncio.sleep(self._random.uniform(*bounds))

    def _logged(self, request: Request, endpoint: str, arrived: float, response: Response) -> Response:
        query = request.scope["query_string"].decode("latin-1")
        path = request.scope["raw_path"].decode("latin-1") + (f"?{query}" if query else "")
        self.log.append(Logged(self._epoch + arrived, endpoint, path, response.status_code or RESET))
        return response

    def _looked_at(self, look: Callable[[], object]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(_: Request) -> Response:
            return Response(msgspec.json.encode(await run_in_threadpool(look)), media_type="application/json")

        return answer

    async def _switch(self, request: Request) -> Response:
        try:
            switches = changed(self.switches, await request.body())
            await run_in_threadpool(self.set_switches, switches)
        except ConfigurationError as error:
            return Response(wire.Refusal(400, "SANDBOX", str(error)).body(), 400, media_type="application/json")
        return Response(msgspec.json.encode(switches), media_type="application/json")


def _refused(refusal: wire.Refusal, *, retry_after: float | None = None) -> Response:
    headers = {} if retry_after is None else {"Retry-After": str(math.ceil(retry_after))}
    return Response(refusal.body(), refusal.status, headers, media_type="application/json")


def _page(kind: str) -> Response:
    status, body = PAGES[kind]
    return Response(body, status, media_type="text/html")
