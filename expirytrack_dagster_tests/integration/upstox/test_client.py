"""The client against a real HTTP server of this machine: calls, encoding, retries, refusals, and the ledger's rows."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import threading
from base64 import urlsafe_b64encode
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import orjson
import pytest
from pydantic import SecretStr

from expirytrack_dagster.errors import (
    ConfigurationError,
    DateRangeRefused,
    EdgeBlocked,
    ExpiryTrackError,
    MalformedResponse,
    NetworkError,
    PlanRequired,
    RateLimited,
    RequestRefused,
    ServerError,
    TokenExpired,
    TokenMissing,
    TokenRejected,
    TruncatedResponse,
)
from expirytrack_dagster.security.audit import AuditLog
from expirytrack_dagster.settings import RateLimit, Settings
from expirytrack_dagster.state import StateDatabase
from expirytrack_dagster.upstox import client as client_module
from expirytrack_dagster.upstox.calls import Call
from expirytrack_dagster.upstox.client import Candles, UpstoxClient
from expirytrack_dagster.upstox.coordinator import Coordinator
from expirytrack_dagster.upstox.ledger import RequestLedger, Wait
from expirytrack_dagster.upstox.tokens import open_store
from expirytrack_dagster_tests.statements import sql

RECORDED = Path(__file__).parents[4] / "shared" / "realdata" / "upstox_recorded"
NIFTY, OPTION, DAY = "NSE_INDEX|Nifty 50", "NSE_FO|71706|28-08-2025", date(2025, 8, 28)
TOKEN = "secret-token-of-the-day"
ROW = ["2025-08-01T15:29:00+05:30", 24618.9, 24624, 24612.1, 24618, 31125, 17059500]
T = TypeVar("T")

Answer = Callable[["_Handler"], None]
Script = Callable[[UpstoxClient], Coroutine[Any, Any, T]]


class FakeClock:
    """Starts at a time of its own and moves only by sleeping."""

    def __init__(self) -> None:
        """Begin with no sleeps."""
        self.time = 1_700_000_000.0
        self.sleeps: list[float] = []

    def now(self) -> float:
        """Return the time shown."""
        return self.time

    async def sleep(self, seconds: float) -> None:
        """Move the time without waiting."""
        self.sleeps.append(seconds)
        self.time += seconds
        await asyncio.sleep(0)


class _Server(ThreadingHTTPServer):
    """Gives the scripted answers in turn, the last one for ever, and keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: deque[Answer] = deque()
        self.seen: list[tuple[str, dict[str, str]]] = []

    def handle_error(self, *_: object) -> None:
        """Stay silent: clients that leave early are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Give the next answer."""
        self.server.seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        answers = self.server.answers
        (answers.popleft() if len(answers) > 1 else answers[0])(self)

    def log_message(self, *_: object) -> None:
        """Stay silent."""


def answer(status: int, body: bytes | object, /, **headers: str) -> Answer:
    """Answer in full; anything but bytes is sent as JSON."""
    raw = body if isinstance(body, bytes) else orjson.dumps(body)

    def send(handler: _Handler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(raw)))
        handler.end_headers()
        handler.wfile.write(raw)

    return send


def cut_off(handler: _Handler) -> None:
    """Promise more than is sent, then close."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    handler.wfile.write(b'{"status":"success","data":["2025-')
    handler.close_connection = True


def reset(handler: _Handler) -> None:
    """Reset the connection instead of answering."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True


def wait_for(event: threading.Event) -> None:
    """Do not answer before the test is over."""
    event.wait(5)


def ok(data: object) -> Answer:
    """Succeed as the API does."""
    return answer(200, {"status": "success", "data": data})


def error(status: int, code: str, /, **headers: str) -> Answer:
    """Fail as the API does."""
    both = {"errorCode": code, "error_code": code, "message": "its words"}
    return answer(status, {"status": "error", "errors": [both]}, **headers)


def page(status: int, text: str) -> Answer:
    """Answer with a web page."""
    return answer(status, f"<html><body>{text}</body></html>".encode(), Content_Type="text/html")


@pytest.fixture
def server() -> Iterator[_Server]:
    """Serve on a free port of this machine."""
    with _Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


