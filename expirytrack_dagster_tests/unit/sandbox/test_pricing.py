"""Black-76 on the tick."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from expirytrack_dagster.sandbox.pricing import TICKS, discount, normal_cdf, option_ticks

MINUTE = 1 / (365 * 1440)
YEARS = st.floats(MINUTE, 1.0)
VOLATILITY = st.floats(0.08, 0.4)


def test_normal_distribution() -> None:
    """The table agrees with the standard library everywhere, tails included."""
    x = np.linspace(-12, 12, 20_001)
    exact = np.array([math.erfc(-value / math.sqrt(2)) / 2 for value in x])
    assert np.abs(normal_cdf(x) - exact).max() < 1e-13


@given(st.floats(15_000, 90_000), YEARS, VOLATILITY)
def test_no_arbitrage_between_strikes_and_sides(forward: float, years: float, volatility: float) -> None:
    """Parity holds within a tick, calls fall and puts rise with the strike, and nothing is free."""
    strikes = np.round(forward / 100 + np.arange(-60, 61)) * 100
    column, time = np.array([forward]), np.array([years])
    calls, puts = (
        np.array([option_ticks(column, strike, time, volatility, call=call)[0] for strike in strikes]) / TICKS
        for call in (True, False)
    )
    parity = calls - puts - discount(time) * (forward - strikes)
    assert np.abs(parity).max() <= 1 / TICKS + 1e-9
    assert (np.diff(calls) <= 1e-9).all()
    assert (np.diff(puts) >= -1e-9).all()
    assert min(calls.min(), puts.min()) >= 1 / TICKS
