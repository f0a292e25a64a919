"""The sandbox over real HTTP: order of checks, errors, switches, faults, limits and what tests may look at."""

import json
import socket
import threading
from collections.abc import Iterator
from datetime import date
from typing import Any

import httpx
import pytest

from expirytrack_dagster.sandbox.running import Running, running
from expirytrack_dagster.sandbox.server import Sandbox
from expirytrack_dagster.sandbox.switches import Fault, Switches
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket
from expirytrack_dagster.settings import INSTRUMENTS_PATH, RateLimit

TODAY = date(2026, 11, 20)
MARKET = SyntheticMarket(today=TODAY)
BASE = "/v2/expired-instruments"
EXPIRIES = f"{BASE}/expiries?instrument_key=NSE_INDEX%7CNifty%2050"
OPTIONS = f"{BASE}/option/contract?instrument_key=NSE_INDEX%7CNifty%2050&expiry_date=2025-08-28"
FUTURES = f"{BASE}/future/contract?instrument_key=NSE_INDEX%7CNifty%2050&expiry_date=2025-08-28"
KEY = "NSE_FO|35042|28-08-2025"
CANDLES = f"{BASE}/historical-candle/NSE_FO%7C35042%7C28-08-2025/1minute/2025-08-28/2025-08-01"
GOOD_TOKEN = "x"
GOOD = {"Authorization": f"Bearer {GOOD_TOKEN}"}


@pytest.fixture
def served() -> Iterator[Running]:
    """Serve the synthetic market without limits."""
    with running(MARKET, limits=()) as sandbox:
        yield sandbox


def get(sandbox: Running, path: str, token: str = GOOD_TOKEN) -> httpx.Response:
    """Ask one path of the sandbox."""
    return httpx.get(sandbox.url + path, headers={"Authorization": f"Bearer {token}"} if token else {})


def code(response: httpx.Response) -> tuple[int, str]:
    """Return the status and Upstox's code of an error."""
    error = response.json()["errors"][0]
    assert error["error_code"] == error["errorCode"]
    return response.status_code, error["error_code"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v3/expired-instruments/expiries", (404, "UDAPI100060")),
        (f"{BASE}/historical-candle/{KEY}/1minute/2025-08-28", (404, "UDAPI100060")),
        (f"{BASE}/expiries", (400, "UDAPI1009")),
        (f"{BASE}/expiries?instrument_key=NIFTY", (400, "UDAPI1011")),
        (f"{BASE}/expiries?instrument_key=NSE_INDEX%7CNifty+51", (400, "UDAPI100011")),
        (f"{BASE}/option/contract?instrument_key=NSE_INDEX%7CNifty+50", (400, "UDAPI1088")),
        (f"{BASE}/future/contract?instrument_key=NSE_INDEX%7CNifty+50&expiry_date=28-08-2025", (400, "UDAPI1088")),
        (f"{BASE}/historical-candle/NSE_FO%7CNIFTY22D0117800CE/day/2025-08-28/2025-08-01", (400, "UDAPI1021")),
        (f"{BASE}/historical-candle/{KEY}/60minute/2025-08-28/2025-08-01", (400, "UDAPI1020")),
        (f"{BASE}/historical-candle/{KEY}/day//2025-08-01", (400, "UDAPI1022")),
        (f"{BASE}/historical-candle/{KEY}/day/2025-08-01/2025-08-28", (400, "UDAPI1015")),
        (f"{BASE}/historical-candle/{KEY}/day/2025-02-30/2025-01-01", (400, "UDAPI1015")),
        (f"{BASE}/historical-candle/NSE_FO%7C1%7C28-08-2025/day/2025-08-28/2025-08-01", (400, "UDAPI100011")),
    ],
)
def test_refusals(served: Running, path: str, expected: tuple[int, str]) -> None:
    """Each wrong request gets its documented status and code."""
    assert code(get(served, path)) == expected


def test_order_of_checks(served: Running) -> None:
    """Route, token, form, plan and key are checked in this order."""
    served.switch(plus=False)
    unknown = EXPIRIES.replace("50", "51")
    assert code(get(served, "/v2/nothing", token="")) == (404, "UDAPI100060")
    assert code(get(served, f"{BASE}/expiries", token="")) == (401, "UDAPI100050")
    assert code(get(served, f"{BASE}/expiries")) == (400, "UDAPI1009")
    assert code(get(served, unknown)) == (401, "UDAPI1149")
    served.switch(plus=True)
    assert code(get(served, unknown)) == (400, "UDAPI100011")
    assert code(httpx.post(served.url + EXPIRIES, headers=GOOD)) == (404, "UDAPI100060")


