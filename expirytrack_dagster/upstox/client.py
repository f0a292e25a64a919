"""The HTTP client of the Upstox Expired Instruments API: four calls and the profile, typed.

Sending, the retries, and leaving one settled row in the ledger for every request belong here. Who gets the next slot
belongs to `coordinator.py`, how slots are counted to `ledger.py`, what an error means to `error_codes.py`, reading
bodies to `wire.py` and `decode.py`, and what to ask to `collect/`.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, get_args
from urllib.parse import quote, urlencode

import httpx
import pyarrow.compute as pc
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from expirytrack_dagster.errors import (
    CertificateRefused,
    ConfigurationError,
    EdgeBlocked,
    ExpiryTrackError,
    MalformedResponse,
    NetworkError,
    RateLimited,
    TokenRejected,
    TruncatedResponse,
)
from expirytrack_dagster.upstox.cache import kept_answers
from expirytrack_dagster.upstox.calls import Call, Endpoint, Receipt
from expirytrack_dagster.upstox.clock import Clock, SystemClock
from expirytrack_dagster.upstox.coordinator import Coordinator, Stage
from expirytrack_dagster.upstox.decode import decode_candles
from expirytrack_dagster.upstox.keys import ExpiredKey, check_underlying_key
from expirytrack_dagster.upstox.refusals import excerpt, is_too_fast, refusal, retry_after_seconds
from expirytrack_dagster.upstox.tokens import Bearer
from expirytrack_dagster.upstox.transport import open_http, redirected, unreached
from expirytrack_dagster.upstox.wire import Contract, Profile, decode_contracts, decode_expiries, decode_profile

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from datetime import date

    import pyarrow as pa

    from expirytrack_dagster.settings import Settings
    from expirytrack_dagster.upstox.ledger import Ledger

Interval = Literal["1minute", "3minute", "5minute", "15minute", "30minute", "day"]
"""The intervals that the API documents for expired contracts."""

MAX_BODY = 64 * 2**20
_LEASE_MARGIN = 5.0
_NOT_AGAIN = frozenset({301, 302, 303, 307, 308, 403, 429})  # redirects, bans and refusals of the edge
_ROOT = "/v2/expired-instruments"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Candles:
    """The candles of one answer, in the order received; columns as in `decode.CANDLES_SCHEMA`, `ts` in UTC."""

    table: pa.Table
    bytes: int
    attempts: int

    @property
    def first_ts(self) -> int | None:
        """The earliest bar's start in seconds since the epoch, None without candles."""
        return _epoch_seconds(pc.min(self.table["ts"]))

    @property
    def last_ts(self) -> int | None:
        """The latest bar's start in seconds since the epoch, None without candles."""
        return _epoch_seconds(pc.max(self.table["ts"]))


@dataclass(slots=True)
class _Answer:
    """A complete HTTP answer; `retry_after` is the server's wish in seconds."""

    status: int
    body: bytes
    retry_after: float | None