class Setup:
    """Everything around a client: settings, state, ledger, clock."""

    def __init__(self, folder: Path, server: _Server) -> None:
        """Point the settings to the server."""
        self.clock = FakeClock()
        self.state = StateDatabase(folder / "state.sqlite")
        self.settings = Settings(
            home=folder,
            api_url=f"http://127.0.0.1:{server.server_port}",
            access_token=SecretStr(TOKEN),
            timeout=5,
            cache=False,  # the same question gets another answer in these tests
        )
        self.ledger = RequestLedger(self.state, self.settings.rate_limits, clock=self.clock)

    def run(self, script: Script[T], **overrides: object) -> T:
        """Run a script with a fresh client."""

        async def main() -> T:
            settings = self.settings.model_copy(update=overrides)
            async with UpstoxClient(settings, self.ledger, clock=self.clock, run_id="run") as client:
                return await script(client)

        return asyncio.run(main())

    def rows(self, columns: str = "attempt, status, outcome") -> list[tuple[Any, ...]]:
        """Return the ledger's rows."""
        return self.state.query(sql(f"SELECT {columns} FROM requests ORDER BY id"))  # noqa: S608  columns of these tests


@pytest.fixture
def setup(tmp_path: Path, server: _Server) -> Iterator[Setup]:
    """Give a client's surroundings."""
    made = Setup(tmp_path, server)
    yield made
    made.state.close()


async def expiries(client: UpstoxClient) -> list[date]:
    """Ask for the expiries of NIFTY."""
    return await client.get_expiries(NIFTY)


async def candles(client: UpstoxClient) -> Candles:
    """Ask for a month of candles."""
    return await client.get_historical_data(OPTION, "1minute", date(2025, 8, 1), DAY)


def test_requests_are_written_as_documented(setup: Setup, server: _Server) -> None:
    """Paths, percent-encoding, the order of the dates, and the headers."""
    contract = {"instrument_key": OPTION, "expiry": "2025-08-28", "instrument_type": "PE", "lot_size": 75,
                "minimum_lot": 75}  # fmt: skip
    server.answers += [ok(["2025-08-28", "2024-10-03"]), ok([contract]), ok([]), ok({"candles": [ROW]}),
                       ok({"user_id": "AB1234"})]  # fmt: skip

    async def script(client: UpstoxClient) -> list[Any]:
        return [
            await expiries(client),
            await client.get_option_contracts(NIFTY, DAY),
            await client.get_future_contracts(NIFTY, DAY),
            await candles(client),
            await client.get_profile(),
        ]

    dates, options, futures, got, profile = setup.run(script)
    assert dates == [date(2024, 10, 3), DAY]
    assert [option.instrument_key for option in options] == [OPTION]
    assert futures == []
    assert got.table.num_rows == 1
    assert got.first_ts == got.last_ts == 1754042340
    assert profile.user_id == "AB1234"
    assert [path for path, _ in server.seen] == [
        "/v2/expired-instruments/expiries?instrument_key=NSE_INDEX%7CNifty%2050",
        "/v2/expired-instruments/option/contract?instrument_key=NSE_INDEX%7CNifty%2050&expiry_date=2025-08-28",
        "/v2/expired-instruments/future/contract?instrument_key=NSE_INDEX%7CNifty%2050&expiry_date=2025-08-28",
        "/v2/expired-instruments/historical-candle/NSE_FO%7C71706%7C28-08-2025/1minute/2025-08-28/2025-08-01",
        "/v2/user/profile",
    ]
    headers = server.seen[0][1]
    assert headers["authorization"] == f"Bearer {TOKEN}"
    assert headers["accept"] == "application/json"
    assert re.fullmatch(r"expirytrack/\d+\.\d+.*", headers["user-agent"])
    assert setup.rows("endpoint, target, params, rows, first_ts, run_id, outcome") == [
        ("expiries", NIFTY, "{}", 2, None, "run", "ok"),
        ("option_contracts", NIFTY, '{"expiry":"2025-08-28"}', 1, None, "run", "ok"),
        ("future_contracts", NIFTY, '{"expiry":"2025-08-28"}', 0, None, "run", "ok"),
        ("candles", OPTION, '{"from":"2025-08-01","interval":"1minute","to":"2025-08-28"}', 1, 1754042340, "run", "ok"),
        ("profile", "", "{}", 1, None, "run", "ok"),
    ]


@pytest.mark.skipif(not RECORDED.is_dir(), reason=f"recorded answers are not at {RECORDED}")
def test_recorded_candles_come_through(setup: Setup, server: _Server) -> None:
    """375 recorded bars; the ledger knows their number, size and span."""
    body = next(RECORDED.glob("expired_historical_candle*.json")).read_bytes()
    server.answers.append(answer(200, body))
    assert setup.run(candles).table.num_rows == 375
    assert setup.rows("rows, bytes, last_ts - first_ts") == [(375, len(body), 374 * 60)]


