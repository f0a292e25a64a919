"""The official Python client reads all five endpoints of the sandbox, and logs in and out there."""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import upstox_client
from upstox_client.rest import ApiException

from expirytrack_dagster.sandbox import wire
from expirytrack_dagster.sandbox.running import Running, running
from expirytrack_dagster.sandbox.switches import App
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket

NIFTY = "NSE_INDEX|Nifty 50"
EXPIRY = date(2025, 8, 28)
MARKET = SyntheticMarket(today=date(2026, 11, 20))


@pytest.fixture(scope="module")
def served() -> Iterator[Running]:
    """Serve the synthetic market."""
    with running(MARKET) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def client(served: Running) -> Iterator[upstox_client.ApiClient]:
    """Point the official client at the sandbox."""
    configuration = upstox_client.Configuration()
    configuration.host = served.url
    configuration.access_token = "x"
    client = upstox_client.ApiClient(configuration)
    yield client
    client.pool.close()
    client.pool.join()
    client.rest_client.pool_manager.clear()


def test_expiries(client: upstox_client.ApiClient) -> None:
    """The client's expiries are the market's."""
    answer = upstox_client.ExpiredInstrumentApi(client).get_expiries(NIFTY)
    listed = [day.date() if isinstance(day, datetime) else date.fromisoformat(str(day)[:10]) for day in answer.data]
    assert listed == MARKET.expiries(NIFTY)


def test_options(client: upstox_client.ApiClient) -> None:
    """The client's option contracts are the market's, field by field."""
    answer = upstox_client.ExpiredInstrumentApi(client).get_expired_option_contracts(NIFTY, "2025-08-28")
    rows = MARKET.option_contracts(NIFTY, EXPIRY) or []
    read = [{name: getattr(item, name) for name in rows[0]} for item in answer.data]
    assert read == [row | {"expiry": datetime(2025, 8, 28)} for row in rows]  # noqa: DTZ001 - the client's own type


def test_futures(client: upstox_client.ApiClient) -> None:
    """The client's future contract is the market's, field by field."""
    answer = upstox_client.ExpiredInstrumentApi(client).get_expired_future_contracts(NIFTY, "2025-08-28")
    rows = MARKET.future_contracts(NIFTY, EXPIRY) or []
    assert [{name: getattr(item, name) for name in rows[0]} for item in answer.data] == rows


@pytest.mark.parametrize("interval", ["1minute", "day"])
def test_candles(client: upstox_client.ApiClient, interval: str) -> None:
    """The client's candles are the market's, newest first."""
    key = str((MARKET.future_contracts(NIFTY, EXPIRY) or [])[0]["instrument_key"])
    api = upstox_client.ExpiredInstrumentApi(client)
    answer = api.get_expired_historical_candle_data(key, interval, "2025-08-28", "2025-08-20")
    bars = MARKET.candles(key, interval, date(2025, 8, 20), EXPIRY)
    assert bars is not None
    assert len(bars) > 4
    assert answer.data.candles == wire.rows(bars)[::-1]


def test_profile(client: upstox_client.ApiClient) -> None:
    """The client reads the profile."""
    assert upstox_client.UserApi(client).get_profile("2.0").data.user_id == wire.PROFILE["user_id"]


def test_refusal(client: upstox_client.ApiClient, served: Running) -> None:
    """Without Plus the client gets a 401 with the documented code."""
    served.switch(plus=False)
    with pytest.raises(ApiException, match="UDAPI1149") as raised:
        upstox_client.ExpiredInstrumentApi(client).get_expiries(NIFTY)
    served.switch(plus=True)
    assert raised.value.status == 401


@pytest.fixture
def anonymous(served: Running) -> Iterator[upstox_client.ApiClient]:
    """Point an official client without a token at the sandbox."""
    configuration = upstox_client.Configuration()
    configuration.host = served.url
    client = upstox_client.ApiClient(configuration)
    yield client
    client.pool.close()
    client.pool.join()
    client.rest_client.pool_manager.clear()


def code_of(served: Running) -> str:
    """Press Approve on the login's page, and return the code."""
    form = {"client_id": App().client_id, "redirect_uri": "http://127.0.0.1:1/cb"}
    location = httpx.post(f"{served.url}/_sandbox/login", data=form).headers["location"]
    return parse_qs(urlsplit(location).query)["code"][0]


def test_login_and_logout(anonymous: upstox_client.ApiClient, served: Running) -> None:
    """The client exchanges a code, once, asks with the token, and logs out."""
    api, code = upstox_client.LoginApi(anonymous), code_of(served)
    form = {"client_id": App().client_id, "client_secret": App().client_secret, "redirect_uri": "http://127.0.0.1:1/cb"}
    answer = api.token("2.0", code=code, grant_type="authorization_code", **form)
    assert answer.user_id == App().user_id
    with pytest.raises(ApiException, match="UDAPI100057"):
        api.token("2.0", code=code, grant_type="authorization_code", **form)
    anonymous.configuration.access_token = answer.access_token
    assert upstox_client.UserApi(anonymous).get_profile("2.0").data.user_id == App().user_id
    assert api.logout("2.0").data is True
    with pytest.raises(ApiException, match="UDAPI100050"):
        upstox_client.UserApi(anonymous).get_profile("2.0")


def test_wrong_credentials(anonymous: upstox_client.ApiClient, served: Running) -> None:
    """The client gets the code that Upstox's own tests expect for placeholders."""
    with pytest.raises(ApiException, match="UDAPI100069"):
        upstox_client.LoginApi(anonymous).token(
            "2.0",
            code=code_of(served),
            client_id="{your_client_id}",
            client_secret="{your_client_secret}",
            redirect_uri="http://127.0.0.1:1/cb",
            grant_type="authorization_code",
        )


def test_approval_request(anonymous: upstox_client.ApiClient) -> None:
    """The client reads when the request lapses and where the token will be delivered."""
    body = upstox_client.IndieUserTokenRequest(client_secret=App().client_secret)
    data = upstox_client.LoginApi(anonymous).init_token_request_for_indie_user(body, App().client_id).data
    assert data.notifier_url == App().notifier_url
    assert datetime.fromtimestamp(int(data.authorization_expiry) / 1000, UTC).strftime("%H:%M") == "22:00"