def test_encodings_of_the_key(served: Running) -> None:
    """A space may come as + or %20 and a bar in the path raw or encoded."""
    assert get(served, EXPIRIES).content == get(served, EXPIRIES.replace("%20", "+")).content
    request = (
        f"GET {CANDLES.replace('%7C', '|')} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x\r\nConnection: close\r\n\r\n"
    )
    raw = raw_answer(served, request)
    assert raw.startswith(b"HTTP/1.1 200")
    assert raw.endswith(get(served, CANDLES).content)


def raw_answer(sandbox: Running, request: str) -> bytes:
    """Send bytes that no HTTP library would send, and return what comes back."""
    url = httpx.URL(sandbox.url)
    with socket.create_connection((url.host, url.port or 80)) as connection:
        connection.sendall(request.encode())
        return b"".join(iter(lambda: connection.recv(65_536), b""))


def test_profile_and_master(served: Running) -> None:
    """The profile needs a token but no Plus; the master needs neither and comes as a gzip file."""
    served.switch(plus=False)
    assert get(served, "/v2/user/profile").json()["data"]["is_active"] is True
    assert code(get(served, "/v2/user/profile", token=""))[0] == 401
    assert get(served, INSTRUMENTS_PATH, token="").content == MARKET.instruments_master()


def test_tokens() -> None:
    """With a list of tokens no other is taken, and a token can be made to die."""
    with running(MARKET, tokens=["good"], switches=Switches(token_life=2)) as served:
        statuses = [get(served, EXPIRIES, token).status_code for token in ("bad", "good", "good", "good")]
    assert statuses == [401, 200, 200, 401]


def test_limits_with_a_clock_of_our_own() -> None:
    """A full window refuses with UDAPI10005 and no Retry-After, then opens; the scope may be the endpoint."""
    now = [0.0]
    sandbox = Sandbox(MARKET, limits=(RateLimit(1, 2),), clock=lambda: now[0])
    with running(sandbox) as served:
        assert [get(served, path).status_code for path in (EXPIRIES, "/v2/user/profile")] == [200, 200]
        refused = get(served, EXPIRIES)
        assert code(refused) == (429, "UDAPI10005")
        assert "retry-after" not in refused.headers
        assert get(served, EXPIRIES, "another").status_code == 200
        served.switch(retry_after=True)
        assert get(served, EXPIRIES).headers["retry-after"] == "1"
        now[0] = 1.0
        assert get(served, EXPIRIES).status_code == 200
        served.switch(limit_scope="endpoint")
        assert [get(served, OPTIONS).status_code for _ in range(3)] == [200, 200, 429]
        stats = served.stats()
    assert stats["violations"] == 3
    assert stats["statuses"] == {"200": 6, "429": 3}
    assert stats["max_in_window"] == {"2/1": 4}


@pytest.mark.parametrize(
    ("kind", "status", "text"),
    [
        (400, 400, "UDAPI100011"),
        (401, 401, "UDAPI100050"),
        (403, 403, "UDAPI100067"),
        (423, 423, "UDAPI"),
        (429, 429, "UDAPI10005"),
        (500, 500, "UDAPI100500"),
        (503, 503, "UDAPI"),
        ("cloudflare_1010", 403, "Error 1010"),
        ("cloudflare_1015", 429, "Error 1015"),
        ("html", 200, "<html>"),
        ("wrong_shape", 200, '"unexpected"'),
        ("empty", 200, '{"candles":[]}'),
    ],
)
def test_faults(served: Running, kind: Any, status: int, text: str) -> None:
    """Each fault hits the chosen instrument every second time and leaves the other requests alone."""
    good = get(served, CANDLES).content
    served.switch(faults=(Fault(kind, every=2, tokens=(KEY,)),))
    answers = [get(served, CANDLES) for _ in range(4)]
    assert [answer.content == good for answer in answers] == [True, False, True, False]
    assert answers[1].status_code == status
    assert text in answers[1].text
    assert ("html" in answers[1].headers["content-type"]) == ("<html>" in answers[1].text)
    assert get(served, EXPIRIES).status_code == 200


def test_cut_off_body(served: Running) -> None:
    """A truncated answer is good HTTP and broken JSON."""
    served.switch(faults=(Fault("truncate"),))
    answer = get(served, CANDLES)
    assert answer.status_code == 200
    with pytest.raises(json.JSONDecodeError):
        answer.json()


