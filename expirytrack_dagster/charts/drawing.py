"""From the archive to a picture: what a chart needs is read here, and the drawing is left to its module."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

import pandas as pd

from expirytrack_dagster.charts.bars import draw_bars, fitting
from expirytrack_dagster.charts.paper import DOTS, save
from expirytrack_dagster.charts.smile import draw_smile
from expirytrack_dagster.collect.coverage import coverage_of
from expirytrack_dagster.errors import ConfigurationError, StorageError
from expirytrack_dagster.export.cell import opened
from expirytrack_dagster.export.selection import Interval, Selection
from expirytrack_dagster.ist import IST
from expirytrack_dagster.quality.continuity import assess_continuity
from expirytrack_dagster.quality.coverage import spans
from expirytrack_dagster.quality.pictures import coverage_map, png
from expirytrack_dagster.symbology import nse, openalgo, upstox
from expirytrack_dagster.upstox.keys import ExpiredKey
from expirytrack_dagster.warehouse import reader

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure

    from expirytrack_dagster.symbology.contract import Contract
    from expirytrack_dagster.warehouse.connection import Warehouse

_LISTED = "SELECT instrument_key, underlying, expiry, instrument_type, strike_price, weekly FROM contracts"
_OF_KEY = "minute, ts, open, high, low, close, volume, open_interest"

_SMILE = """
SELECT strike_price, instrument_type, volatility, forward FROM implied_volatility
WHERE underlying = $underlying AND expiry = $expiry AND ts = $instant AND forward IS NOT NULL
ORDER BY strike_price
"""
_PARITY = """
SELECT ts, strike_price, ce_close - pe_close - (forward - strike_price) * exp(-rate * years) AS residual
FROM option_chain
WHERE underlying = $underlying AND expiry = $expiry AND ts >= $start AND ts < $end
    AND ce_volume > 0 AND pe_volume > 0
