"""Implied volatility and greeks: equal to a published reference, a reason where there is none, never a wrong number."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vollib.black.greeks import analytical
from vollib.black.implied_volatility import implied_volatility

from expirytrack_dagster.analytics.black76 import PRECISION, Implied, Reason, implied, price

MINUTE = 1 / 525_600
FORWARD = 24_512.35
GRID = list(
    itertools.product(
        (0.2, 0.5, 0.8, 0.95, 0.99, 0.9999, 1.0, 1.0001, 1.01, 1.05, 1.25, 2.0, 5.0),  # strike over forward
        (MINUTE, 60 * MINUTE, 1 / 365, 7 / 365, 30 / 365, 1.0, 5.0),  # years
        (0.01, 0.05, 0.14, 0.4, 1.0, 3.0),  # volatility
        (0.0, 0.065),  # rate
        (True, False),  # call
    )
)
REASONS = {
    "no price": ((np.nan, FORWARD, 24_500.0, 0.1, 0.065, True), Reason.MISSING),
    "no forward": ((100.0, np.nan, 24_500.0, 0.1, 0.065, True), Reason.MISSING),
    "a negative price": ((-1.0, FORWARD, 24_500.0, 0.1, 0.065, True), Reason.MISSING),
    "a strike of zero": ((100.0, FORWARD, 0.0, 0.1, 0.065, True), Reason.MISSING),
    "an infinite price": ((np.inf, FORWARD, 24_500.0, 0.1, 0.065, True), Reason.MISSING),
    "no time left": ((100.0, FORWARD, 24_500.0, 0.0, 0.065, True), Reason.EXPIRED),
    "after the end": ((100.0, FORWARD, 24_500.0, -MINUTE, 0.065, True), Reason.EXPIRED),
    "a price of zero": ((0.0, FORWARD, 26_000.0, 0.1, 0.065, True), Reason.BELOW_INTRINSIC),
    "a call at intrinsic": ((1_000.0, 25_000.0, 24_000.0, 0.1, 0.0, True), Reason.BELOW_INTRINSIC),
    "a put below intrinsic": ((999.0, 24_000.0, 25_000.0, 0.1, 0.0, False), Reason.BELOW_INTRINSIC),
    "a call at its bound": ((FORWARD, FORWARD, 24_500.0, 0.1, 0.0, True), Reason.ABOVE_BOUND),
    "a put beyond its bound": ((24_500.5, FORWARD, 24_500.0, 0.1, 0.0, False), Reason.ABOVE_BOUND),
    "a hair above intrinsic": ((1_000.0 + 1e-11, 25_000.0, 24_000.0, 0.1, 0.0, True), Reason.UNDETERMINED),
    "a hair below the bound": ((25_000.0 * (1 - 1e-15), 25_000.0, 24_000.0, 0.1, 0.0, True), Reason.UNDETERMINED),
}


def columns() -> list[np.ndarray]:
    """Return moneyness, years, volatility, rate and call of the grid as arrays."""
    return [np.array(column) for column in zip(*GRID, strict=True)]


def solved() -> tuple[Implied, np.ndarray]:
    """Return what the grid's own prices imply, and these prices."""
    moneyness, years, volatility, rate, call = columns()
    paid = price(FORWARD, FORWARD * moneyness, years, rate, volatility, call)
    return implied(paid, FORWARD, FORWARD * moneyness, years, rate, call), paid


def test_the_volatility_is_that_of_the_reference() -> None:
    """To a millionth, from the deepest wings to the money, from a minute to five years; most rows have one."""
    found, paid = solved()
    moneyness, years, _, rate, call = columns()
    given_one = np.flatnonzero(found.reason == Reason.NONE)
    reference = [
        implied_volatility(paid[i], FORWARD, FORWARD * moneyness[i], rate[i], years[i], "c" if call[i] else "p")
        for i in given_one
    ]
    np.testing.assert_allclose(found.volatility[given_one], reference, rtol=0, atol=PRECISION)
    assert len(given_one) > 0.6 * len(GRID)


def test_the_volatility_is_the_one_that_made_the_price() -> None:
    """No row of the grid is wrong, and none out of the money is given up while its price is above zero."""
    found, paid = solved()
    moneyness, _, volatility, _, call = columns()
    known = found.reason == Reason.NONE
    np.testing.assert_allclose(found.volatility[known], volatility[known], rtol=0, atol=PRECISION)
    out = np.where(call, moneyness >= 1, moneyness <= 1) & (paid > 1e-290)
    assert set(found.reason[out]) == {Reason.NONE}


def test_greeks_are_those_of_the_reference() -> None:
    """Delta, gamma, vega a point, theta a day and rho a point, at the volatility that was found."""
    found, paid = solved()
    moneyness, years, _, rate, call = columns()
    rows = np.flatnonzero((found.reason == Reason.NONE) & (paid > 1e-12))
    for name in ("delta", "gamma", "vega", "theta", "rho"):
        formula = getattr(analytical, name)
        reference = [
            formula("c" if call[i] else "p", FORWARD, FORWARD * moneyness[i], years[i], rate[i], found.volatility[i])
            for i in rows
        ]
        np.testing.assert_allclose(getattr(found, name)[rows], reference, rtol=1e-6, atol=1e-9, err_msg=name)


@pytest.mark.parametrize(("row", "reason"), REASONS.values(), ids=REASONS)
def test_a_price_without_a_volatility_has_a_reason(row: tuple[float, ...], reason: Reason) -> None:
    """Every number of such a row is missing, and the reason says why."""
    found = implied(*row)
    assert Reason(int(found.reason[0])) is reason
    assert all(np.isnan(getattr(found, name)[0]) for name in ("volatility", "delta", "gamma", "vega", "theta", "rho"))


def test_reasons_have_names_and_no_reason_has_none() -> None:
    """As they are stored."""
    assert [reason.label for reason in Reason][:3] == [None, "missing", "expired"]


@given(
    paid=st.floats(0, 1e5),
    forward=st.floats(1, 1e5),
    strike=st.floats(1, 1e5),
    years=st.floats(0, 5),
    rate=st.floats(-0.05, 0.2),
    call=st.booleans(),
)
def test_a_number_prices_back_and_no_number_has_a_reason(
    *, paid: float, forward: float, strike: float, years: float, rate: float, call: bool
) -> None:
    """Whatever is paid: either the volatility gives this price again, or all is missing and a reason is there."""
    found = implied(paid, forward, strike, years, rate, call)
    assert np.isnan(found.volatility[0]) == (found.reason[0] != Reason.NONE) == np.isnan(found.theta[0])
    if found.reason[0] == Reason.NONE:
        again = price(forward, strike, years, rate, found.volatility[0], call)
        assert again == pytest.approx(paid, rel=1e-9, abs=1e-9 * max(forward, strike))


def test_blocks_are_joined_in_order() -> None:
    """More rows than fit into a block, and one that broadcasts, come back in their places."""
    strikes = np.linspace(20_000, 30_000, 40_001)
    paid = price(FORWARD, strikes, 0.1, 0.065, 0.2, call=True)
    whole = implied(paid, FORWARD, strikes, 0.1, 0.065, call=True)
    np.testing.assert_allclose(whole.volatility, 0.2, atol=PRECISION)
    assert len(whole.reason) == len(strikes)
