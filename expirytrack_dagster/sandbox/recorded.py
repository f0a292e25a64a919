"""A folder of recordings, served as Upstox served them.

What is read, wherever the folder has it:

- `upstox_recorded/expired_*.json`: bodies of the four routes. Their rows and candles are served under their own keys.
- `nifty_2021_06/*.csv`: six strikes of the NIFTY weekly of 2021-06-17 without open interest (served as 0). Upstox's own
  list of NIFTY expiries has no 2021, so they stand under an underlying of their own, `NSE_INDEX|Nifty 50 2021`
  (symbol NIFTY2021). Tokens are made up: ten times the strike, plus 1 for a call.
- `upstox_2026_07_15/NSE_FO_57352_*.csv`: NIFTY 24300 CE 21 JUL 26, for the same reason under `NSE_INDEX|Nifty 50 2026`
  (symbol NIFTY2026), with its real key `NSE_FO|57352|21-07-2026`.
- `instruments_master_*.json.gz`: served as it is; without one, a list of the underlyings above.

A listed contract without a recording has no candles. An expiry without a recorded list has no contracts.

Belongs here: reading those files. Nothing is written, and nothing is repaired: rows after the close stay.
"""

from __future__ import annotations

import csv
import gzip
import re
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.sandbox.bars import IST, Bars, aggregate, no_bars
from expirytrack_dagster.sandbox.market import Row, expired_key, trading_symbol

if TYPE_CHECKING:
    from pathlib import Path

CANDLE_FILE = re.compile(r"expired_historical_candle__([A-Z]+_[A-Z]+)_([\w-]+)_(\d\d-\d\d-\d{4})__1minute")
OPTION_2021 = re.compile(r"NIFTY21617(\d{5})([CP]E)_minute")