ORDER BY ts, strike_price
"""
_LATEST = """
SELECT max(ts) FROM implied_volatility
WHERE underlying = $underlying AND expiry = $expiry AND volatility IS NOT NULL
    AND (epoch(ts) // 60 + 330) % 1440 < $noon
"""
_SMALL = 72  # pixels an inch: in full size the bands would lose their shades, lest it be too large
_NOON = 12 * 60  # minutes since midnight in India


def bars_chart(
    warehouse: Warehouse, name: str, target: Path, selection: Selection, interval: Interval | None = None
) -> str:
    """Draw the bars of a contract, and return its title.

    Args:
        warehouse: the archive.
        name: of the contract: an instrument key, or its symbol at Upstox, OpenAlgo or the exchange.
        target: a .png or .svg file.
        selection: which days and times.
        interval: of the bars; by default the narrowest whose bars fit into a picture.

    Raises:
        ConfigurationError: there is no such contract, or it has no bar then.
        StorageError: the archive cannot be read or the file cannot be written.
    """
    found = find_contract(warehouse, name)
    minutes = _of_contract(warehouse, found, selection)
    if minutes.empty:
        raise ConfigurationError(f"The archive has no bar of {found['title']} in that time.")
    chosen = interval or fitting(minutes)
    if chosen is not Interval.MINUTE:
        minutes = _of_contract(warehouse, found, replace(selection, interval=chosen))
    minutes = minutes.assign(ts=minutes["ts"].dt.tz_convert(IST))
    ends = dict.fromkeys(f"{moment:%d %b %Y}" for moment in (minutes["ts"].iloc[0], minutes["ts"].iloc[-1]))
    title = f"{found['title']}: {' to '.join(ends)}, {len(minutes):,} bars of {chosen.words}"
    save(draw_bars(minutes, title), target)
    return title


def smile_chart(warehouse: Warehouse, underlying: str, expiry: date, instant: datetime | None, target: Path) -> str:
    """Draw the smile of a cell in a minute with the residuals of parity of its day, and return its title.

    Args:
        warehouse: the archive.
        underlying: short symbol.
        expiry: the cell's date.
        instant: any time in the minute; by default the last one before noon in India that has a volatility.
        target: a .png or .svg file.

    Raises:
        ConfigurationError: the cell has no volatility in that minute, or none was derived yet.
        StorageError: the archive cannot be read or the file cannot be written.
    """
    figure, title = _smile(warehouse, underlying, expiry, instant)
    save(figure, target)
    return title


def smile_picture(warehouse: Warehouse, underlying: str, expiry: date) -> bytes | None:
    """Return the smile of the last minute before noon as a small PNG; None where nothing has a volatility."""
    try:
        figure, _ = _smile(warehouse, underlying, expiry, None, dots=_SMALL)
    except ConfigurationError:
        return None
    return png(figure)


def _smile(
    warehouse: Warehouse, underlying: str, expiry: date, instant: datetime | None, dots: int = DOTS
) -> tuple[Figure, str]:
    bound: dict[str, Any] = {"underlying": underlying, "expiry": expiry}
    with warehouse.reading() as connection:
        if instant is None:
            (instant,) = connection.execute(_LATEST, {**bound, "noon": _NOON}).fetchone() or (None,)
        if instant is None:
            raise ConfigurationError(
                f"There are no volatilities of {underlying} {expiry} yet: run 'expirytrack derive {underlying} "
                f"--expiry {expiry}' first."
            )
        local = instant.astimezone(IST).replace(second=0, microsecond=0)
        start = datetime.combine(local.date(), time(), IST)
        moment = connection.execute(_SMILE, {**bound, "instant": local}).to_arrow_table().to_pandas()
        day = {**bound, "start": start, "end": start + timedelta(days=1)}
        chain = connection.execute(_PARITY, day).to_arrow_table().to_pandas()
    if moment["volatility"].isna().all():
        raise ConfigurationError(
            f"No option of {underlying} {expiry} has a volatility at {local:%Y-%m-%d %H:%M} in India."
        )
    title = f"{underlying} {expiry}: {local:%d %b %Y %H:%M} in India, {moment['strike_price'].nunique()} strikes"
    return draw_smile(moment, chain.assign(ts=chain["ts"].dt.tz_convert(IST)), title, dots), title


def coverage_chart(warehouse: Warehouse, underlying: str, expiry: date, target: Path) -> str:
    """Draw the share of each day's minutes in which each contract of a cell traded, and return its title.

    It is the picture that the collection of the cell left in the catalogue, made from the archive as it is now.

    Raises:
        ConfigurationError: the cell has no candle, or the file is not a .png.
        StorageError: the archive cannot be read or the file cannot be written.
    """
    if target.suffix.lower() != ".png":
        raise ConfigurationError(f"A coverage map is a .png file, and {target.name} is not.")
    contracts = reader.contracts(warehouse, underlying, expiry)
    sessions = assess_continuity(reader.minutes(warehouse, underlying, expiry)).sessions
    archived = reader.trades(warehouse, underlying, expiry, spans(sessions))
    title = f"{underlying} {expiry}: {len(contracts):,} contracts"
    image = coverage_map(coverage_of(contracts, [], archived, sessions), title)
    if image is None:
        raise ConfigurationError(f"The archive has no candle of {underlying} {expiry}.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(image)
    except OSError as error:
        raise StorageError(f"{target} cannot be written: {error.strerror or error}.") from error
    return title


def find_contract(warehouse: Warehouse, name: str) -> dict[str, Any]:
    """Return underlying, expiry, key and title of a contract of the archive, however it is named.

    Text that one notation reads as one contract and another as another (`NIFTY25AUG24500PE` is the 500 put of 25
    August 2024 to OpenAlgo) means the one that the archive lists.

    Raises:
        ConfigurationError: the archive lists no such contract, or more than one.
    """
    with warehouse.reading() as connection:
        listed = connection.execute(_LISTED).to_arrow_table().to_pandas()
    listed["expiry"] = pd.to_datetime(listed["expiry"]).dt.date
    if "|" in name:
        found = listed[listed["instrument_key"] == str(ExpiredKey.parse(name, "contract"))]
    else:
        named = pd.Series(data=False, index=listed.index)
        for meant in _meanings(name.strip().upper(), listed):
            named |= _is(listed, meant)
        found = listed[named]
    if len(found) != 1:
        how = "no contract" if found.empty else f"{len(found)} contracts"
        raise ConfigurationError(f"The archive lists {how} of the name {name}: give its instrument key.")
    row = found.iloc[0]
    strike = "" if pd.isna(row["strike_price"]) else f" {row['strike_price']:g}"
    title = f"{row['underlying']}{strike} {row['instrument_type']}, expiry {row['expiry']:%d %b %Y}"
    return {"underlying": row["underlying"], "expiry": row["expiry"], "key": row["instrument_key"], "title": title}


def _meanings(text: str, listed: pd.DataFrame) -> list[Contract]:
    # Of an expiry with futures alone the API says nothing: it is left out rather than guessed.
    flags = listed[listed["weekly"].notna()].groupby(["underlying", "expiry"])["weekly"].first()
    expiries = flags.reset_index().to_dict("records")
    exchange = nse.Reader(nse.Expiry(row["underlying"], row["expiry"], bool(row["weekly"])) for row in expiries)
    found = []
    for parse in (upstox.parse, openalgo.parse, exchange.parse):
        with suppress(ConfigurationError):
            found.append(parse(text))
    return found


def _is(listed: pd.DataFrame, contract: Contract) -> pd.Series:
    same = (listed["underlying"] == contract.underlying) & (listed["expiry"] == contract.expiry)
    same &= listed["instrument_type"] == contract.kind
    return same if contract.strike is None else same & (listed["strike_price"] == float(contract.strike))


def _of_contract(warehouse: Warehouse, found: dict[str, Any], selection: Selection) -> pd.DataFrame:
    with opened(warehouse, found["underlying"], found["expiry"], selection) as cell:
        query = f"{cell.select(_OF_KEY)} WHERE instrument_key = $key ORDER BY minute"
        frame: pd.DataFrame = (
            cell.connection.execute(query, {**cell.bound, "key": found["key"]}).to_arrow_table().to_pandas()
        )
    return frame
