"""Bytes to validated columns, beside bare `orjson.loads` of the same bodies.

Ours is what a cell does between the network and the disk, on one thread: decode each answer, join a batch of 300,000
rows, and split good rows from bad ones. The peer only makes Python objects of the JSON, and checks nothing.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa

from expirytrack_dagster.quality.candles import split_candles
from expirytrack_dagster.upstox.decode import decode_candles
from expirytrack_dagster_tests.bench.bodies import BODIES, CANDLES, bodies
from expirytrack_dagster_tests.bench.figures import Figure
from expirytrack_dagster_tests.bench.load import EXPIRY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_BAR = 0.9

T = TypeVar("T")


def run(*, quick: bool) -> Iterator[Figure]:
    """Yield the ratio of the two throughputs, and where our time goes."""
    made = bodies()
    keys, answers = [key for key, _ in made], [body for _, body in made]
    rounds = [_round(keys, answers) for _ in range(3 if quick else 9)]
    parse, decode, join, validate = (statistics.median(part) for part in zip(*rounds, strict=True))
    ratio = statistics.median(peer / (ours + joining + checking) for peer, ours, joining, checking in rounds)
    rows = BODIES * CANDLES
    size = sum(map(len, answers)) / rows
    yield Figure(
        name="decode and validate",
        value=rows / (decode + join + validate) / 1e6,
        unit="M rows/s",
        beside=f"orjson.loads {rows / parse / 1e6:.2f} M rows/s",
        ratio=ratio,
        bar=f"ratio >= {_BAR}",
        passed=ratio >= _BAR,
        note=f"{BODIES} bodies of {CANDLES:,} candles, {size:.0f} bytes a candle, one thread, {len(rounds)} rounds:"
        f" decode {decode * 1000:.0f} ms, join {join * 1000:.0f} ms, validate {validate * 1000:.0f} ms,"
        f" orjson.loads {parse * 1000:.0f} ms",
    )


def _round(keys: Sequence[str], answers: Sequence[bytes]) -> tuple[float, float, float, float]:
    """Return the seconds of the peer and of our three steps, measured next to each other."""
    parse, _ = _timed(lambda: [orjson.loads(body) for body in answers])
    decode, tables = _timed(lambda: [decode_candles(body) for body in answers])
    join, frame = _timed(lambda: _join(keys, tables))
    validate, split = _timed(lambda: split_candles(frame, EXPIRY))
    if len(split.good) != len(answers) * CANDLES:
        raise AssertionError("the sandbox's candles are good")
    return parse, decode, join, validate


def _join(keys: Sequence[str], tables: Sequence[pa.Table]) -> pd.DataFrame:
    frame: pd.DataFrame = pa.concat_tables(tables).to_pandas()
    codes = np.repeat(np.arange(len(keys), dtype=np.int32), [table.num_rows for table in tables])
    return frame.assign(instrument_key=pd.Categorical.from_codes(codes, categories=pd.Index(list(keys), dtype="str")))


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result
