"""The token bucket: no more than its depth at once, its rate in the long run, and never a needless wait."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expirytrack_dagster.upstox.pacing import Bucket

START = 1_750_000_000.0
GAPS = st.lists(st.floats(0, 0.5), min_size=1, max_size=60)


@given(GAPS, st.integers(1, 8))
def test_bucket_lets_through_its_depth_and_its_rate(gaps: list[float], depth: int) -> None:
    """Any stretch of time sees at most `depth` requests and one more an interval; waits are exact."""
    bucket, now, full_at, sent, tokens = Bucket(0.05, depth), START, START, list[float](), float(depth)
    for gap in gaps:
        now += gap
        tokens = min(depth, tokens + gap / 0.05)
        wait = bucket.seconds_to_token(full_at, now)
        assert wait == pytest.approx(max(0.0, 1 - tokens) * 0.05, abs=1e-5)
        now += wait
        tokens = min(depth, tokens + wait / 0.05) - 1
        full_at = bucket.without_token(full_at, now)
        sent.append(now)
    for first in range(len(sent)):
        for last in range(first, len(sent)):
            assert last - first + 1 <= depth + (sent[last] - sent[first]) / 0.05 + 1e-3


def test_bucket_of_the_future_is_empty_and_no_more() -> None:
    """After a jump of the clock back, the next token is one interval away."""
    bucket = Bucket(0.02, 5)
    assert bucket.seconds_to_token(START + 3600, START) == pytest.approx(0.02)
    assert bucket.without_token(START + 3600, START) == pytest.approx(START + 0.1, abs=1e-5)
