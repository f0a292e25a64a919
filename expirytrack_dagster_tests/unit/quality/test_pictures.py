"""Pictures: PNGs that are small enough for the event log, and nothing where there is nothing to draw."""

from __future__ import annotations

from datetime import date, timedelta
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from expirytrack_dagster.quality.coverage import Coverage
from expirytrack_dagster.quality.pictures import MAX_BYTES, coverage_map, violations


def coverage(strikes: int, days: int, *, future: bool, noisy: bool = False) -> Coverage:
    """Return a coverage in which calls traded half of each session, puts a third, and the future all of it."""
    listed = [("CE", 20_000.0 + 50 * number, 187) for number in range(strikes)]
    listed += [("PE", 20_000.0 + 50 * number, 125) for number in range(strikes)]
    listed += [("FUT", np.nan, 375)] * future
    random = np.random.default_rng(0)
    rows = [
        {
            "instrument_key": f"{kind}{strike}",
            "instrument_type": kind,
            "strike_price": strike,
            "day": date(2025, 6, 2) + timedelta(days=day),
            "minutes": 375,
            "traded": int(random.integers(0, 376)) if noisy else traded,
        }
        for kind, strike, traded in listed
        for day in range(days)
    ]
    return Coverage(
        pd.DataFrame(rows, columns=["instrument_key", "instrument_type", "strike_price", "day", "minutes", "traded"]),
        {},
    )


def colours(png: bytes) -> set[tuple[int, ...]]:
    """Return the colours that fill more than one pixel in a hundred."""
    picture = Image.open(BytesIO(png)).convert("RGB")
    counted = picture.getcolors(maxcolors=picture.width * picture.height) or []
    return {
        colour
        for count, colour in counted
        if isinstance(colour, tuple) and count > picture.width * picture.height / 100
    }


@pytest.mark.parametrize(
    ("strikes", "days", "future"),
    [(20, 5, True), (240, 60, True), (240, 5, False), (1, 1, False), (3, 200, True)],
    ids=["40 contracts", "480 contracts", "480 in a week", "one strike", "long"],
)
def test_a_coverage_map_is_small(strikes: int, days: int, future: bool) -> None:  # noqa: FBT001 -- a parameter of the test
    """From 2 to 481 contracts, even with no two values alike, the picture is a PNG below its bound."""
    png = coverage_map(coverage(strikes, days, future=future, noisy=True), "NIFTY")
    assert png is not None
    assert len(png) <= MAX_BYTES
    assert min(Image.open(BytesIO(png)).size) > 200


def test_a_coverage_map_shows_the_shares() -> None:
    """Half, a third and all of the minutes are three colours; without the future the third one is not there."""
    with_future, without = (coverage_map(coverage(20, 5, future=future), "NIFTY") for future in (True, False))
    assert with_future is not None
    assert without is not None
    assert len(colours(with_future)) == len(colours(without)) + 1


def test_an_empty_cell_has_no_picture() -> None:
    """Nothing to draw gives no picture."""
    assert coverage_map(coverage(2, 0, future=False), "NIFTY") is None


def spots(number: int) -> pd.DataFrame:
    """Return violations in different minutes of five days."""
    random = np.random.default_rng(0)
    start = np.datetime64("2025-08-18T03:45", "us")
    minutes = random.integers(0, 375, number) + 1_440 * random.integers(0, 5, number)
    ts = pd.Series(start + minutes * np.timedelta64(1, "m")).dt.tz_localize("UTC")
    return pd.DataFrame({"ts": ts, "strike_price": 24_000.0 + 50 * random.integers(0, 40, number)})


@pytest.mark.parametrize("number", [1, 50, 5_000])
def test_violations_are_drawn(number: int) -> None:
    """One violation or five thousand: a PNG below the bound, red where they lie."""
    png = violations(spots(number), "monotonic_strikes")
    assert png is not None
    assert len(png) <= MAX_BYTES
    pixels = np.asarray(Image.open(BytesIO(png)).convert("RGB"), dtype=np.int64)
    red = (pixels[..., 0] > 150) & (pixels[..., 1] < 80)
    assert red.sum() >= min(number, 1_000) * 4


def test_violations_without_a_strike_are_not_drawn() -> None:
    """A future has no place in the picture; alone it gives none."""
    assert violations(spots(0), "x") is None
    assert violations(spots(3).assign(strike_price=np.nan), "x") is None
