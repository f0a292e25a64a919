"""Bodies as bytes."""

import json
from datetime import datetime

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from expirytrack_dagster.sandbox import wire
from expirytrack_dagster.sandbox.bars import IST, Bars, no_bars

PRICE = st.integers(1, 10**8).map(lambda ticks: ticks / 20)
ROW = st.tuples(
    st.integers(1_500_000_000, 1_900_000_000), PRICE, PRICE, PRICE, PRICE, st.integers(-(10**9), 10**12), st.integers(0)
)


@given(st.lists(ROW.filter(lambda row: row[6] < 2**62), min_size=1, max_size=20))
def test_candle_body_reads_back_as_written(rows: list[tuple[int, float, float, float, float, int, int]]) -> None:
    """Any candles survive the wire: times to the second with the IST offset, prices and counts exactly."""
    time, *prices, volume, interest = zip(*rows, strict=True)
    opened, high, low, close = (np.array(column, np.float64) for column in prices)
    counts = (np.array(column, np.int64) for column in (volume, interest))
    body = wire.candles(Bars(np.array(time, np.int64), opened, high, low, close, *counts))
    read = json.loads(body)["data"]["candles"]
    stamps = [datetime.fromtimestamp(row[0], IST).isoformat() for row in rows]
    assert read == [[stamp, *row[1:]] for stamp, row in zip(stamps, rows, strict=True)]


def test_whole_prices_are_integers_on_the_wire() -> None:
    """24624 stands next to 24618.9, as in the recorded answers."""
    counts = [np.array([count], np.int64) for count in (1754042340, 31125, 0)]
    opened, high, low, close = (np.array([price]) for price in (24618.9, 24624.0, 24612.1, 24618.0))
    bars = Bars(counts[0], opened, high, low, close, counts[1], counts[2])
    expected = (
        b'{"status":"success","data":{"candles":[["2025-08-01T15:29:00+05:30",24618.9,24624,24612.1,24618,31125,0]]}}'
    )
    assert wire.candles(bars) == expected


def test_no_candles() -> None:
    """An empty answer has the documented body."""
    assert wire.candles(no_bars()) == b'{"status":"success","data":{"candles":[]}}'


def test_error_body_has_both_spellings() -> None:
    """Old camelCase and new snake_case keys are both there."""
    assert json.loads(wire.Refusal(400, "UDAPI100011", "Invalid Instrument key").body()) == {
        "status": "error",
        "errors": [
            {
                "errorCode": "UDAPI100011",
                "message": "Invalid Instrument key",
                "propertyPath": None,
                "invalidValue": None,
                "error_code": "UDAPI100011",
                "property_path": None,
                "invalid_value": None,
            }
        ],
    }