@pytest.mark.parametrize(
    ("send", "kind"),
    [(error(500, "UDAPI100500"), ServerError), (answer(503, b""), ServerError), (answer(423, b"{}"), ServerError),
     (cut_off, TruncatedResponse), (answer(200, b'{"status":"succ'), TruncatedResponse),
     (answer(200, b""), TruncatedResponse), (reset, NetworkError), (page(503, "maintenance"), EdgeBlocked),
     (page(200, "sign in"), EdgeBlocked)],
)  # fmt: skip
def test_passing_faults_are_tried_again(
    setup: Setup, server: _Server, send: Answer, kind: type[ExpiryTrackError]
) -> None:
    """Twice bad, then good: the call succeeds, every try has its row; four times bad: the error itself."""
    server.answers += [send, send, ok(["2025-08-28"])]
    assert setup.run(expiries) == [DAY]
    rows = setup.rows()
    assert [row[0] for row in rows] == [1, 2, 3]
    assert [row[2] == "ok" for row in rows] == [False, False, True]
    first, second = setup.clock.sleeps
    assert 1 <= first <= 2 <= second <= 3
    server.answers.clear()
    server.answers.append(send)
    with pytest.raises(kind):
        setup.run(expiries)
    assert len(setup.rows()) == 3 + 4
    assert setup.state.query(sql("SELECT count(*) FROM requests WHERE outcome IS NULL")) == [(0,)]


def test_each_wait_is_longer_by_the_factor(setup: Setup, server: _Server) -> None:
    """The first is a second, the next ones as many times longer as is set, each with up to a second at random."""
    server.answers += [error(500, "UDAPI100500")] * 3 + [ok(["2025-08-28"])]
    assert setup.run(expiries, backoff_factor=5.0) == [DAY]
    assert all(least <= wait <= least + 1 for wait, least in zip(setup.clock.sleeps, (1, 5, 25), strict=True))


@pytest.mark.parametrize(
    ("send", "kind"),
    [(error(400, "UDAPI100011"), RequestRefused), (error(400, "UDAPI1148"), DateRangeRefused),
     (error(401, "UDAPI100050"), TokenRejected), (error(401, "UDAPI1149"), PlanRequired),
     (error(403, "UDAPI100067"), TokenRejected), (error(404, "UDAPI100060"), RequestRefused),
     (page(403, "Error 1010"), EdgeBlocked), (ok({"candles": 5}), MalformedResponse), (ok(["soon"]), MalformedResponse),
     (answer(302, b"", Location="http://127.0.0.1:9/steal"), EdgeBlocked)],
)  # fmt: skip
def test_final_refusals_are_raised_at_once(
    setup: Setup, server: _Server, send: Answer, kind: type[ExpiryTrackError]
) -> None:
    """One request, no pause, no other host asked, and the right class."""
    server.answers.append(send)
    with pytest.raises(kind) as caught:
        setup.run(expiries)
    assert type(caught.value) is kind
    assert len(server.seen) == len(setup.rows()) == 1
    assert setup.clock.sleeps == []


def test_refused_code_is_in_the_ledger(setup: Setup, server: _Server) -> None:
    """Status and code of an error can be audited."""
    server.answers.append(error(400, "UDAPI100011"))
    with pytest.raises(RequestRefused):
        setup.run(expiries)
    assert setup.rows("status, error_code, outcome") == [(400, "UDAPI100011", "http_error")]


@pytest.mark.parametrize("send", [error(429, "UDAPI10005"), page(429, "Error 1015"), page(403, "Error 1015")])
def test_too_many_requests_waits_and_uses_no_try(setup: Setup, server: _Server, send: Answer) -> None:
    """Refused twice, the call waits out the first and the second window and succeeds in its first try."""
    server.answers += [send, send, ok(["2025-08-28"])]
    assert setup.run(expiries, max_retries=0) == [DAY]
    assert setup.clock.sleeps == [pytest.approx(1), pytest.approx(60)]
    assert [row[0] for row in setup.rows()] == [1, 1, 1]


def test_retry_after_is_honoured_by_other_processes_too(setup: Setup, server: _Server) -> None:
    """The pause is in the state database while the client waits."""
    server.answers += [error(429, "UDAPI10005", Retry_After="17"), ok([])]
    setup.run(expiries)
    assert setup.clock.sleeps == [pytest.approx(17)]
    setup.clock.time -= 17
    other = RequestLedger(setup.state, (RateLimit(1, 50),), clock=setup.clock)
    assert isinstance(other.acquire(Call("candles")), Wait)


