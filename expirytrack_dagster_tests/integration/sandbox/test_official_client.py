"""The official Python client reads all five endpoints of the sandbox."""

from collections.abc import Iterator
from datetime import date, datetime

import pytest
import upstox_client
from upstox_client.rest import ApiException

from expirytrack_dagster.sandbox import wire
from expirytrack_dagster.sandbox.running import Running, running
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