def test_connection_reset(served: Running) -> None:
    """A reset ends the connection without an answer, and the next request works."""
    served.switch(faults=(Fault("reset", times=1),))
    with pytest.raises(httpx.NetworkError):
        get(served, CANDLES)
    assert get(served, CANDLES).status_code == 200
    assert served.stats()["statuses"] == {"reset": 1, "200": 1}


def test_delays(served: Running) -> None:
    """Delays come before and after the instant at which a request counts."""
    before = served.sandbox._clock()  # noqa: SLF001 - the sandbox's own clock is the measure
    served.switch(delay_before=(0.05, 0.05), delay_after=(0.05, 0.1))
    assert get(served, EXPIRIES).elapsed.total_seconds() >= 0.1
    arrived = served.requests()[0].arrived - served.sandbox._epoch  # noqa: SLF001 - as above
    assert arrived - before >= 0.045


def test_depth_and_range(served: Running) -> None:
    """Six months shorten the list and hide the contracts behind it; a cap refuses wide windows with UDAPI1148."""
    served.switch(range_cap=27)
    assert code(get(served, CANDLES)) == (400, "UDAPI1148")
    served.switch(range_cap=28)
    assert get(served, CANDLES).status_code == 200
    everything = get(served, EXPIRIES).json()["data"]
    served.switch(depth="six_months")
    recent = get(served, EXPIRIES).json()["data"]
    assert recent == everything[-len(recent) :]
    assert 20 < len(recent) < 30
    assert get(served, OPTIONS).json()["data"] == []
    assert code(get(served, CANDLES)) == (400, "UDAPI100011")


def test_arrangements_of_candles(served: Running) -> None:
    """Newest first by default; shuffled, duplicated, silently shortened and filled when switched."""
    good = get(served, CANDLES).json()["data"]["candles"]
    assert good == sorted(good, reverse=True)
    served.switch(shuffled=True)
    shuffled = get(served, CANDLES).json()["data"]["candles"]
    assert shuffled != good
    assert sorted(shuffled, reverse=True) == good
    served.switch(shuffled=False, duplicated=True)
    doubled = get(served, CANDLES).json()["data"]["candles"]
    assert len(doubled) == len(good) + len(good[::10])
    assert sorted({tuple(row) for row in doubled}, reverse=True) == [tuple(row) for row in good]
    served.switch(duplicated=False, newest_days=2)
    short = get(served, CANDLES).json()["data"]["candles"]
    assert short == good[:375]
    wing = CANDLES.replace("35042", "35000")
    served.switch(newest_days=None, zero_volume=True)
    filled = get(served, wing).json()["data"]["candles"]
    assert {row[5] for row in filled} >= {0}
    served.switch(zero_volume=False)
    assert [row for row in filled if row[5]] == get(served, wing).json()["data"]["candles"]


def test_looking_and_switching_over_http(served: Running) -> None:
    """Stats, requests, planted rows and switches have paths of their own that do not count."""
    get(served, OPTIONS)
    stats = httpx.get(served.url + "/_sandbox/stats").json()
    assert stats["requests"] == {"option_contracts": 1}
    ((arrived, endpoint, path, status),) = httpx.get(served.url + "/_sandbox/requests").json()
    assert (endpoint, path, status) == ("option_contracts", OPTIONS, 200)
    assert arrived > 1.7e9
    changed = httpx.post(served.url + "/_sandbox/switches", json={"planted": [{"contracts": [KEY]}]})
    assert changed.json()["planted"][0]["contracts"] == [KEY]
    planted = httpx.get(served.url + "/_sandbox/planted").json()
    candles = get(served, CANDLES).json()["data"]["candles"]
    assert len(planted) == 12
    assert all(row["candle"] in candles for row in planted)
    assert httpx.post(served.url + "/_sandbox/switches", json={"plus": 1}).status_code == 400
    assert httpx.post(served.url + "/_sandbox/switches", json={"planted": [{"contracts": ["x"]}]}).status_code == 400
    assert httpx.get(served.url + "/_sandbox/switches").status_code == 404


def test_many_clients_at_once() -> None:
    """Concurrent requests are each counted once, and exactly as many pass as a window holds."""
    with running(MARKET, limits=(RateLimit(1800, 20),)) as served:
        threads = [threading.Thread(target=get, args=(served, CANDLES)) for _ in range(30)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert served.stats()["statuses"] == {"200": 20, "429": 10}
