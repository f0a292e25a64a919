"""The registry of tracked underlyings in a real state database."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from expirytrack_dagster.collect import tracking
from expirytrack_dagster.collect.tracking import Underlying
from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.state import StateDatabase
from expirytrack_dagster_tests.statements import sql

if TYPE_CHECKING:
    from collections.abc import Iterator

    from expirytrack_dagster_tests.engines import Engine

NIFTY = Underlying("NIFTY", "NSE_INDEX|Nifty 50")
RELIANCE = Underlying("RELIANCE", "NSE_EQ|INE002A01018")


@pytest.fixture
def state(engine: Engine) -> Iterator[StateDatabase]:
    """Give an empty state database."""
    with StateDatabase(engine.fresh()) as database:
        yield database


@pytest.mark.parametrize("text", ["NIFTY", "nifty", " M&M ", "BAJAJ-AUTO", "360ONE", "A" * 32])
def test_a_symbol_of_an_exchange_is_taken_in_capitals(text: str) -> None:
    """Symbols as exchanges write them pass, whatever their case."""
    assert tracking.check_symbol(text) == text.strip().upper()


@pytest.mark.parametrize(
    "text", ["", "../x", "A|B", "'; DROP TABLE underlyings; --", "A" * 200, "A/B", "A\\B", ".", "..", "-A", "A\nB", "É"]
)
def test_what_cannot_be_a_partition_and_a_folder_is_refused(text: str) -> None:
    """A hostile symbol is refused with one sentence that shows no more than forty characters of it."""
    with pytest.raises(ConfigurationError, match="is no symbol") as caught:
        tracking.check_symbol(text)
    assert len(str(caught.value)) < 140


def test_tracking_is_remembered_and_repeatable(state: StateDatabase) -> None:
    """The same underlying twice is one; another handle sees it, by symbol in order, with the moment of its tracking."""
    for underlying in (RELIANCE, NIFTY, NIFTY):
        assert tracking.track(state, underlying.symbol.lower(), underlying.instrument_key) == underlying
    with StateDatabase(state.address) as other:
        assert tracking.tracked(other) == [NIFTY, RELIANCE]
        assert tracking.find(other, "nifty") == NIFTY
        moments = [moment for (moment,) in other.query(sql("SELECT tracked_at FROM underlyings"))]
    assert moments == pytest.approx([time.time()] * 2, abs=60)


def test_a_symbol_stands_for_one_key_and_a_key_for_one_symbol(state: StateDatabase) -> None:
    """Another key for a symbol, or another symbol for a key, is refused and changes nothing."""
    tracking.track(state, *_parts(NIFTY))
    with pytest.raises(ConfigurationError, match=r"NIFTY already stands for NSE_INDEX\|Nifty 50: run .*untrack NIFTY"):
        tracking.track(state, "NIFTY", "NSE_EQ|X")
    with pytest.raises(ConfigurationError, match="already tracked as NIFTY"):
        tracking.track(state, "NIFTY50", NIFTY.instrument_key)
    assert tracking.tracked(state) == [NIFTY]


def test_untracking_forgets_once(state: StateDatabase) -> None:
    """Untracking says whether there was anything to forget; then the symbol may stand for another key."""
    tracking.track(state, *_parts(NIFTY))
    assert tracking.untrack(state, "nifty")
    assert not tracking.untrack(state, "NIFTY")
    with pytest.raises(ConfigurationError, match="NIFTY is not tracked: run 'expirytrack track NIFTY' first"):
        tracking.find(state, "NIFTY")
    assert tracking.track(state, "NIFTY", "NSE_EQ|X").instrument_key == "NSE_EQ|X"


def _parts(underlying: Underlying) -> tuple[str, str]:
    return underlying.symbol, underlying.instrument_key
