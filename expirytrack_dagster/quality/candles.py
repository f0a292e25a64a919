"""Candles: good rows go on, bad rows go to quarantine with the rule they broke, and four outcomes tell of it.

What makes a row good is stated in `candle_rules`; which minutes are missing is judged in `continuity`. Reading,
staging and writing rows belong elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from pandera.errors import SchemaError

from expirytrack_dagster.errors import UnfitData
from expirytrack_dagster.ist import IST
from expirytrack_dagster.quality.candle_rules import (
    CANDLE_COLUMNS,
    DUPLICATES,
    OHLC,
    PRICES,
    TIMESTAMP_CONTINUITY,
    VOLUME_AND_OPEN_INTEREST,
    candle_rules,
    candle_schema,
    order_key,
)
from expirytrack_dagster.quality.outcome import MAX_SHOWN, CheckOutcome, plural, shown
from expirytrack_dagster.quality.rules import Mask, explain, require_columns

if TYPE_CHECKING:
    from datetime import date

    from numpy.typing import NDArray

    from expirytrack_dagster.quality.continuity import ContinuityReport

_QUANTITIES = {"volume": "int64", "open_interest": "int64"}
_NO_TEXT = pd.Series(dtype="str")
_IST_FORMAT = "%Y-%m-%d %H:%M:%S IST"


@dataclass(frozen=True)
class Split:
    """A batch of candles, sorted out. Rows received = good + bad + the sum of exact_duplicates.

    Attributes:
        good: the columns received, quantities as int64, sorted by instrument_key and ts, one row a bar.
        bad: the columns as received, with `rule` (the check under which the row is filed) and `detail`; sorted.
        exact_duplicates: rows dropped because an equal one is kept; int64 by instrument_key, zeros included.
    """

    good: pd.DataFrame
    bad: pd.DataFrame
    exact_duplicates: pd.Series


def split_candles(frame: pd.DataFrame, expiry: date) -> Split:
    """Separate good candles from bad ones and drop exact duplicates.

    Args:
        frame: whole contracts in any order. instrument_key (Categorical or text), ts datetime64[us, UTC] of the bar's
            start (NaT allowed), open, high, low, close float64, volume and open_interest int64, or float64 where
            nulls were received (as NaN).
        expiry: of the contracts, a date in IST.

    Raises:
        UnfitData: a column is missing, unknown or of another type, or a row names no contract.
    """
    _require_shape(frame)
    key = order_key(frame)
    order = np.argsort(key, kind="stable")
    ordered = frame.take(order)
    repeats = _exact_repeats(ordered, key[order])
    if repeats.any():
        ordered = ordered.iloc[~repeats]
    dropped = _count_by_contract(frame["instrument_key"], order[repeats])
    if (passed := _as_it_is(ordered, expiry)) is not None:
        nothing = passed.iloc[:0].assign(rule=_NO_TEXT, detail=_NO_TEXT)
        return Split(good=passed, bad=nothing, exact_duplicates=dropped)
    found = explain(ordered, candle_rules(expiry))
    is_bad = np.zeros(len(ordered), dtype=np.bool_)
    is_bad[found.index] = True
    good = (ordered.iloc[~is_bad] if len(found) else ordered).reset_index(drop=True).astype(_QUANTITIES)
    bad = ordered.iloc[is_bad].reset_index(drop=True).assign(rule=found["rule"].array, detail=found["detail"].array)
    return Split(
        # The gate: nothing goes on that the schema would refuse.
        good=candle_schema(expiry).validate(good, lazy=True),
        bad=_in_order(bad),
        exact_duplicates=dropped,
    )


def candle_outcomes(
    bad: pd.DataFrame,
    received: int,
    exact_duplicates: int,
    continuity: ContinuityReport,
    threshold: float,
) -> list[CheckOutcome]:
    """Turn the evidence of a cell into its four outcomes.

    Args:
        bad: the cell's quarantined rows: the columns of `Split.bad`; others are ignored.
        received: rows received, of which `bad` and the exact duplicates are a part.
        exact_duplicates: rows dropped.
        continuity: the report on the cell's good rows.
        threshold: share of bad rows, 0 to 1, above which the cell must not be written.

    Returns:
        ohlc, volume_and_open_interest, duplicates, timestamp_continuity; each fails if rows were quarantined under
        it, the last one also if a minute is missing across the chain.
    """
    unfit = len(bad) > threshold * received
    outcomes = []
    for name in (OHLC, VOLUME_AND_OPEN_INTEREST, DUPLICATES, TIMESTAMP_CONTINUITY):
        rows = bad[bad["rule"] == name]
        counts: dict[str, int | float] = {"received": received, "quarantined": len(rows)}
        failing = _readable(rows)
        sentence = _row_sentence(name, len(rows), received)
        missing = 0
        if name == DUPLICATES:
            counts["exact_duplicates"] = exact_duplicates
            if exact_duplicates:
                sentence += f"; {plural(exact_duplicates, 'exact duplicate')} dropped, which loses nothing"
        if name == TIMESTAMP_CONTINUITY:
            counts |= continuity.counts
            missing = len(continuity.missing)
            sentence += f"; {continuity.summary}"
            failing = pd.concat([shown(failing), shown(_missing_rows(continuity))])
        if unfit and len(rows):
            sentence = (
                f"The cell is not written: {len(bad):,} of {plural(received, 'row')} are bad, more than the share of "
                f"{threshold:g} that is allowed, {len(rows):,} of them under {name}"
            )
        outcomes.append(
            CheckOutcome(
                name=name,
                passed=not len(rows) and not missing,
                fatal=unfit and len(rows) > 0,
                summary=f"{sentence}.",
                counts=counts,
                failing=shown(failing),
            )
        )
    return outcomes


def _require_shape(frame: pd.DataFrame) -> None:
    """Refuse what the rules cannot read: they trust the columns and the unit of ts."""
    require_columns(frame, list(CANDLE_COLUMNS))
    unknown = [name for name in frame.columns if name not in CANDLE_COLUMNS]
    if unknown:
        raise UnfitData(f"The candles cannot be judged: the columns {', '.join(unknown)} are unknown.")
    if frame["ts"].dtype != "datetime64[us, UTC]":
        raise UnfitData(f"The candles cannot be judged: ts is {frame['ts'].dtype}, not datetime64[us, UTC].")
    strange = [name for name in (*PRICES, *_QUANTITIES) if frame[name].dtype not in ("float64", "int64")]
    if strange:
        raise UnfitData(f"The candles cannot be judged: {', '.join(strange)} must be float64 or int64.")
    if frame["instrument_key"].hasnans:
        raise UnfitData("The candles cannot be judged: some rows name no contract.")


def _as_it_is(ordered: pd.DataFrame, expiry: date) -> pd.DataFrame | None:
    """Return the whole batch when the schema lets it pass, as most do; then no row has to be looked at for a reason."""
    if any(ordered[name].dtype != dtype for name, dtype in _QUANTITIES.items()):
        return None
    try:
        return candle_schema(expiry).validate(ordered.reset_index(drop=True), inplace=True)
    except SchemaError:
        return None


def _exact_repeats(ordered: pd.DataFrame, key: NDArray[np.int64]) -> Mask:
    """Mark the second and later copies of equal rows in a sorted frame (NaN equals NaN).

    Rows without a timestamp are left alone: equal values do not make them the same bar.
    """
    repeats = np.zeros(len(ordered), dtype=np.bool_)
    same = key[1:] == key[:-1]
    if same.any():
        suspects = np.flatnonzero(np.append(same, False) | np.insert(same, 0, False))
        rows = ordered.iloc[suspects]
        repeats[suspects] = (rows.duplicated() & rows["ts"].notna()).to_numpy()
    return repeats


def _in_order(bad: pd.DataFrame) -> pd.DataFrame:
    """Sort bad rows by contract, time, then values, so that the order of arrival leaves no trace."""
    values = [bad[name].to_numpy() for name in reversed((*PRICES, *_QUANTITIES))]
    return bad.iloc[np.lexsort([*values, order_key(bad)])].reset_index(drop=True)


def _count_by_contract(keys: pd.Series, dropped: NDArray[np.intp]) -> pd.Series:
    """Count the dropped positions of each contract in the batch."""
    contracts = keys.astype("category").cat.remove_unused_categories()
    counts = np.bincount(contracts.cat.codes.to_numpy()[dropped], minlength=len(contracts.cat.categories))
    index = pd.Index(contracts.cat.categories.astype("str"), name="instrument_key")
    return pd.Series(counts.astype("int64"), index=index, name="exact_duplicates").sort_index()


def _row_sentence(name: str, broken: int, received: int) -> str:
    rows = plural(received, "row")
    if broken == 0:
        return f"None of {rows} breaks this rule"
    if name == DUPLICATES:
        what = "contradict another row of the same minute; every version is in quarantine"
    else:
        what = "broke this rule and are in quarantine"
    return f"{broken:,} of {rows} {what}: refetch the cell if these bars matter"


def _readable(rows: pd.DataFrame) -> pd.DataFrame:
    """Return quarantined rows for people: times in IST as text, and no more rows than are shown."""
    rows = rows.head(MAX_SHOWN)
    columns = ["instrument_key", "detail", *PRICES, *_QUANTITIES]
    times = rows["ts"].dt.tz_convert(IST).dt.strftime(_IST_FORMAT)
    readable = rows[columns].astype({"instrument_key": "str"})
    readable.insert(1, "time", times)
    return readable


def _missing_rows(continuity: ContinuityReport) -> pd.DataFrame:
    """Return minutes missing across the chain as rows of the same table."""
    times = continuity.missing["ts"].head(MAX_SHOWN).dt.tz_convert(IST).dt.strftime(_IST_FORMAT)
    return pd.DataFrame({"instrument_key": "every contract", "time": times, "detail": "no contract has this minute"})
