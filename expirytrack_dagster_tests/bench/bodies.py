"""Answers of 7,500 candles, made in advance: 40 contracts that traded every minute of 20 days.

Belongs here: the bodies alone, which two benchmarks read.
"""

from __future__ import annotations

from expirytrack_dagster.sandbox import wire
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket
from expirytrack_dagster_tests.bench.load import EXPIRY, TODAY

CANDLES = 7500
BODIES = 40


def bodies() -> list[tuple[str, bytes]]:
    """Return the key of each contract and its answer, newest candle first, as the API sends it."""
    market = SyntheticMarket(strikes=60, days=22, today=TODAY)
    rows = market.option_contracts("NSE_INDEX|Nifty 50", EXPIRY) or []
    middle = len(rows) // 2
    made = []
    for row in rows[middle - BODIES // 2 : middle + BODIES // 2]:
        key = str(row["instrument_key"])
        bars = market.minutes(key)
        if bars is None or len(bars) < CANDLES:
            raise AssertionError("contracts near the middle trade every minute")
        made.append((key, wire.candles(bars.take(slice(-1, -CANDLES - 1, -1)))))
    return made
