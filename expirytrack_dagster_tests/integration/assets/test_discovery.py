"""When the list of expiries is asked for: not while it is young, and always when a wanted date is unknown."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

from expirytrack_dagster.sandbox.running import running
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket

if TYPE_CHECKING:
    from collections.abc import Callable

    from expirytrack_dagster.sandbox.running import Running
    from expirytrack_dagster_tests.integration.assets.conftest import Archive

MARKET = SyntheticMarket(strikes=1, days=1, today=date(2024, 10, 5))  # two days after the first expiry of all


def _asked(upstox: Running) -> int:
    return sum("/expiries" in entry.path for entry in upstox.requests())


def test_a_young_list_is_not_asked_again(collect: Callable[..., Archive]) -> None:
    """Collecting everything twice asks for the expiries once; when the list is old, it is asked, and nothing else."""
    with running(MARKET) as upstox:
        assert collect(upstox, []).outcome.exit_code == 0
        assert _asked(upstox) == 1
        before = len(upstox.requests())
        assert collect(upstox, []).outcome.exit_code == 0
        assert len(upstox.requests()) == before
        assert collect(upstox, [], discovery_age="0").outcome.exit_code == 0
        assert len(upstox.requests()) == before + 1
        assert _asked(upstox) == 2