class RecordedMarket:
    """The market of a folder; see the module for what it reads.

    Args:
        folder: the folder with the recordings.
        today: the day on which the market is asked; the real one (IST) by default.

    Raises:
        ConfigurationError: there is no such folder, or it holds nothing that can be served.
    """

    def __init__(self, folder: Path, *, today: date | None = None) -> None:
        """Read every file; the whole folder is a few megabytes."""
        if not folder.is_dir():
            raise ConfigurationError(f"There is no folder of recordings at {folder}: name one with --folder.")
        self._today = today
        self._master = next(iter(sorted(folder.glob("instruments_master_*.json.gz"))), None)
        self._expiries: dict[str, list[date]] = {}
        self._contracts: dict[tuple[str, date], list[Row]] = {}
        self._minutes: dict[str, Bars] = {}
        self._read_bodies(folder / "upstox_recorded")
        self._read_2021(folder / "nifty_2021_06")
        self._read_2026(folder / "upstox_2026_07_15")
        if not self._contracts:
            raise ConfigurationError(f"The folder {folder} holds no recorded contracts: name another with --folder.")

    @property
    def today(self) -> date:
        """The day on which the market is asked (IST)."""
        return self._today or datetime.now(IST).date()

    def expiries(self, underlying_key: str) -> list[date] | None:
        """Return the recorded expiries, ascending."""
        return self._expiries.get(underlying_key)

    def option_contracts(self, underlying_key: str, expiry: date) -> list[Row] | None:
        """Return the recorded options of an expiry, in the recorded order."""
        return self._rows(underlying_key, expiry, futures=False)

    def future_contracts(self, underlying_key: str, expiry: date) -> list[Row] | None:
        """Return the recorded future of an expiry."""
        return self._rows(underlying_key, expiry, futures=True)

    def candles(self, instrument_key: str, interval: str, from_date: date, to_date: date) -> Bars | None:
        """Return the recorded candles of the window, ascending; coarser intervals are made from the minutes."""
        minutes = self.minutes(instrument_key)
        return None if minutes is None else aggregate(minutes.within(from_date, to_date), interval)

    def minutes(self, instrument_key: str) -> Bars | None:
        """Return every recorded minute of a contract, ascending."""
        return self._minutes.get(instrument_key)

    def instruments_master(self) -> bytes:
        """Return the recorded master, or the underlyings of the folder."""
        if self._master is not None:
            return self._master.read_bytes()
        firsts = {key: rows[0] for (key, _), rows in self._contracts.items()}
        listed = [
            {
                "segment": key.split("|")[0],
                "name": row["underlying_symbol"],
                "exchange": row["exchange"],
                "instrument_type": row["underlying_type"],
                "instrument_key": key,
                "trading_symbol": row["underlying_symbol"],
            }
            for key, row in firsts.items()
        ]
        return gzip.compress(msgspec.json.encode(listed), mtime=0)

    def _rows(self, underlying_key: str, expiry: date, *, futures: bool) -> list[Row] | None:
        if underlying_key not in self._expiries:
            return None
        rows = self._contracts.get((underlying_key, expiry), [])
        return [row for row in rows if (row["instrument_type"] == "FUT") == futures]

    def _add(self, rows: list[Row]) -> None:
        for row in rows:
            underlying, expiry = str(row["underlying_key"]), date.fromisoformat(str(row["expiry"]))
            self._contracts.setdefault((underlying, expiry), []).append(row)
            listed = self._expiries.setdefault(underlying, [])
            if expiry not in listed:
                listed.append(expiry)
            self._minutes.setdefault(str(row["instrument_key"]), no_bars())

    def _read_bodies(self, folder: Path) -> None:
        for path in sorted(folder.glob("expired_*_contract__*.json")):
            self._add(_data(path))
        for underlying in list(self._expiries):
            slug = underlying.replace("|", "_").replace(" ", "")
            path = folder / f"expired_expiries__{slug}.json"
            if path.is_file():
                self._expiries[underlying] = [date.fromisoformat(day) for day in _data(path)]
        for path in folder.glob("expired_historical_candle__*.json"):
            match = CANDLE_FILE.fullmatch(path.stem)
            if match:
                self._minutes["|".join(match.groups())] = _bars(_data(path)["candles"])

    def _read_2021(self, folder: Path) -> None:
        for path in sorted(folder.glob("*_minute.csv")):
            match = OPTION_2021.fullmatch(path.stem)
            if match:
                strike, kind = int(match[1]), match[2]
                row = _option("2021", date(2021, 6, 17), str(strike * 10 + (kind == "CE")), strike, kind, lot=75)
                self._add([row])
                columns = ("TIME", "Open", "High", "Low", "Close", "VOLUME")
                lines = [[line[column] for column in columns] + [0] for line in _lines(path)]
                self._minutes[str(row["instrument_key"])] = _bars(lines)
        for rows in self._contracts.values():
            rows.sort(key=lambda row: (row.get("strike_price", 0), row["instrument_type"] == "CE"))

    def _read_2026(self, folder: Path) -> None:
        paths = sorted(folder.glob("NSE_FO_57352_*.csv"))
        if paths:
            row = _option("2026", date(2026, 7, 21), "57352", 24_300, "CE", lot=65)
            self._add([row])
            lines = [list(line.values()) for path in paths for line in _lines(path)]
            self._minutes[str(row["instrument_key"])] = _bars(lines)


def _option(year: str, expiry: date, token: str, strike: int, kind: str, *, lot: int) -> Row:
    """Return a row in the documented shape for a weekly option whose contract list was not recorded."""
    symbol = f"NIFTY{year}"
    return {
        "name": symbol,
        "segment": "NSE_FO",
        "exchange": "NSE",
        "expiry": expiry.isoformat(),
        "weekly": True,
        "instrument_key": expired_key("NSE_FO", token, expiry),
        "exchange_token": token,
        "trading_symbol": trading_symbol(symbol, expiry, strike, kind),
        "tick_size": 5,
        "lot_size": lot,
        "instrument_type": kind,
        "freeze_quantity": 1800,
        "underlying_key": f"NSE_INDEX|Nifty 50 {year}",
        "underlying_type": "INDEX",
        "underlying_symbol": symbol,
        "strike_price": strike,
        "minimum_lot": lot,
    }


def _data(path: Path) -> Any:
    return msgspec.json.decode(path.read_bytes())["data"]


def _lines(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _bars(lines: list[list[Any]]) -> Bars:
    """Turn rows of seven values, timestamps in IST with or without an offset, into ascending columns."""
    stamps = (datetime.fromisoformat(line[0]) for line in lines)
    time = [int((stamp if stamp.tzinfo else stamp.replace(tzinfo=IST)).timestamp()) for stamp in stamps]
    opened, high, low, close = (np.array([float(line[column]) for line in lines]) for column in range(1, 5))
    volume, interest = (np.array([int(line[column]) for line in lines], np.int64) for column in (5, 6))
    bars = Bars(np.array(time, np.int64), opened, high, low, close, volume, interest)
    return bars.take(np.argsort(bars.time, kind="stable"))
