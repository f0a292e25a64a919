"""The rows of one cell that a selection asks for, opened for the writers of formats.

Here: how a selection (`selection.py`) is asked. What becomes of the rows is up to the formats. They leave in the order
of the archive, contract by contract and minute by minute; sorting would hold a whole cell in memory. DuckDB keeps that
order through a join only when it runs in one thread and joins as written, so it does; where no join is needed, it may
run in several, which for Parquet makes the difference (docs/decisions/0085-exports-in-order.md has the figures).
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, time
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.export.selection import DAY, Interval
from expirytrack_dagster.symbology import openalgo, upstox
from expirytrack_dagster.symbology.contract import Contract, number
from expirytrack_dagster.warehouse.versions import candles_version

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import duckdb

    from expirytrack_dagster.export.selection import Selection
    from expirytrack_dagster.warehouse.connection import Warehouse

_IST = 330  # minutes that India is ahead of UTC
_OPENING = 9 * 60 + 15  # bars of several minutes are counted from the opening of the exchange

_CONTRACTS = "SELECT * FROM contracts WHERE underlying = $underlying AND expiry = $expiry ORDER BY instrument_key"

_CANDLES = """
SELECT underlying, expiry, instrument_key, ts, open, high, low, close, volume, open_interest
FROM {source}
"""

# All of a cell's contracts: no contract has to be looked up.
_WHOLE = """
candles
WHERE underlying = $underlying AND expiry = $expiry {when}
"""
_THREADS = 2  # each holds a row group of its own

_MINUTES = """
SELECT chosen.*, minute, ts, open, high, low, close, volume, open_interest
FROM candles
JOIN chosen USING (instrument_key)
{money}
WHERE candles.underlying = $underlying AND candles.expiry = $expiry {when}
"""
# Each costs a look at every row, so only what is asked for is asked.
_DAYS = "AND minute >= $start AND minute < $end"
_TIMES = "AND (minute + 330) % 1440 BETWEEN $earliest AND $latest"

# The first of a bar's opens and the last of its closes and open interests, by time: rows need not come in order.
_BARS = """
SELECT
    chosen.*, minute, to_timestamp(minute * 60) AS ts, open, high, low, close, volume, open_interest
