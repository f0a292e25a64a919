"""Planted candles are listed exactly as they are served."""

from collections import Counter
from datetime import date

import pytest

from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.sandbox import wire
from expirytrack_dagster.sandbox.bars import no_bars
from expirytrack_dagster.sandbox.planting import CHAIN_KINDS, ROW_KINDS, Plant, PlantedMarket
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket

EXPIRY = date(2025, 8, 28)
CLEAN = SyntheticMarket(today=date(2026, 11, 20))
KEY = "NSE_FO|35042|28-08-2025"
MARKET = PlantedMarket(CLEAN, [Plant((KEY,))])


def served(from_date: date, to_date: date, interval: str = "1minute") -> Counter[str]:
    """Return the planted market's rows as text, with their counts."""
    bars = MARKET.candles(KEY, interval, from_date, to_date)
    assert bars is not None
    return Counter(map(str, wire.rows(bars)))


def clean(interval: str = "1minute") -> Counter[str]:
    """Return the rows of the unspoilt market."""
    bars = CLEAN.candles(KEY, interval, date(2025, 8, 1), EXPIRY)
    assert bars is not None
    return Counter(map(str, wire.rows(bars)))


def test_every_difference_is_listed() -> None:
    """What is served and was not clean is exactly what is listed, and only replaced rows are gone."""
    rows = served(date(2025, 8, 1), EXPIRY)
    planted = MARKET.planted()
    assert {row.kind for row in planted} == set(ROW_KINDS)
    listed = {str(row.candle) for row in planted}
    assert set(rows - clean()) <= listed
    # What is listed and yet not new is the untouched half of the two duplicates.
    assert {row.kind for row in planted if str(row.candle) in clean()} == {"conflicting_duplicate", "exact_duplicate"}
    assert all(rows[row] for row in listed)
    assert sum((clean() - rows).values()) == 6
    assert sum(rows.values()) == sum(clean().values()) + 4


def test_each_kind_breaks_its_own_rule() -> None:
    """Each planted row is faulty in the way that its kind says."""
    rows = {kind: [row.candle for row in MARKET.planted() if row.kind == kind] for kind in ROW_KINDS}
    (_, _, high, low, *_), *_ = rows["high_below_low"]
    assert float(str(high)) < float(str(low))
    (_, opened, high, low, *_), *_ = rows["low_above_open"]
    assert float(str(opened)) < float(str(low)) == float(str(high))
    assert float(str(rows["negative_volume"][0][5])) < 0
    assert float(str(rows["negative_open_interest"][0][6])) < 0
    assert rows["null_price"][0][4] is None
    assert rows["zero_price"][0][1:5] == [0, 0, 0, 0]
    assert str(rows["after_expiry"][0][0]).startswith("2025-08-29T15:29:00")
    assert str(rows["off_the_minute"][0][0])[17:19] == "30"
    first, second = rows["conflicting_duplicate"]
    assert first[0] == second[0]
    assert first != second
    first, second = rows["exact_duplicate"]
    assert first == second


def test_a_window_brings_the_planted_rows_of_its_days() -> None:
    """Day by day gives the same rows as all days at once, the bar after expiry with the expiry day."""
    days = [date(2025, 8, day) for day in range(20, 29)]
    assert sum((served(day, day) for day in days), Counter()) == served(date(2025, 8, 1), EXPIRY)
    assert any("2025-08-29" in row for row in served(EXPIRY, EXPIRY))


def test_coarser_intervals_stay_clean() -> None:
    """Faults of rows spoil one-minute answers only; faults of the chain are in the daily candles as well."""
    assert served(date(2025, 8, 1), EXPIRY, "day") == clean("day")
    market = PlantedMarket(CLEAN, [Plant((KEY,), ("far_off_price",))])
    (row,) = market.planted()
    days = market.candles(KEY, "day", date(2025, 8, 1), EXPIRY)
    assert days is not None
    assert float(str(row.candle[2])) in days.high


@pytest.mark.parametrize("key", ["NSE_FO|1|28-08-2025", "NSE_FO|35001|28-08-2025"], ids=["unknown", "never traded"])
def test_nowhere_to_plant(key: str) -> None:
    """A contract that is unknown or never traded cannot be spoilt, and the error says so."""
    with pytest.raises(ConfigurationError, match="too few candles"):
        PlantedMarket(CLEAN, [Plant((key,))])


def test_faults_of_a_chain() -> None:
    """A price far off, an open interest that jumps, two exchanged minutes and a withheld one are listed as served."""
    keys = ("NSE_FO|35020|28-08-2025", "NSE_FO|35022|28-08-2025")
    market = PlantedMarket(CLEAN, [Plant(keys, CHAIN_KINDS)])
    planted = market.planted()
    assert [(row.instrument_key, row.kind) for row in planted] == [
        (key, kind)
        for key in keys
        for kind in ("swapped_strikes", "missing_minute", "far_off_price", "open_interest_jump")
    ]
    for key, other in (keys, keys[::-1]):
        clean_rows = {str(row[0]): row for row in wire.rows(CLEAN.minutes(key) or no_bars())}
        others = {str(row[0]): row for row in wire.rows(CLEAN.minutes(other) or no_bars())}
        served_rows = {str(row[0]): row for row in wire.rows(market.minutes(key) or no_bars())}
        swapped, missing, far, jump = (row.candle for row in planted if row.instrument_key == key)
        assert served_rows[str(swapped[0])] == swapped == others[str(swapped[0])]
        assert str(missing[0]) not in served_rows
        assert clean_rows[str(missing[0])] == missing
        assert float(str(far[4])) > float(str(clean_rows[str(far[0])][4])) + 99
        assert int(str(jump[6])) > 9 * int(str(clean_rows[str(jump[0])][6]))
        changed = {time for time, row in served_rows.items() if row != clean_rows[time]}
        assert changed == {str(swapped[0]), str(far[0]), str(jump[0])}
        assert len(served_rows) == len(clean_rows) - 1


def test_nothing_to_swap() -> None:
    """Two contracts without a common minute cannot be swapped, and the error says so."""
    one_day = SyntheticMarket(days=1, today=date(2026, 11, 20))
    with pytest.raises(ConfigurationError, match="no minute in common"):
        PlantedMarket(one_day, [Plant((KEY, "NSE_FO|35020|02-09-2025"), ("swapped_strikes",))])
