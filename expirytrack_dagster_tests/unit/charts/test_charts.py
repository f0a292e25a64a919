"""Pictures: drawn from a real archive, whole files of the kind asked for; what cannot be drawn is a sentence."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection
from matplotlib.patches import Rectangle
from PIL import Image

from expirytrack_dagster.charts import drawing
from expirytrack_dagster.charts.bars import MOST, draw_bars, fitting
from expirytrack_dagster.charts.paper import check_file
from expirytrack_dagster.charts.smile import draw_smile
from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.export.selection import Interval, Selection
from expirytrack_dagster.ist import IST
from expirytrack_dagster.warehouse.derived import derive
from expirytrack_dagster_tests.unit.export.conftest import DAYS, MONTHLY, WEEKLY

if TYPE_CHECKING:
    from pathlib import Path

    from expirytrack_dagster.warehouse.connection import Warehouse


def labels(picture: Path) -> str:
    """Return the comments of an SVG, in which matplotlib says what each text is."""
    return " ".join(part for part in picture.read_text(encoding="utf-8").split("<!-- ")[1:])


@pytest.mark.parametrize(
    "name",
    [
        *("NSE_FO|40005|28-08-2025", "NIFTY 24500 PE 28 AUG 25", "NIFTY28AUG2524500PE", "nifty28aug2524500pe"),
        "NIFTY25AUG24500PE",  # OpenAlgo would read 25 August 2024 and the strike 500
    ],
)
def test_a_contract_is_drawn_by_any_of_its_names(warehouse: Warehouse, tmp_path: Path, name: str) -> None:
    """An instrument key, or a symbol of Upstox, OpenAlgo or the exchange: the same contract."""
    title = drawing.bars_chart(warehouse, name, tmp_path / "bars.png", Selection())
    assert title == "NIFTY 24500 PE, expiry 28 Aug 2025: 26 Aug 2025 to 28 Aug 2025, 24 bars of 1 minute"
    with Image.open(tmp_path / "bars.png") as picture:
        assert picture.size[0] > 1000
        assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 50
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".png"] == ["bars.png"]


def test_a_weekly_symbol_finds_the_weekly_contract(warehouse: Warehouse) -> None:
    """The exchange's weekly notation goes by the API's word."""
    assert drawing.find_contract(warehouse, "NIFTY2590224500PE")["expiry"] == WEEKLY
    assert drawing.find_contract(warehouse, "NIFTY28AUG25FUT")["key"] == "NSE_FO|40099|28-08-2025"
    for name in ("NIFTY2582824500PE", "NIFTY28AUG2599999PE", "NSE_FO|1|28-08-2025", "nonsense", "NSE_FO|x"):
        with pytest.raises(ConfigurationError):
            drawing.find_contract(warehouse, name)


def test_an_svg_is_well_formed_and_labelled(warehouse: Warehouse, tmp_path: Path) -> None:
    """Text is drawn as paths, and said in comments: units and the axis of time are there."""
    drawing.bars_chart(warehouse, "NIFTY28AUG25FUT", tmp_path / "bars.svg", Selection(), Interval.FIVE)
    ET.parse(tmp_path / "bars.svg")  # noqa: S314 - made by ourselves
    said = labels(tmp_path / "bars.svg")
    for words in ("price, rupees", "volume", "open interest", "26 Aug 2025", "6 bars of 5 minutes"):
        assert words in said


def test_days_without_a_bar_are_told(warehouse: Warehouse, tmp_path: Path) -> None:
    """And no file is left."""
    selection = Selection(first_day=DAYS[1].replace(year=2026))
    with pytest.raises(ConfigurationError, match="has no bar of NIFTY FUT"):
        drawing.bars_chart(warehouse, "NIFTY28AUG25FUT", tmp_path / "bars.png", selection)
    assert not (tmp_path / "bars.png").exists()


def test_the_interval_fits_the_picture() -> None:
    """A day in minutes, a week in five or so, years in days."""
    for days, expected in ((1, Interval.MINUTE), (5, Interval.FIVE), (20, Interval.THIRTY), (250, Interval.DAY)):
        minute = (np.arange(days)[:, None] * 1440 + np.arange(375)).ravel()
        chosen = fitting(pd.DataFrame({"minute": minute}))
        assert chosen is expected
        assert np.unique(minute // chosen.minutes).size <= MOST


def test_candles_have_their_colours_and_bodies() -> None:
    """Green where the close is not below the open, a body from open to close, a line from low to high."""
    ts = pd.Series(pd.date_range("2025-08-28 09:15", periods=3, freq="min", tz=IST))
    bars = pd.DataFrame(
        {"ts": ts, "open": [10.0, 12, 11], "high": [13.0, 13, 11], "low": [9.0, 10, 11], "close": [12.0, 11, 11],
         "volume": [0, 75, 150], "open_interest": [75, 75, 75]}
    )  # fmt: skip
    prices, volume, interest = draw_bars(bars, "three").axes
    bodies = [patch.get_bbox() for patch in prices.patches if isinstance(patch, Rectangle)]
    assert [(body.y0, round(body.y1, 2)) for body in bodies] == [(10.0, 12.0), (11.0, 12.0), (11.0, 11.01)]
    green, red = (prices.patches[at].get_facecolor() for at in (0, 1))
    assert green == prices.patches[2].get_facecolor() != red
    (wicks,) = prices.collections
    assert isinstance(wicks, LineCollection)
    assert [segment[:, 1].tolist() for segment in wicks.get_segments()] == [[9, 13], [10, 13], [11, 11]]
    assert [patch.get_height() for patch in volume.patches if isinstance(patch, Rectangle)] == [0, 75, 150]
    assert interest.get_ylim()[0] == 0


def test_a_bar_at_the_lowest_price_is_seen() -> None:
    """It lies above the frame, not on it: a dying option trades at its lowest price for days."""
    start = datetime(2025, 8, 28, 9, 15, tzinfo=IST)
    bars = pd.DataFrame({"ts": pd.to_datetime([start, start + timedelta(minutes=1)]), "volume": 1, "open_interest": 1})
    bars = bars.assign(open=[1.0, 0.05], high=[1.0, 0.05], low=[0.05, 0.05], close=[0.05, 0.05])
    lowest, _ = draw_bars(bars, "two").axes[0].get_ylim()
    assert lowest < 0.04


def test_a_smile_is_drawn_from_derived_volatilities(warehouse: Warehouse, tmp_path: Path) -> None:
    """It says what to do before there are any; then the minute that was asked for, or the last one before noon."""
    with pytest.raises(ConfigurationError, match="expirytrack derive NIFTY --expiry 2025-08-28"):
        drawing.smile_chart(warehouse, "NIFTY", MONTHLY, None, tmp_path / "smile.svg")
    for table in ("option_chain", "implied_volatility"):
        derive(warehouse, table, "NIFTY", MONTHLY, 0.065)
    at = datetime(2025, 8, 26, 3, 50, 30, tzinfo=UTC)
    title = drawing.smile_chart(warehouse, "NIFTY", MONTHLY, at, tmp_path / "smile.svg")
    assert title == "NIFTY 2025-08-28: 26 Aug 2025 09:20 in India, 6 strikes"
    assert "forward 24,51" in labels(tmp_path / "smile.svg")
    latest = drawing.smile_chart(warehouse, "NIFTY", MONTHLY, None, tmp_path / "late.svg")
    assert "28 Aug 2025 09:2" in latest
    with pytest.raises(ConfigurationError, match="No option of NIFTY 2025-08-28 has a volatility"):
        drawing.smile_chart(warehouse, "NIFTY", MONTHLY, at.replace(hour=9), tmp_path / "none.svg")


def test_points_of_a_smile_lie_where_their_numbers_are() -> None:
    """Calls and puts apart, in and out of the money apart; rows without a volatility are left out."""
    volatilities = pd.DataFrame(
        {"strike_price": [90.0, 110.0, 90.0, 110.0, 120.0], "instrument_type": ["CE", "CE", "PE", "PE", "PE"],
         "volatility": [0.2, 0.15, 0.21, None, 0.18], "forward": 100.0}
    )  # fmt: skip
    ts = pd.Series(pd.date_range("2025-08-28 09:15", periods=2, freq="min", tz=IST).repeat(3))
    chain = pd.DataFrame({"ts": ts, "strike_price": [90.0, 100, 110] * 2, "residual": [-1.0, 0, 2, None, 1, 3]})
    smile, parity = draw_smile(volatilities, chain, "few").axes
    drawn = {points.get_label(): np.asarray(points.get_offsets()).tolist() for points in smile.collections}
    assert drawn == {
        "calls, out of the money": [[110.0, 15.0]], "calls, in the money": [[90.0, 20.0]],
        "puts, out of the money": [[90.0, 21.0]], "puts, in the money": [[120.0, 18.0]],
    }  # fmt: skip
    medians = next(line for line in parity.lines if line.get_label() == "median strike")
    assert np.asarray(medians.get_xydata()).tolist() == [[555.0, 0.0], [556.0, 2.0]]


def test_coverage_is_drawn_from_the_archive(warehouse: Warehouse, tmp_path: Path) -> None:
    """The map of a collected cell; a cell without a candle has none."""
    title = drawing.coverage_chart(warehouse, "NIFTY", MONTHLY, tmp_path / "coverage.png")
    assert title == "NIFTY 2025-08-28: 13 contracts"
    with Image.open(tmp_path / "coverage.png") as picture:
        assert picture.format == "PNG"
    with pytest.raises(ConfigurationError, match="no candle of NIFTY 2030-01-01"):
        drawing.coverage_chart(warehouse, "NIFTY", MONTHLY.replace(2030, 1, 1), tmp_path / "none.png")
    with pytest.raises(ConfigurationError, match=r"is a \.png file"):
        drawing.coverage_chart(warehouse, "NIFTY", MONTHLY, tmp_path / "coverage.svg")


def test_a_picture_is_replaced_only_when_told(tmp_path: Path) -> None:
    """And only its own kinds of file are made."""
    (tmp_path / "a.png").touch()
    with pytest.raises(ConfigurationError, match="--overwrite"):
        check_file(tmp_path / "a.png", overwrite=False)
    assert check_file(tmp_path / "a.png", overwrite=True) == tmp_path / "a.png"
    for name in ("a.pdf", "a", "a.png.exe"):
        with pytest.raises(ConfigurationError, match=r"\.svg"):
            check_file(tmp_path / name, overwrite=True)
