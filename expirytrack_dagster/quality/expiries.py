"""The list of an underlying's expiries: its columns, rules and schema, and the check `expiry_dates`.

An expiry is a Python `datetime.date` (a date in IST) in an object column, here and in `contracts`; timestamps and text
are refused. No rule knows weekdays: weekly or monthly is what the API says.
"""

from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd
import pandera.pandas as pa

from expirytrack_dagster.quality.columns import column
from expirytrack_dagster.quality.outcome import CheckOutcome, plural, shown
from expirytrack_dagster.quality.rules import Mask, Rule, judge

EXPIRY_COLUMNS = {
    "underlying": column("str", "TEXT", "Short symbol of the underlying, such as NIFTY."),
    "expiry": column(None, "DATE", "Day on which the contracts expire.", unit="date in IST", nullable=True),
    "underlying_key": column("str", "TEXT", "The underlying at Upstox, such as NSE_INDEX|Nifty 50."),
    "discovered_at": column("datetime64[us, UTC]", "TIMESTAMPTZ", "When the API first listed the expiry.", unit="UTC"),
}


def _is_date(frame: pd.DataFrame) -> Mask:
    # type() and not isinstance(): a datetime is a date too, and NaT is a datetime.
    return np.array([type(value) is date for value in frame["expiry"]], dtype=np.bool_)


def _dates(frame: pd.DataFrame) -> pd.Series:
    """Return the expiries as timestamps, NaT for what is no date."""
    return pd.to_datetime(frame["expiry"].where(_is_date(frame)))


def _is_alone(frame: pd.DataFrame) -> Mask:
    dates = _dates(frame)
    return (~dates.duplicated(keep=False) | dates.isna()).to_numpy()


def _is_ascending(frame: pd.DataFrame) -> Mask:
    dates = _dates(frame)
    return ~(dates < dates.ffill().shift()).to_numpy()


def _is_first_underlying(frame: pd.DataFrame) -> Mask:
    pairs = frame[["underlying", "underlying_key"]].astype(object)
    return (pairs == pairs.iloc[0]).all(axis=1).to_numpy() if len(pairs) else np.ones(0, dtype=np.bool_)


EXPIRY_RULES = (
    Rule(
        "date",
        "expiry is a date",
        _is_date,
        lambda rows: [
            "expiry is missing" if pd.isna(value) else f"{value!r} is not a date" for value in rows["expiry"]
        ],
    ),
    Rule(
        "unique",
        "an expiry is listed once",
        _is_alone,
        lambda rows: [f"{value} is listed more than once" for value in rows["expiry"]],
    ),
    Rule(
        "ascending",
        "expiries ascend",
        _is_ascending,
        lambda rows: [f"{value} stands after a later date" for value in rows["expiry"]],
    ),
    Rule(
        "one_underlying",
        "all expiries are of one underlying",
        _is_first_underlying,
        lambda rows: [
            f"{symbol} ({key}) is not the underlying of the first row"
            for symbol, key in zip(rows["underlying"], rows["underlying_key"], strict=True)
        ],
    ),
)
EXPIRY_SCHEMA = pa.DataFrameSchema(EXPIRY_COLUMNS, checks=[rule.as_check() for rule in EXPIRY_RULES], name="expiries")


def check_expiries(frame: pd.DataFrame) -> CheckOutcome:
    """Check the list of expiries of one underlying, in the order in which it will be used.

    An empty list is a warning: the API lists nothing for some underlyings. Any other fault is fatal.

    Raises:
        UnfitData: a column is missing.
    """
    found = judge(frame, EXPIRY_SCHEMA, EXPIRY_RULES)
    if found.empty and len(frame):
        summary = f"{plural(len(frame), 'expiry date')}, unique and ascending."
    elif found.empty:
        summary = "No expiry is listed: check the underlying's key and that it has futures or options."
    else:
        summary = (
            f"{plural(len(found), 'fault')} in a list of {plural(len(frame), 'expiry date')}: nothing was written; "
            "ask the API again and report the list to Upstox if it stays broken."
        )
    values = frame["expiry"].reset_index(drop=True).astype("str").reindex(found.index)
    return CheckOutcome(
        name="expiry_dates",
        passed=found.empty and len(frame) > 0,
        fatal=not found.empty,
        summary=summary,
        counts={"expiries": len(frame), "broken": len(found)},
        failing=shown(found.assign(expiry=values)[["expiry", "rule", "detail"]]),
    )
