"""Kept answers in a whole collection: a lost archive is filled from them, and a refetch asks all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from expirytrack_dagster.sandbox.running import running
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket

if TYPE_CHECKING:
    from collections.abc import Callable

    from expirytrack_dagster_tests.integration.assets.conftest import Archive

NIFTY = "NSE_INDEX|Nifty 50"


def test_lost_archive_is_filled_from_kept_answers(collect: Callable[..., Archive]) -> None:
    """The second time only what may have changed is asked: the expiries, and what was empty; a refetch asks it all."""
    market = SyntheticMarket(strikes=1, days=2)
    expiry = (market.expiries(NIFTY) or [])[-6]
    with running(market) as upstox:
        first = collect(upstox, [expiry])
        candles = first.number("SELECT count(*) FROM candles")
        empty = first.number("SELECT count(*) FROM contract_status WHERE status = 'empty_proven'")
        first.settings.database.unlink()
        asked = upstox.stats()["requests"]
        again = collect(upstox, [expiry])
        assert again.number("SELECT count(*) FROM candles") == candles > 0
        asked_again = upstox.stats()["requests"]
        assert asked_again["option_contracts"] == asked["option_contracts"]
        assert asked_again["candles"] == asked["candles"] + 2 * empty  # by minutes and by days
        collect(upstox, [expiry], refetch=True)
        last = upstox.stats()["requests"]
        assert last["option_contracts"] == asked["option_contracts"] + 1
        assert last["candles"] == asked_again["candles"] + asked["candles"]