@pytest.mark.parametrize(("send", "kind"), [(error(429, "UDAPI10005"), RateLimited), (page(429, "1015"), EdgeBlocked)])
def test_endless_refusals_end(setup: Setup, server: _Server, send: Answer, kind: type[ExpiryTrackError]) -> None:
    """After the longest window was waited out in vain, the error is raised."""
    server.answers.append(send)
    with pytest.raises(kind):
        setup.run(expiries)
    assert setup.clock.sleeps == [pytest.approx(limit.seconds) for limit in setup.settings.rate_limits]
    assert len(server.seen) == 4


def test_slow_answer_is_a_network_error(setup: Setup, server: _Server) -> None:
    """An answer slower than the timeout ends the request; the row is settled."""
    free = threading.Event()
    server.answers.append(lambda _: wait_for(free))
    with pytest.raises(NetworkError, match="EXPIRYTRACK_TIMEOUT"):
        setup.run(expiries, timeout=0.1, max_retries=0)
    free.set()
    assert setup.rows() == [(1, None, "network_error")]


def test_absent_server_is_a_network_error(setup: Setup, server: _Server) -> None:
    """A refused connection names the address."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    with pytest.raises(NetworkError, match=url):
        setup.run(expiries, api_url=url, max_retries=1)
    assert setup.rows() == [(1, None, "network_error"), (2, None, "network_error")]
    assert server.seen == []


def test_cancelled_request_is_settled(setup: Setup, server: _Server) -> None:
    """Nothing stays under way after a cancellation."""
    free, asked = threading.Event(), threading.Event()

    def hang(_: _Handler) -> None:
        asked.set()
        free.wait(5)

    server.answers.append(hang)

    async def script(client: UpstoxClient) -> None:
        task = asyncio.create_task(expiries(client))
        await asyncio.to_thread(asked.wait, 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    setup.run(script)
    free.set()
    assert setup.rows() == [(1, None, "abandoned")]


def test_an_answer_that_arrived_outlives_its_cancelled_task(
    setup: Setup, server: _Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled between the arrival of an answer and its settling, a task is not asked again by the next one."""
    server.answers.append(ok(["2025-08-28"]))

    async def script(client: UpstoxClient) -> None:
        task = asyncio.create_task(expiries(client))
        settle = Coordinator.settle

        async def cancelled_meanwhile(self: Coordinator, *arguments: Any) -> None:
            task.cancel()
            await settle(self, *arguments)
            await asyncio.sleep(0)

        monkeypatch.setattr(Coordinator, "settle", cancelled_meanwhile)
        with pytest.raises(asyncio.CancelledError):
            await task

    setup.run(script, cache=True)
    monkeypatch.undo()
    assert setup.run(expiries, cache=True) == [date(2025, 8, 28)]
    assert setup.rows() == [(1, 200, "ok")]
    assert len(server.seen) == 1