class UpstoxClient:
    """Asks the API within its limits; use it as an async context manager.

    Every request first takes a slot from the ledger, so any number of clients and processes may run at once. Timeouts,
    resets, 5xx and broken bodies are tried again `settings.max_retries` times with growing pauses; refusals for
    coming too fast pause all processes and do not use up a try; whatever the API refuses for good is raised at once.

    All calls raise the leaves of `errors.ExpiryTrackError`, among them `TokenMissing` and `TokenExpired` (both before
    anything is sent), `TokenRejected` and `PlanRequired` (about the account), `RequestRefused` and `DateRangeRefused`
    (about this request), `MalformedResponse`, and after the last try `NetworkError`, `ServerError`,
    `TruncatedResponse`, `EdgeBlocked` or `RateLimited`; `CircuitOpen` and `StateBusy` say that nobody can be asked
    now. Arguments are checked before anything is sent: `ConfigurationError` names the parameter.

    Args:
        settings: Address, account and where its token is, timeout, retries, pool size.
        ledger: The ledger that all processes of the account share.
        clock: Time and sleep for waits and pauses; the network's own timeouts use the event loop.
        run_id: Written into the ledger, so that a run's spending can be told.
        fresh: Ask the API even for what the answer cache holds; the new answer then takes the old one's place.
        transport: Replaces the network, for tests.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        *,
        clock: Clock | None = None,
        run_id: str | None = None,
        fresh: bool = False,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Prepare the connection pool; nothing is sent yet."""
        self._settings = settings
        self._clock = clock or SystemClock()
        self._coordinator = Coordinator(
            ledger,
            self._clock,
            {
                Stage.DISCOVERY: settings.discovery_workers,
                Stage.CONTRACTS: settings.contract_workers,
                Stage.CANDLES: settings.workers,
            },
            lease=settings.timeout + _LEASE_MARGIN,
            run_id=run_id,
        )
        self._cache = kept_answers(settings, self._clock)
        # One thread: several that contend for the cache's file cost more than waiting for a turn.
        self._cache_thread = ThreadPoolExecutor(1, "answer-cache")
        self._fresh = fresh
        self._bearer = Bearer(settings, self._clock, run_id)
        self._http = open_http(settings, transport)

    async def __aenter__(self) -> Self:
        """Return the client; connections open when they are needed."""
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Close the pool, and let the ledger come to rest."""
        await self._http.aclose()
        await self._coordinator.close()
        await asyncio.to_thread(self._cache_thread.shutdown)

    @property
    def waited(self) -> float:
        """Seconds during which the limits held this client back so far."""
        return self._coordinator.waited

    async def get_expiries(self, instrument_key: str) -> list[date]:
        """Return all expiries of an underlying that the API knows, ascending; an empty list is an answer too."""
        check_underlying_key(instrument_key)
        path = f"{_ROOT}/expiries?{_query(instrument_key=instrument_key)}"
        expiries, _, _ = await self._ask(Call("expiries", instrument_key), path, decode_expiries, _count)
        return expiries

    async def get_option_contracts(self, instrument_key: str, expiry_date: date) -> list[Contract]:
        """Return the option contracts of an underlying that expired on that day, in the order received."""
        return await self._contracts("option", instrument_key, expiry_date)

    async def get_future_contracts(self, instrument_key: str, expiry_date: date) -> list[Contract]:
        """Return the futures of an underlying that expired on that day: one on monthly expiries, else none."""
        return await self._contracts("future", instrument_key, expiry_date)

    async def get_historical_data(
        self, expired_key: str, interval: Interval, from_date: date, to_date: date
    ) -> Candles:
        """Return the candles of an expired contract, newest first as a rule (the API promises no order).

        Args:
            expired_key: `SEGMENT|token|DD-MM-YYYY`, as the contract lists name it.
            interval: Width of a bar.
            from_date: First day in Indian time, inclusive.
            to_date: Last day in Indian time, inclusive.
        """
        ExpiredKey.parse(expired_key)
        if interval not in get_args(Interval):
            raise ConfigurationError(f"interval {interval!r} is not one of {', '.join(get_args(Interval))}.")
        if from_date > to_date:
            raise ConfigurationError(f"from_date {from_date} is after to_date {to_date}.")
        path = f"{_ROOT}/historical-candle/{quote(expired_key, safe='')}/{interval}/{to_date}/{from_date}"
        params = {"interval": interval, "from": str(from_date), "to": str(to_date)}
        table, size, attempts = await self._ask(Call("candles", expired_key, params), path, decode_candles, _span)
        return Candles(table, size, attempts)

    async def get_profile(self) -> Profile:
        """Return the account behind the token: the cheapest way to learn whether the token is alive."""
        profile, _, _ = await self._ask(Call("profile"), "/v2/user/profile", decode_profile, lambda _: {"rows": 1})
        return profile

    async def _contracts(
        self, kind: Literal["option", "future"], instrument_key: str, expiry_date: date
    ) -> list[Contract]:
        check_underlying_key(instrument_key)
        endpoint: Endpoint = "option_contracts" if kind == "option" else "future_contracts"
        call = Call(endpoint, instrument_key, {"expiry": str(expiry_date)})
        path = f"{_ROOT}/{kind}/contract?{_query(instrument_key=instrument_key, expiry_date=str(expiry_date))}"
        contracts, _, _ = await self._ask(call, path, decode_contracts, _count)
        return contracts

    async def _ask(
        self, call: Call, path: str, decode: Callable[[bytes], T], measure: Callable[[T], dict[str, int | None]]
    ) -> tuple[T, int, int]:
        """Return the decoded answer, the size of its body and the number of the try that brought it, 0 if kept."""
        url = self._settings.api_url + path
        if not self._fresh and (kept := await self._kept(url)):
            with suppress(TruncatedResponse, MalformedResponse):  # kept by a version that was less strict
                return decode(kept), len(kept), 0
        await self._bearer.header()  # without a token, nobody needs to wait for a slot
        async for attempt in AsyncRetrying(
            sleep=self._clock.sleep,
            stop=stop_after_attempt(self._settings.max_retries + 1),
            wait=wait_exponential_jitter(initial=1, max=60, exp_base=self._settings.backoff_factor, jitter=1),
            retry=retry_if_exception(_is_worth_a_retry),
            reraise=True,
        ):
            with attempt:
                number = attempt.retry_state.attempt_number
                value, body = await self._attempt(call, path, number, decode, measure)
        return value, len(body), number

    async def _kept(self, url: str) -> bytes | None:
        if self._cache is None:
            return None
        return await asyncio.get_running_loop().run_in_executor(self._cache_thread, self._cache.get, url)

    def _keep(self, call: Call, path: str, body: bytes, rows: int) -> None:
        """Keep an answer in the background, so that what has arrived outlives a cancelled task."""
        if self._cache:
            self._cache_thread.submit(self._cache.put, call, self._settings.api_url + path, body, rows)

    async def _attempt(
        self,
        call: Call,
        path: str,
        number: int,
        decode: Callable[[bytes], T],
        measure: Callable[[T], dict[str, int | None]],
    ) -> tuple[T, bytes]:
        """Send one try; it is repeated after a refusal for coming too fast, which pauses everybody, or a new login."""
        while True:
            async with (
                self._coordinator.slot(call, number) as slot,
                self._headers(slot) as headers,
                self._settling(slot) as settle,
            ):
                answer = await self._exchange(path, headers, settle)
                refused = refusal(answer.status, answer.body, retry_after=answer.retry_after)
                if refused is None:
                    value = decode(answer.body)
                    measured = measure(value)
                    settle.update(measured, outcome="ok")
                    self._keep(call, path, answer.body, measured["rows"] or 0)
                    return value, answer.body
                error, code = refused
                settle.update(outcome="http_error", error_code=code)
            if isinstance(error, TokenRejected) and await self._bearer.was_replaced(headers):
                continue
            if not is_too_fast(error, answer.status, code):
                raise error
            if not await self._coordinator.refuse(slot, answer.retry_after, f"Upstox answered {answer.status}"):
                raise error

    @asynccontextmanager
    async def _headers(self, request_id: int) -> AsyncIterator[dict[str, str]]:
        """Give the headers of a request, or its slot back: the token may have died while it waited."""
        try:
            headers = await self._bearer.header()
        except BaseException:
            await self._coordinator.give_back(request_id)
            raise
        yield headers

    @asynccontextmanager
    async def _settling(self, request_id: int) -> AsyncIterator[dict[str, Any]]:
        """Leave a settled row whatever happens in the block, cancellation included."""
        receipt: dict[str, Any] = {"outcome": "abandoned"}
        try:
            yield receipt
        except (NetworkError, CertificateRefused):
            receipt["outcome"] = "network_error"
            raise
        except (TruncatedResponse, MalformedResponse):
            receipt["outcome"] = "malformed"
            raise
        finally:
            await self._coordinator.settle(request_id, Receipt(**receipt))

    async def _exchange(self, path: str, headers: dict[str, str], settle: dict[str, Any]) -> _Answer:
        """Send and read the whole body, noting in `settle` what is known as soon as it is known."""
        body = bytearray()
        answered = False
        try:
            async with (
                asyncio.timeout(self._settings.timeout),
                self._http.stream("GET", self._settings.api_url + path, headers=headers) as response,
            ):
                answered = True
                arrived = self._clock.now()
                settle.update(counted_at=arrived, status=response.status_code)
                if away := redirected(response):
                    settle["outcome"] = "http_error"
                    raise away
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > MAX_BODY:
                        raise MalformedResponse(f"The answer is larger than {MAX_BODY} bytes: {excerpt(bytes(body))}")
        except (TimeoutError, httpx.TimeoutException) as error:
            raise NetworkError(
                f"{self._settings.api_url} did not answer in full within {self._settings.timeout:g} s: "
                "check the connection, or raise EXPIRYTRACK_TIMEOUT."
            ) from error
        except (httpx.TransportError, httpx.DecodingError) as error:
            if answered:
                raise TruncatedResponse(f"The answer broke off ({error}): {excerpt(bytes(body))}") from error
            raise unreached(self._settings.api_url, error) from error
        finally:
            settle["bytes"] = len(body) if answered else None
        wish = retry_after_seconds(response.headers.get("Retry-After"), arrived)
        return _Answer(response.status_code, bytes(body), wish)


def _is_worth_a_retry(error: BaseException) -> bool:
    """Follow the tree, but never repeat what the edge or the limits refuse: asking again would make it worse."""
    if isinstance(error, EdgeBlocked):
        return error.status not in _NOT_AGAIN
    return isinstance(error, ExpiryTrackError) and error.retryable and not isinstance(error, RateLimited)


def _query(**parameters: str) -> str:
    return urlencode(parameters, quote_via=quote, safe="")


def _count(values: list[Any]) -> dict[str, int | None]:
    return {"rows": len(values)}


def _span(table: pa.Table) -> dict[str, int | None]:
    candles = Candles(table, 0, 0)
    return {"rows": table.num_rows, "first_ts": candles.first_ts, "last_ts": candles.last_ts}


def _epoch_seconds(moment: pa.Scalar) -> int | None:
    return None if moment.as_py() is None else moment.value // 1_000_000
