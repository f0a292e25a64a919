"""Three nights without a hand on the machine: expiries come and go, the token dies in the middle and comes back."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from expirytrack_dagster.collect.horizon import listings
from expirytrack_dagster.ist import IST
from expirytrack_dagster.state import open_state
from expirytrack_dagster_tests.integration.automation.conftest import CLOCK, india, token_until
from expirytrack_dagster_tests.statements import sql

if TYPE_CHECKING:
    from collections.abc import Callable

    from expirytrack_dagster_tests.integration.automation.conftest import Machine

# Dagster's own tags of a run with two dimensions; it resolves them when a tick is evaluated.
pytestmark = pytest.mark.filterwarnings("ignore:Non-compliant tag keys:DeprecationWarning")

SYMBOLS = ["BANKNIFTY", "NIFTY", "SENSEX"]


def _cells(machine: Machine, since: int = 0) -> list[str]:
    return [partition for job, partition, _ in machine.runs[since:] if job == "historical_data_fetch"]


def _open_cells(machine: Machine) -> set[tuple[str, str]]:
    """Return the cells that Upstox lists now and that are not sealed."""
    listed = {
        (listing.underlying, listing.expiry.isoformat())
        for listing in listings(open_state(machine.settings))
        if listing.gone is None
    }
    return listed - set(machine.table("SELECT underlying, expiry::TEXT FROM cell_seals"))


def test_three_nights(machine: Callable[..., Machine], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every listed cell is sealed at the end, nothing was asked twice, and what leaves the list soon went first."""
    monkeypatch.setenv("EXPIRYTRACK_HORIZON_DAYS", "7")

    # The first night: the token dies at 03:30 in the middle of the third cell.
    house = machine(india(11, 20, 5), SYMBOLS, token_until(india(12, 3, 30)))
    assert house.schedule("discovery") == 3
    assert house.schedule("discovery").skip_message.startswith("Every list of expiries is younger")  # type: ignore[union-attr]
    assert len(_open_cells(house)) == 4
    house.upstox.switch(token_life=3 + 2 * 20)
    CLOCK.set(india(12, 3, 29))
    outcome = house.sensor("collection")
    assert outcome == 4
    assert _cells(house) == ["2024-10-10|NIFTY", "2024-10-09|BANKNIFTY", "2024-10-04|SENSEX", "2024-10-03|NIFTY"]
    done = [success for _, _, success in house.runs[3:]]
    assert done[:2] == [True, True]
    assert not all(done)
    before = len(house.upstox.requests())
    CLOCK.set(india(12, 3, 31))
    for name in ("collection", "discovery"):
        skipped = house.sensor(name) if name == "collection" else house.schedule(name)
        assert isinstance(skipped, dg.SkipReason)
        assert "died" in str(skipped.skip_message)
    assert len(house.upstox.requests()) == before

    # Its owner logs in again: the second night's discovery finds a new expiry, and the rest is collected.
    CLOCK.set(india(12, 21, 5))
    house.upstox.switch(token_life=None)
    monkeypatch.setenv("EXPIRYTRACK_ACCESS_TOKEN", token_until(india(13, 3, 30)))
    since = len(house.runs)
    assert house.schedule("discovery") == 3
    assert "Nothing is due" in str(house.sensor_until_idle("collection").skip_message)
    assert _cells(house, since) == ["2024-10-11|SENSEX", "2024-10-04|SENSEX", "2024-10-03|NIFTY"]
    assert _open_cells(house) == set()

    # An expiry has left the list by the next day, which shows how far the list reaches. A week later there are three
    # new ones, and the one that will leave within a week goes before the newest.
    monkeypatch.setenv("EXPIRYTRACK_ACCESS_TOKEN", token_until(india(20, 3, 30)))
    CLOCK.set(india(13, 20, 5))
    assert house.schedule("discovery") == 3
    assert "Nothing is due" in str(house.sensor_until_idle("collection").skip_message)
    CLOCK.set(india(19, 20, 5))
    since = len(house.runs)
    assert house.schedule("discovery") == 3
    skipped = house.sensor_until_idle("collection")
    assert house.failures[len(done) - sum(done) :] == []
    assert "Nothing is due" in str(skipped.skip_message)
    assert _cells(house, since) == ["2024-10-16|BANKNIFTY", "2024-10-18|SENSEX", "2024-10-17|NIFTY"]
    gone = {str(listing.expiry) for listing in listings(open_state(house.settings)) if listing.gone}
    assert gone == {"2024-10-03", "2024-10-04", "2024-10-09"}

    assert _open_cells(house) == set()
    twice = open_state(house.settings).query(
        sql(
            "SELECT endpoint, target, params FROM requests WHERE outcome = 'ok' AND endpoint <> 'expiries'"
            " GROUP BY 1, 2, 3 HAVING count(*) > 1"
        )
    )
    assert twice == []
    assert datetime.fromtimestamp(CLOCK.now(), IST) - india(11, 20, 5) > timedelta(days=8)
