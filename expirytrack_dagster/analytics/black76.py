"""Black-76 backwards and forwards: the volatility that a price implies, and the greeks at that volatility.

Everything is told from the out-of-the-money side, whose price is all time value: what a price in the money adds to it
is its intrinsic value alone. With the forward F, the strike K, x = -|ln(F / K)| and s = volatility * sqrt(years), the
undiscounted price of that side over sqrt(F * K) is

    b(s) = exp(x / 2) * N(x / s + s / 2) - exp(-x / 2) * N(x / s - s / 2)

and s is what is solved for. The start and the split into a low and a high branch at s = sqrt(2 |x|) are those of
P. Jaeckel, "By Implication" (2006); each branch is then solved by Halley's method on a logarithm of b, so that a
price of 1e-300 is no harder than one of 10. N is written with the scaled complementary error function, whose large
factors cancel before they can overflow or vanish.

A volatility is given only where the price determines it; everywhere else is a reason, never a wrong number.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import erfcx, ndtr, ndtri

Floats: TypeAlias = NDArray[np.float64]
Flags: TypeAlias = NDArray[np.bool_]

PRECISION = 1e-6
"""A volatility that a price, as a double, does not determine to this is not given."""
DAYS = 365.0
"""Days of a year, for theta."""
PERCENT = 0.01
"""The step of volatility and rate that vega and rho are told for."""

_BLOCK = 16_384  # rows whose intermediate arrays stay in the processor's cache; measured, twice as fast as one piece
_ROUNDS = 12  # four do for most; the deepest wings take seven
_ENOUGH = 1e-13  # relative step at which a root is found
_FOUND = 1e-9  # and the one above which it is not
_ROOT_2 = np.sqrt(2.0)
_ROOT_HALF_PI = np.sqrt(np.pi / 2)
_ROUNDING = 4 * np.finfo(np.float64).eps
_LOG_ROOT_2_PI = np.log(2 * np.pi) / 2


class Reason(IntEnum):
    """Why a row has no volatility; `NONE` where it has one."""

    NONE = 0
    MISSING = 1
    """The price, the forward, the strike or the time is missing, or not above zero where it must be."""
    EXPIRED = 2
    """No time is left."""
    BELOW_INTRINSIC = 3
    """The price is at or below what exercising brings at the forward."""
    ABOVE_BOUND = 4
    """The price is at or above that of the forward (a call) or the strike (a put), which no volatility reaches."""
    UNDETERMINED = 5
    """The price lies so near one of these bounds that, as a double, it fits volatilities more than 1e-6 apart."""

    @property
    def label(self) -> str | None:
        """The reason as it is stored: lower case, None for `NONE`."""
        return self.name.lower() if self else None


@dataclass(frozen=True, slots=True)
class Implied:
    """Volatilities and greeks, one a row, NaN where `reason` (values of `Reason`) is not zero.

    Attributes:
        volatility: a year, 0.14 for 14 %.
        delta: rupees a rupee of the forward.
        gamma: change of delta a rupee of the forward.
        vega: rupees for one percentage point of volatility.
        theta: rupees a calendar day (a year is 365), with the forward unchanged.
        rho: rupees for one percentage point of the rate, with the forward unchanged.
        reason: why there is none.
    """

    volatility: Floats
    delta: Floats
    gamma: Floats
    vega: Floats
    theta: Floats
    rho: Floats
    reason: NDArray[np.int8]


def implied(
    price: ArrayLike, forward: ArrayLike, strike: ArrayLike, years: ArrayLike, rate: ArrayLike, call: ArrayLike
) -> Implied:
    """Return the volatility that each price implies, and the greeks there; the arguments are broadcast.

    Args:
        price: of the option, rupees, discounted (as it is paid today).
        forward: of the underlying for the option's expiry, rupees.
        strike: rupees.
        years: time to expiry.
        rate: a year, continuously compounded.
        call: True for a call, False for a put.
    """
    given = np.broadcast_arrays(*(np.asarray(each, dtype=np.float64) for each in (price, forward, strike, years, rate)))
    calls = np.broadcast_to(np.asarray(call, dtype=np.bool_), given[0].shape)
    names = ("volatility", "delta", "gamma", "vega", "theta", "rho")
    columns = {name: np.full(given[0].size, np.nan) for name in names}
    reason = np.zeros(given[0].size, dtype=np.int8)
    flat, flags = [each.ravel() for each in given], calls.ravel()
    for start in range(0, reason.size, _BLOCK):
        part = slice(start, start + _BLOCK)
        rows = [each[part] for each in flat]
        volatility, reason[part] = _volatility(*rows, call=flags[part])
        greeks = _greeks(*rows, call=flags[part], volatility=volatility)
        for name, values in zip(names, (volatility, *greeks), strict=True):
            columns[name][part] = values
    return Implied(**columns, reason=reason)


def price(
    forward: ArrayLike, strike: ArrayLike, years: ArrayLike, rate: ArrayLike, volatility: ArrayLike, call: ArrayLike
) -> Floats:
    """Return the discounted Black-76 price, rupees; the arguments are those of `implied` and broadcast alike."""
    f, k, t, r, v = (np.asarray(each, dtype=np.float64) for each in (forward, strike, years, rate, volatility))
    sign = np.where(np.asarray(call, dtype=np.bool_), 1.0, -1.0)
    deviation = v * np.sqrt(t)
    d1 = np.log(f / k) / deviation + deviation / 2
    value: Floats = np.exp(-r * t) * sign * (f * ndtr(sign * d1) - k * ndtr(sign * (d1 - deviation)))
    return value


def _volatility(
    price: Floats, forward: Floats, strike: Floats, years: Floats, rate: Floats, *, call: Flags
) -> tuple[Floats, NDArray[np.int8]]:
    """Return volatilities, NaN where there is none, and the reasons."""
    with np.errstate(all="ignore"):  # what cannot be computed is sorted out by its reason
        grown = price * np.exp(rate * years)
        gain = np.where(call, forward - strike, strike - forward)
        value = grown - np.maximum(gain, 0.0)  # time value, the whole price of the side out of the money
        limit = np.minimum(forward, strike)
        reason = np.select(
            [
                ~(np.isfinite(grown + forward + strike) & (price >= 0) & (forward > 0) & (strike > 0)),
                ~(years > 0),
                ~(value > 0),
                ~(value < limit),
            ],
            [Reason.MISSING, Reason.EXPIRED, Reason.BELOW_INTRINSIC, Reason.ABOVE_BOUND],
            Reason.NONE,
        ).astype(np.int8)
        volatility = np.full(price.shape, np.nan)
        rows = np.flatnonzero(reason == Reason.NONE)
        middle = np.sqrt(forward[rows] * strike[rows])
        # A time value is uncertain by the rounding of the terms that it came from.
        terms = grown[rows] + np.where(gain[rows] > 0, forward[rows] + strike[rows], 0.0)
        s, certain = _deviation(
            -np.abs(np.log(forward[rows] / strike[rows])), value[rows] / middle, _ROUNDING * terms / middle
        )
        root = np.sqrt(years[rows])
        known = certain / root <= PRECISION
        volatility[rows] = np.where(known, s / root, np.nan)
        reason[rows[~known]] = Reason.UNDETERMINED
    return volatility, reason


def _deviation(x: Floats, b: Floats, error: Floats) -> tuple[Floats, Floats]:
    """Solve b(s) for s; return it, and how far it moves when b moves by `error` (infinite where no root was found).

    Args:
        x: -|ln(F / K)|.
        b: time value over sqrt(F * K), above zero and below exp(x / 2).
        error: the uncertainty of b.
    """
    most = np.exp(x / 2)
    half = np.sqrt(-x / 2)
    # At s = sqrt(2 |x|) the first N of b is a half and b is steepest.
    split = most * (1 - erfcx(np.sqrt(-x))) / 2
    upper = b >= split
    side = np.where(upper, 1.0, -1.0)
    target = np.log(np.where(upper, most - b, b))
    s = np.where(
        upper,
        -2 * ndtri((most - b) / (most - split) * ndtr(-half)),
        -_ROOT_2 * x / np.sqrt(-x - 4 * np.log(b / split)),
    )
    step = slope = np.full(s.shape, np.inf)
    for _ in range(_ROUNDS):
        h, t = x / s, s / 2
        # b (or what it lacks to `most`) over its derivative to s; the factor that both share has cancelled.
        width = _ROOT_HALF_PI * (erfcx(side * (h + t) / _ROOT_2) + side * erfcx((t - h) / _ROOT_2))
        slope = -(h * h + t * t) / 2 - _LOG_ROOT_2_PI
        level = slope + np.log(width)
        bend = h * h / s - s / 4 + side / width
        newton = side * (level - target) * width
        # Below the split, 1 / log(b) is nearly straight and is solved for; above it, the logarithm itself.
        newton *= np.where(upper, 1.0, level / target)
        bend -= np.where(upper, 0.0, 2 / (width * level))
        step = newton / np.maximum(1 + newton * bend / 2, 0.5)
        s = np.maximum(s + step, s / 4)
        if np.all(np.abs(step) <= _ENOUGH * s):
            break
    found = np.abs(step) <= _FOUND * s
    return s, np.where(found, error * np.exp(-slope), np.inf)


def _greeks(
    price: Floats, forward: Floats, strike: Floats, years: Floats, rate: Floats, *, call: Flags, volatility: Floats
) -> tuple[Floats, ...]:
    """Return delta, gamma, vega, theta and rho; NaN where the volatility is."""
    with np.errstate(all="ignore"):
        sign = np.where(call, 1.0, -1.0)
        root = np.sqrt(years)
        deviation = volatility * root
        d1 = np.log(forward / strike) / deviation + deviation / 2
        discount = np.exp(-rate * years)
        density = discount * np.exp(-d1 * d1 / 2) / np.sqrt(2 * np.pi)
        delta = sign * discount * ndtr(sign * d1)
        gamma = density / (forward * deviation)
        vega = forward * density * root * PERCENT
        theta = (rate * price - forward * density * volatility / (2 * root)) / DAYS
        rho = np.where(np.isnan(volatility), np.nan, -years * price * PERCENT)
    return delta, gamma, vega, np.where(np.isnan(volatility), np.nan, theta), rho
