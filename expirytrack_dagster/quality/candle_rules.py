"""What a one-minute candle must be: its columns, its rules and the pandera schema made of them.

There is no rule about session hours: a bar after the close or on a Saturday is a good bar (`continuity` reports it).
What happens to a row that breaks a rule is decided in `candles`.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pandera.pandas as pa

from expirytrack_dagster.ist import IST
from expirytrack_dagster.quality.columns import column
from expirytrack_dagster.quality.rules import Mask, Rule, number

if TYPE_CHECKING:
    from numpy.typing import NDArray

OHLC = "ohlc"
VOLUME_AND_OPEN_INTEREST = "volume_and_open_interest"
DUPLICATES = "duplicates"
TIMESTAMP_CONTINUITY = "timestamp_continuity"

CANDLE_COLUMNS = {
    # Categorical or text: which of them changes nothing but speed.
    "instrument_key": column(None, "TEXT", "Contract the bar belongs to: SEGMENT|token|DD-MM-YYYY."),
    "ts": column("datetime64[us, UTC]", "TIMESTAMPTZ", "Start of the minute.", unit="UTC"),
    "open": column("float64", "DOUBLE", "First traded price of the minute.", unit="rupees"),
    "high": column("float64", "DOUBLE", "Highest traded price of the minute.", unit="rupees"),
    "low": column("float64", "DOUBLE", "Lowest traded price of the minute.", unit="rupees"),
    "close": column("float64", "DOUBLE", "Last traded price of the minute.", unit="rupees"),
    "volume": column("int64", "BIGINT", "Quantity traded in the minute.", unit="units of the underlying, not lots"),
    "open_interest": column(
        "int64", "BIGINT", "Open contracts as last published by the exchange.", unit="units of the underlying, not lots"
    ),
}
PRICES = ("open", "high", "low", "close")
MINUTE = 60_000_000
"""Microseconds in a minute."""

_NAT: int = np.iinfo(np.int64).min
_LARGEST: int = np.iinfo(np.int64).max
_LARGEST_WHOLE = 2.0**63


def candle_rules(expiry: date) -> tuple[Rule, ...]:
    """Return every rule for the candles of contracts that expire on `expiry` (IST).

    The order is that of precedence: a row that breaks several is filed under the first.
    """
    return (
        *(_price_rule(price) for price in PRICES),
        *(_order_rule("high", "below", other) for other in ("open", "close", "low")),
        *(_order_rule("low", "above", other) for other in ("open", "close")),
        *(_quantity_rule(quantity) for quantity in ("volume", "open_interest")),
        *_timestamp_rules(expiry),
        Rule(
            DUPLICATES,
            "a contract has one bar a minute",
            _alone,
            lambda rows: ["another bar of the same contract and time has different values"] * len(rows),
        ),
    )


def candle_schema(expiry: date) -> pa.DataFrameSchema:
    """Return the schema of good candles of contracts that expire on `expiry`; validate with `lazy=True`."""
    checks = [rule.as_check() for rule in candle_rules(expiry)]
    return pa.DataFrameSchema(CANDLE_COLUMNS, checks=checks, strict=True, name="candles")


def microseconds(times: pd.Series) -> NDArray[np.int64]:
    """Return datetime64[us, UTC] values as microseconds since 1970, without a copy; NaT is the least int64."""
    return times.to_numpy(dtype="datetime64[us]").view(np.int64)


def order_key(frame: pd.DataFrame) -> NDArray[np.int64]:
    """Return a number for each row that grows with instrument_key, then ts; equal for the same bar only.

    Times that lie too far apart for the product, as a missing one does, are replaced by their ranks.
    """
    keys = frame["instrument_key"].astype("category").cat
    contract = np.argsort(np.argsort(keys.categories.to_numpy()))[keys.codes.to_numpy()]
    time = microseconds(frame["ts"])
    if not len(time):
        return time
    span = int(time.max()) - int(time.min()) + 1
    if span * len(keys.categories) < _LARGEST:
        key: NDArray[np.int64] = contract * np.int64(span) + (time - time.min())
        return key
    time, distinct = pd.factorize(time, sort=True)
    return contract * np.int64(len(distinct)) + time


def _price_rule(price: str) -> Rule:
    def holds(frame: pd.DataFrame) -> Mask:
        values: NDArray[np.float64] = frame[price].to_numpy()
        # NaN fails the first comparison, infinity the second.
        return (values > 0) & (values < np.inf)

    return Rule(
        OHLC,
        f"{price} is present, finite and above zero",
        holds,
        lambda rows: [f"{price} is {number(value)}" for value in rows[price]],
    )


def _order_rule(bound: str, side: str, other: str) -> Rule:
    wrong = np.less if side == "below" else np.greater

    def holds(frame: pd.DataFrame) -> Mask:
        # A comparison with NaN is false: a missing price is the price rule's finding alone.
        violated: Mask = wrong(frame[bound].to_numpy(), frame[other].to_numpy())
        return ~violated

    return Rule(
        OHLC,
        f"{bound} is not {side} {other}",
        holds,
        lambda rows: [
            f"{bound} {number(limit)} is {side} {other} {number(value)}"
            for limit, value in zip(rows[bound], rows[other], strict=True)
        ],
    )


def _quantity_rule(quantity: str) -> Rule:
    def holds(frame: pd.DataFrame) -> Mask:
        values: NDArray[np.float64] | NDArray[np.int64] = frame[quantity].to_numpy()
        if values.dtype.kind == "i":
            return values >= 0
        fits: Mask = (values >= 0) & (values < _LARGEST_WHOLE) & (values == np.floor(values))
        return fits

    return Rule(
        VOLUME_AND_OPEN_INTEREST,
        f"{quantity} is present, whole and not negative",
        holds,
        lambda rows: [f"{quantity} is {number(value)}" for value in rows[quantity]],
    )


def _timestamp_rules(expiry: date) -> tuple[Rule, ...]:
    closing = datetime.combine(expiry + timedelta(days=1), datetime.min.time(), IST)
    last_instant = int(closing.timestamp()) * 1_000_000

    def present(frame: pd.DataFrame) -> Mask:
        return ~_has_no_time(frame)

    def on_the_minute(frame: pd.DataFrame) -> Mask:
        whole: Mask = microseconds(frame["ts"]) % MINUTE == 0
        return whole | _has_no_time(frame)

    def until_expiry(frame: pd.DataFrame) -> Mask:
        return microseconds(frame["ts"]) < last_instant

    return (
        Rule(TIMESTAMP_CONTINUITY, "ts is present", present, lambda rows: ["timestamp is missing"] * len(rows)),
        Rule(
            TIMESTAMP_CONTINUITY,
            "ts is on the minute",
            on_the_minute,
            lambda rows: [
                f"bar starts at {time.time().isoformat()}, not on the minute" for time in rows["ts"].dt.tz_convert(IST)
            ],
        ),
        Rule(
            TIMESTAMP_CONTINUITY,
            "ts is not after the expiry (dates in IST)",
            until_expiry,
            lambda rows: [
                f"bar of {time.date()} lies after the expiry {expiry}" for time in rows["ts"].dt.tz_convert(IST)
            ],
        ),
    )


def _has_no_time(frame: pd.DataFrame) -> Mask:
    missing: Mask = microseconds(frame["ts"]) == _NAT
    return missing


def _alone(frame: pd.DataFrame) -> Mask:
    """Say for each row whether no other row has its contract and time; rows without a time are never compared."""
    key = order_key(frame)
    if (key[1:] > key[:-1]).all():  # sorted and distinct, as after the split: no hashing needed
        return np.ones(len(frame), dtype=np.bool_)
    repeated: Mask = pd.Series(key).duplicated(keep=False).to_numpy()
    return ~repeated | _has_no_time(frame)
