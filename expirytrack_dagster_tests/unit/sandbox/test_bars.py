"""Windows and coarser intervals of candle columns."""

from datetime import date, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expirytrack_dagster.sandbox.bars import WIDTHS, Bars, aggregate, epoch, filled, local_date, no_bars

DAY = date(2025, 8, 28)


def bars(minutes: list[int]) -> Bars:
    """Return distinct bars at these minutes after 09:15 of one day."""
    number = np.arange(len(minutes), dtype=np.int64)
    time = epoch(DAY, 33_300) + 60 * np.array(minutes, np.int64)
    price = 100 + number.astype(np.float64)
    return Bars(time, price, price + 2, price - 2, price + 1, number + 1, number * 10)


@given(st.lists(st.integers(0, 374), unique=True, min_size=1).map(sorted), st.sampled_from(sorted(WIDTHS)))
def test_aggregation_agrees_with_a_plain_loop(minutes: list[int], interval: str) -> None:
    """Open first, high max, low min, close last, volume sum, open interest last, in buckets from 09:15."""
    source = bars(minutes)
    result = aggregate(source, interval)
    width = WIDTHS[interval] // 60
    buckets: dict[int, list[int]] = {}
    for position, minute in enumerate(minutes):
        buckets.setdefault(minute // width, []).append(position)
    assert len(result) == len(buckets)
    for row, (bucket, positions) in enumerate(buckets.items()):
        start = epoch(DAY) if interval == "day" else epoch(DAY, 33_300) + bucket * width * 60
        assert result.time[row] == start
        assert result.open[row] == source.open[positions[0]]
        assert result.high[row] == source.high[positions].max()
        assert result.low[row] == source.low[positions].min()
        assert result.close[row] == source.close[positions[-1]]
        assert result.volume[row] == source.volume[positions].sum()
        assert result.open_interest[row] == source.open_interest[positions[-1]]


def test_window_includes_both_days() -> None:
    """A window of one day holds that day, and the neighbours hold nothing."""
    source = bars([0, 374])
    assert len(source.within(DAY, DAY)) == 2
    assert len(source.within(DAY + timedelta(days=1), DAY + timedelta(days=9))) == 0
    assert local_date(int(source.time[0])) == DAY


def test_gaps_are_filled_with_flat_bars_of_no_volume() -> None:
    """A bar of volume zero at the last close stands in each missing minute, and the real bars are untouched."""
    source = bars([0, 1, 4, 5])
    result = filled(source, "1minute")
    assert ((result.time - result.time[0]) // 60).tolist() == [0, 1, 2, 3, 4, 5]
    added = result.take(result.volume == 0)
    assert added.open.tolist() == added.high.tolist() == added.low.tolist() == added.close.tolist() == [102.0, 102.0]
    assert result.take(result.volume > 0).close.tolist() == source.close.tolist()


@pytest.mark.parametrize("interval", sorted(WIDTHS))
def test_no_candles_stay_no_candles(interval: str) -> None:
    """Nothing comes of nothing, without an error."""
    assert len(aggregate(no_bars(), interval)) == len(filled(no_bars(), interval)) == 0
