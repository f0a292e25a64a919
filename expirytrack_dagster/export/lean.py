"""The data folder of QuantConnect's LEAN, market `india`: minute bars, open interest, and the universe of each day.

Source: LEAN's documentation of its data format and the reader of its option universes. A zip holds a day, with one CSV
file for each contract: milliseconds since midnight (in India), then the prices of options times 10,000 and those of
futures as they are, then the volume. Options are European. Volume and open interest are units of the underlying, as in
the archive, so a contract's multiplier is one. A universe file lists the contracts of a day with their daily bar;
columns of greeks are left empty, and the line of the underlying is left out: the archive has no prices of underlyings.
"""

from __future__ import annotations

import zipfile
from collections import Counter
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.export.written import Written, writing

if TYPE_CHECKING:
    from pathlib import Path

    from expirytrack_dagster.export.cell import Cell

_OPTIONS = "#expiry,strike,right,open,high,low,close,volume,open_interest,implied_volatility,delta,gamma,vega,theta,rho"
_FUTURES = "#expiry,open,high,low,close,volume,open_interest"

_DAYS = "SELECT DISTINCT (minute + 330) // 1440 FROM ({bars}) AS bars ORDER BY ALL"

_CONTRACT_DAYS = """
SELECT
    instrument_key,
    instrument_type,
    strike,
    string_agg(concat_ws(',', moment, {prices}, volume), chr(10) ORDER BY minute) AS trades,
    string_agg(concat_ws(',', moment, open_interest), chr(10) ORDER BY minute) AS interests,
    count(*) AS bars,
    arg_min(open, minute) AS open,
    max(high) AS high,
    min(low) AS low,
    arg_max(close, minute) AS close,
    sum(volume)::BIGINT AS volume,
    arg_max(open_interest, minute) AS open_interest
FROM (SELECT *, (minute + 330) % 1440 * 60000 AS moment FROM ({bars}) AS bars) AS bars
WHERE (minute + 330) // 1440 = $day AND (instrument_type = 'FUT') = $futures
GROUP BY instrument_key, instrument_type, strike, strike_price
ORDER BY strike_price, instrument_type
"""
_SCALED = ", ".join(f"round({name} * 10000)::BIGINT" for name in ("open", "high", "low", "close"))
_PLAIN = "open, high, low, close"


def write(cell: Cell, folder: Path) -> Written:
    """Write a cell, one day at a time; zips and universes of days that other expiries share are continued.

    Raises:
        ConfigurationError: the underlying is neither an index nor a share, or two contracts have the same name.
    """
    files: Counter[str] = Counter()
    bars = 0
    for (day,) in cell.connection.execute(_DAYS.format(bars=cell.bars), cell.bound).fetchall():
        for futures in (False, True):
            query = _CONTRACT_DAYS.format(bars=cell.bars, prices=_PLAIN if futures else _SCALED)
            found = cell.connection.execute(query, {**cell.bound, "day": day, "futures": futures})
            names = [column[0] for column in found.description or ()]
            contracts = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
            if contracts:
                files += _write_day(cell, folder, date(1970, 1, 1) + timedelta(days=day), contracts, futures=futures)
                bars += sum(contract["bars"] for contract in contracts)
    return Written(bars, files)


def _write_day(cell: Cell, folder: Path, day: date, contracts: list[dict[str, Any]], *, futures: bool) -> Counter[str]:
    ticker, root = cell.underlying.lower(), "future" if futures else _option_folder(cell)
    files: Counter[str] = Counter()
    for kind, column in (("trade", "trades"), ("openinterest", "interests")):
        style = "" if futures else "_european"
        path = f"{root}/india/minute/{ticker}/{day:%Y%m%d}_{kind}{style}.zip"
        with writing(folder / path):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            with zipfile.ZipFile(folder / path, "a", zipfile.ZIP_DEFLATED) as archive:
                for contract in contracts:
                    name = f"{day:%Y%m%d}_{ticker}_minute_{kind}_{_contract(cell, contract)}.csv"
                    if name in archive.NameToInfo:
                        raise ConfigurationError(f"LEAN would call two contracts {name}: export one expiry at a time.")
                    archive.writestr(name, contract[column] + "\n")
        files[path] += sum(contract["bars"] for contract in contracts)
    path = f"{root}/india/universes/{ticker}/{day:%Y%m%d}.csv"
    lines = [_line(cell, contract) for contract in contracts]
    with writing(folder / path):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        is_new = not (folder / path).exists()
        with (folder / path).open("a", encoding="ascii", newline="\n") as universe:
            universe.writelines(f"{line}\n" for line in ([_FUTURES if futures else _OPTIONS] * is_new + lines))
    files[path] += len(lines)
    return files


def _contract(cell: Cell, contract: dict[str, Any]) -> str:
    """Return what tells the contract in a file's name; that of a future is its month alone."""
    if contract["instrument_type"] == "FUT":
        return f"{cell.expiry:%Y%m}"
    right = "call" if contract["instrument_type"] == "CE" else "put"
    return f"european_{right}_{round(float(contract['strike']) * 10000)}_{cell.expiry:%Y%m%d}"


def _line(cell: Cell, contract: dict[str, Any]) -> str:
    names = ("open", "high", "low", "close", "volume", "open_interest")
    values = ",".join(f"{contract[name]:.15g}" for name in names)
    if contract["instrument_type"] == "FUT":
        return f"{cell.expiry:%Y%m},{values}"
    return f"{cell.expiry:%Y%m%d},{contract['strike']},{contract['instrument_type'][0]},{values},,,,,,"


def _option_folder(cell: Cell) -> str:
    key = str(cell.contracts["underlying_key"][0].as_py())
    if "_INDEX|" in key:
        return "indexoption"
    if "_EQ|" in key:
        return "option"
    raise ConfigurationError(
        f"LEAN's format is written for options on indices and shares, and {cell.underlying} is neither."
    )