def test_huge_answer_is_refused(setup: Setup, server: _Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading stops at the bound."""
    monkeypatch.setattr(client_module, "MAX_BODY", 1000)
    server.answers.append(ok(["2025-08-28"] * 1000))
    with pytest.raises(MalformedResponse, match="larger"):
        setup.run(expiries)
    assert setup.rows() == [(1, 200, "malformed")]


@pytest.mark.parametrize("token", [None, SecretStr(""), SecretStr("  ")])
def test_missing_token_sends_nothing(setup: Setup, server: _Server, token: SecretStr | None) -> None:
    """One sentence says how to set it; no slot is spent."""
    with pytest.raises(TokenMissing, match="EXPIRYTRACK_ACCESS_TOKEN"):
        setup.run(expiries, access_token=token)
    assert setup.rows() == []
    assert server.seen == []


@pytest.mark.parametrize("token", ["two words", "line\nbreak", "na\u00efve"])
def test_impossible_token_is_refused_without_showing_it(setup: Setup, server: _Server, token: str) -> None:
    """A token that no header can carry is not sent, nor quoted."""
    with pytest.raises(TokenRejected) as caught:
        setup.run(expiries, access_token=SecretStr(token))
    assert token not in str(caught.value)
    assert server.seen == []


def test_token_shows_nowhere(setup: Setup, server: _Server, caplog: pytest.LogCaptureFixture) -> None:
    """Not in a message, a log line, a chained exception, or the state database."""
    caplog.set_level(0)
    server.answers.append(reset)
    with pytest.raises(NetworkError) as caught:
        setup.run(expiries, max_retries=0)
    chain: BaseException | None = caught.value
    while chain is not None:
        assert TOKEN not in repr(chain)
        chain = chain.__cause__ or chain.__context__
    assert TOKEN not in caplog.text
    assert TOKEN not in str(setup.rows("*"))


@pytest.mark.parametrize(
    ("script", "parameter"),
    [(lambda c: c.get_expiries("NIFTY"), "instrument_key"),
     (lambda c: c.get_option_contracts("", DAY), "instrument_key"),
     (lambda c: c.get_historical_data("NSE_FO|1", "day", DAY, DAY), "expired_key"),
     (lambda c: c.get_historical_data(OPTION, "1hour", DAY, DAY), "interval"),
     (lambda c: c.get_historical_data(OPTION, "day", DAY, date(2025, 1, 1)), "from_date")],
)  # fmt: skip
def test_bad_arguments_send_nothing(setup: Setup, server: _Server, script: Script[object], parameter: str) -> None:
    """The error names the parameter."""
    with pytest.raises(ConfigurationError, match=parameter):
        setup.run(script)
    assert server.seen == []


def test_many_calls_at_once_keep_the_limits_and_their_order(setup: Setup, server: _Server) -> None:
    """120 calls at 50 a second: two pauses, all answered, slots given first come first served."""
    server.answers.append(ok([]))
    keys = [f"NSE_EQ|INE{number:09}" for number in range(120)]

    async def script(client: UpstoxClient) -> float:
        await asyncio.gather(*(client.get_expiries(key) for key in keys))
        return client.waited

    assert setup.run(script) >= 2
    assert [row[0] for row in setup.rows("target")] == keys
    assert len(server.seen) == 120


def test_token_that_dies_in_the_middle(setup: Setup, server: _Server) -> None:
    """What was answered before stays answered, the next call says that the token is dead."""
    server.answers += [ok([]), error(401, "UDAPI100050")]

    async def script(client: UpstoxClient) -> None:
        assert await expiries(client) == []
        with pytest.raises(TokenRejected, match="expirytrack login"):
            await expiries(client)

    setup.run(script)
    assert setup.rows() == [(1, 200, "ok"), (1, 401, "http_error")]


def test_token_that_dies_while_a_request_waits_for_its_slot(setup: Setup, server: _Server) -> None:
    """The request is not sent, its slot is given back, and the sentence says what to do."""
    server.answers.append(ok([]))
    setup.ledger = RequestLedger(setup.state, (RateLimit(60, 1),), clock=setup.clock)
    claims = urlsafe_b64encode(orjson.dumps({"exp": int(setup.clock.now()) + 30})).rstrip(b"=").decode()

    async def script(client: UpstoxClient) -> None:
        assert await expiries(client) == []
        with pytest.raises(TokenExpired, match="run `expirytrack login`"):
            await expiries(client)

    setup.run(script, access_token=SecretStr(f"head.{claims}.signature"))
    assert setup.rows() == [(1, 200, "ok")]
    assert len(server.seen) == 1
    assert sum(setup.clock.sleeps) >= 60


def test_a_new_login_replaces_a_refused_token(setup: Setup, server: _Server) -> None:
    """A refused token is exchanged for the vault's newer one, and the try goes on; a refused newest one ends it."""
    issued = datetime.fromtimestamp(setup.clock.now(), UTC)
    store = open_store(setup.settings)

    def log_in(token: str) -> None:
        store.put("default", token, "AB1", issued, issued + timedelta(hours=1))

    def refuse_and_log_in(handler: _Handler) -> None:
        log_in("second")
        error(401, "UDAPI100050")(handler)

    log_in("first")
    server.answers += [ok([]), refuse_and_log_in, ok([]), error(401, "UDAPI100050")]

    async def script(client: UpstoxClient) -> None:
        assert await expiries(client) == []
        assert await expiries(client) == []
        with pytest.raises(TokenRejected):
            await expiries(client)

    setup.run(script, access_token=None)
    assert setup.rows() == [(1, 200, "ok"), (1, 401, "http_error"), (1, 200, "ok"), (1, 401, "http_error")]
    uses = [entry.event for entry in AuditLog(setup.settings.audit).entries() if entry]
    assert uses == ["token_use", "token_use"]


def test_token_use_is_audited_once_a_run(setup: Setup, server: _Server) -> None:
    """The audit log names the run, the account and where the token was from, not the token."""
    server.answers.append(ok([]))

    async def script(client: UpstoxClient) -> None:
        for _ in range(3):
            await expiries(client)

    setup.run(script)
    (entry,) = AuditLog(setup.settings.audit).entries()
    assert entry is not None
    assert (entry.event, entry.details) == (
        "token_use",
        {"account": "default", "source": "environment", "run": "run"},
    )
    assert TOKEN not in setup.settings.audit.read_text()