FROM (
    SELECT
        instrument_key,
        {bucket} AS minute,
        arg_min(open, minutes.minute) AS open,
        max(high) AS high,
        min(low) AS low,
        arg_max(close, minutes.minute) AS close,
        sum(volume)::BIGINT AS volume,
        arg_max(open_interest, minutes.minute) AS open_interest
    FROM ({minutes}) AS minutes
    GROUP BY instrument_key, {bucket}
    ORDER BY instrument_key, {bucket}
) AS bars
JOIN chosen USING (instrument_key)
"""

# Put-call parity: at the strike where a call and a put cost the same, the strike is the forward. One day at a time.
_MONEY = """
WITH prices AS (
    SELECT
        minute,
        strike_price,
        max(close) FILTER (instrument_type = 'CE') AS call,
        max(close) FILTER (instrument_type = 'PE') AS put
    FROM candles
    JOIN contracts USING (underlying, expiry, instrument_key)
    WHERE
        underlying = $underlying AND expiry = $expiry AND volume > 0 AND strike_price IS NOT NULL
        AND minute >= $start AND minute < $end
    GROUP BY ALL
),
nearest AS (
    SELECT arg_min(strike_price, abs(call - put)) AS strike
    FROM prices
    WHERE call IS NOT NULL AND put IS NOT NULL
    GROUP BY minute
)
SELECT min(strike), max(strike) FROM nearest
"""

_SPAN = """
SELECT min(minute), max(minute) FROM candles
WHERE underlying = $underlying AND expiry = $expiry AND minute >= $start AND minute < $end
"""

_SEAL = "SELECT format('{:016x}', checksum) FROM cell_seals WHERE underlying = $underlying AND expiry = $expiry"

# A contract that the API has withdrawn from its list may have left candles: they have no name to go by.
_UNLISTED = """
SELECT count(*) FROM contract_status ANTI JOIN contracts USING (underlying, expiry, instrument_key)
WHERE underlying = $underlying AND expiry = $expiry
"""

_MISSING = """
SELECT count(*) FROM contracts
LEFT JOIN contract_status USING (underlying, expiry, instrument_key)
WHERE underlying = $underlying AND expiry = $expiry AND status IS DISTINCT FROM 'complete'
AND status IS DISTINCT FROM 'empty_proven'
"""

# Rows pass through, and what DuckDB keeps beyond a row group a thread are blocks that it will not read again. Measured
# for two threads: with 128 MB they spend twice the time of the processor, with 256 MB the process comes to 408 MB.
_ONE_THREAD = "SET threads = 1; SET memory_limit = '128MB'"

_PRINTABLE = re.compile(r"[A-Z0-9][A-Za-z0-9&_. -]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Cell:
    """An open cell: its chosen contracts, and a query for its chosen bars.

    `contracts` has the columns of the table and `openalgo_symbol`, `trading_symbol` always filled, `strike` (text), by
    key. `bound` are the values of the query's parameters. `whole` is where the same candles are read without looking
    contracts up, None where some are left out. `complete` says that the archive misses nothing of the cell, `version`
    names all candles that it has.
    """

    connection: duckdb.DuckDBPyConnection
    underlying: str
    expiry: date
    interval: Interval
    contracts: pa.Table
    bound: Mapping[str, Any]
    bars: str
    whole: str | None
    complete: bool
    version: str

    def select(self, columns: str) -> str:
        """Return the query for these columns of the chosen bars, by contract and minute.

        The columns are those of `contracts`, `minute` (of the bar's start, since 1970 in UTC), `ts`, `open`, `high`,
        `low`, `close`, `volume` and `open_interest`.
        """
        return f"SELECT {columns} FROM ({self.bars}) AS bars"  # noqa: S608 - columns are constants of the formats

    @contextmanager
    def candles(self) -> Iterator[str]:
        """Yield the query for the chosen bars with the columns of the table `candles`; run it within the block."""
        if self.whole is None:
            yield _CANDLES.format(source=f"({self.bars}) AS bars")
            return
        (threads,) = self.connection.execute("RESET threads; SELECT current_setting('threads')").fetchone() or (1,)
        self.connection.execute(f"SET threads = {min(threads, _THREADS)}; SET memory_limit = '176MB'")
        try:
            yield _CANDLES.format(source=self.whole)
        finally:
            self.connection.execute(_ONE_THREAD)


@contextmanager
def opened(warehouse: Warehouse, underlying: str, expiry: date, selection: Selection) -> Iterator[Cell]:
    """Open a cell for reading; the archive is held for the length of the block.

    Raises:
        ConfigurationError: the cell holds a name that cannot stand in a file.
        StorageError: the archive cannot be read.
    """
    with warehouse.reading() as connection:
        connection.execute(_ONE_THREAD)
        connection.execute("SET disabled_optimizers = 'join_order,build_side_probe_side'")
        of_cell: dict[str, str | date] = {"underlying": underlying, "expiry": expiry}
        listed = _named(connection.execute(_CONTRACTS, of_cell).to_arrow_table(), underlying, expiry)
        chosen = listed.filter(_mask(listed, selection))
        money = ""
        if selection.at_the_money is not None:
            strikes = pc.unique(listed["strike_price"].drop_null()).sort().to_pylist()
            connection.register(
                "money", _money(connection, of_cell | _days(selection), strikes, selection.at_the_money)
            )
            money = (
                "JOIN money ON (minute + 330) // 1440 = money.day"
                " AND (strike_price IS NULL OR strike_price BETWEEN lowest AND highest)"
            )
        connection.register("chosen", chosen)
        (seal,) = connection.execute(_SEAL, of_cell).fetchone() or (None,)
        version = seal or candles_version(connection, of_cell)
        (unlisted,) = connection.execute(_UNLISTED, of_cell).fetchone() or (0,)
        whole = len(chosen) == len(listed) and unlisted == 0 and not money
        whole = whole and selection.interval is Interval.MINUTE
        when, limits = _when(selection)
        (missing,) = connection.execute(_MISSING, of_cell).fetchone() or (0,)
        yield Cell(
            connection=connection,
            underlying=underlying,
            expiry=expiry,
            interval=selection.interval,
            contracts=chosen,
            bound=of_cell | limits,
            bars=_bars(selection, money, when),
            whole=_WHOLE.format(when=when) if whole else None,
            complete=missing == 0,
            version=version,
        )


def _when(selection: Selection) -> tuple[str, dict[str, int]]:
    """Return the condition for the chosen days and times, and what it is bound to."""
    when, bound = "", {}
    if selection.first_day or selection.last_day:
        when, bound = _DAYS, _days(selection)
    if selection.first_time or selection.last_time:
        first, last = selection.first_time or time.min, selection.last_time or time.max
        when, bound = f"{when} {_TIMES}", bound | {"earliest": _of_day(first), "latest": _of_day(last)}
    return when, bound


def _days(selection: Selection) -> dict[str, int]:
    return {
        "start": _midnight(selection.first_day) if selection.first_day else 0,
        "end": _midnight(selection.last_day) + DAY if selection.last_day else 2**31 - 1,
    }


def _bars(selection: Selection, money: str, when: str) -> str:
    minutes = _MINUTES.format(money=money, when=when)
    if selection.interval is Interval.MINUTE:
        return minutes
    width = selection.interval.minutes
    shift = _IST if selection.interval is Interval.DAY else _IST - _OPENING
    bucket = f"(minutes.minute + {shift}) // {width} * {width} - {shift}"
    return _BARS.format(bucket=bucket, minutes=minutes)


def _named(listed: pa.Table, underlying: str, expiry: date) -> pa.Table:
    """Add what other programs call the contracts; names go into files and paths, so hostile ones are refused."""
    rows = zip(listed["instrument_type"].to_pylist(), listed["strike_price"].to_pylist(), strict=True)
    contracts = [Contract.of(underlying, expiry, kind, strike) for kind, strike in rows]
    given = [
        upstox.format_symbol(contract) if name is None else name
        for contract, name in zip(contracts, listed["trading_symbol"].to_pylist(), strict=True)
    ]
    for name in given:
        if not _PRINTABLE.fullmatch(name):
            raise ConfigurationError(f"{underlying} {expiry} has a contract named {name[:40]!r}: it is not exported.")
    strikes = ["" if contract.strike is None else number(contract.strike) for contract in contracts]
    place = listed.column_names.index("trading_symbol")
    named = listed.set_column(place, "trading_symbol", pa.array(given, pa.string()))
    named = named.append_column(
        "openalgo_symbol", pa.array([openalgo.format_symbol(each) for each in contracts], pa.string())
    )
    return named.append_column("strike", pa.array(strikes, pa.string()))


def _mask(contracts: pa.Table, selection: Selection) -> pa.ChunkedArray:
    """Say for each contract whether its type and its strike are chosen; strikes choose among options alone."""
    strikes = contracts["strike_price"]
    keep = pc.is_in(contracts["instrument_type"], pa.array(sorted(selection.kinds), pa.string()))
    if selection.lowest_strike is not None:
        keep = pc.and_(keep, pc.fill_null(pc.greater_equal(strikes, selection.lowest_strike), fill_value=True))
    if selection.highest_strike is not None:
        keep = pc.and_(keep, pc.fill_null(pc.less_equal(strikes, selection.highest_strike), fill_value=True))
    return keep


def _money(
    connection: duckdb.DuckDBPyConnection, bound: Mapping[str, Any], strikes: list[float], width: int
) -> pa.Table:
    """Return for each day (since 1970, in India) the lowest and the highest strike that is near enough to the money."""
    first, last = connection.execute(_SPAN, bound).fetchone() or (None, None)
    rows = []
    if first is not None:
        for day in range((first + _IST) // DAY, (last + _IST) // DAY + 1):
            start = day * DAY - _IST
            low, high = connection.execute(_MONEY, {**bound, "start": start, "end": start + DAY}).fetchone() or (0, 0)
            near = (0.0, -1.0)  # none: futures alone
            if low is not None:
                top = min(strikes.index(high) + width, len(strikes) - 1)
                near = strikes[max(strikes.index(low) - width, 0)], strikes[top]
            rows.append((day, *near))
    types = (("day", pa.int64()), ("lowest", pa.float64()), ("highest", pa.float64()))
    return pa.table({name: pa.array([row[at] for row in rows], kind) for at, (name, kind) in enumerate(types)})


def _midnight(day: date) -> int:
    return (day - date(1970, 1, 1)).days * DAY - _IST


def _of_day(moment: time) -> int:
    return moment.hour * 60 + moment.minute
