"""The coverage of a cell from staged files and the archive's counts."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from expirytrack_dagster.collect.coverage import coverage_of
from expirytrack_dagster.collect.staging import CellStaging

if TYPE_CHECKING:
    from pathlib import Path

SESSIONS = pd.DataFrame(
    {"day": ["2025-08-21"], "first": ["09:15"], "last": ["15:29"], "minutes": [375], "missing": [0], "quiet": [0]}
)
CONTRACTS = pd.DataFrame(
    {"instrument_key": ["a", "b", "c"], "instrument_type": ["CE", "PE", "FUT"], "strike_price": [100.0, 100.0, np.nan]}
)


def candles(key: str, number: int) -> pd.DataFrame:
    """Return the first minutes of a session."""
    ts = pd.Series(np.datetime64("2025-08-21T03:45", "us") + np.arange(number) * np.timedelta64(1, "m"))
    prices = dict.fromkeys(("open", "high", "low", "close"), 10.0)
    return pd.DataFrame(
        {"instrument_key": key, "ts": ts.dt.tz_localize("UTC"), **prices, "volume": 75, "open_interest": 75}
    )


def test_staged_and_archived_minutes_add_up(tmp_path: Path) -> None:
    """Two staged contracts in two files and an archived one are counted once each; bad rows are not."""
    staging = CellStaging(tmp_path)
    bad = candles("a", 3).assign(rule="ohlc", detail="x")
    batches = [staging.write(candles("a", 300), bad, []), staging.write(candles("b", 20), bad.head(0), [])]
    archived = pd.DataFrame({"instrument_key": ["c"], "day": [date(2025, 8, 21)], "traded": [375], "outside": [4]})
    days = coverage_of(CONTRACTS, batches, archived, SESSIONS).days.set_index("instrument_key")
    assert days["traded"].to_dict() == {"a": 300, "b": 20, "c": 375}
    assert days["outside"].to_dict() == {"a": 0, "b": 0, "c": 4}
