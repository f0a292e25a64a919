"""Read the archive from Python: `from expirytrack_dagster import archive`.

    archive.candles("NIFTY", "2025-08-28").df()                              # pandas
    archive.chain_at("NIFTY", "2025-08-28", "2025-08-26 10:30").pl()         # polars
    archive.sql("SELECT count(*) FROM candles").arrow()                      # Arrow
    archive.at("NIFTY", "2025-08-28").version                                # what a backtest should write down

Everything is read from the published copy (`warehouse/published.py`), or from the lake itself where the archive is one,
so nothing here waits for a collection or holds one up: each call sees the state that was last committed before it.
Nothing can be changed from here.

In every function `underlying` is the short symbol, `expiry` a date or its ISO text, and an instant a datetime or its
ISO text, which is Indian time where it names no zone. `home` is the folder of the data, by default that of the
settings. Prices are rupees, volumes and open interest units of the underlying, and times in answers are UTC and the
start of a bar; `describe` says what each column of a table means. All functions may raise `StorageError` when the
archive is damaged or newer than this program, and the first call of all makes the copy where there is none yet.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from expirytrack_dagster.errors import ConfigurationError, StorageError
from expirytrack_dagster.ist import IST
from expirytrack_dagster.warehouse.room import Answer, Reading, Version, room_of

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "Adjustment",
    "Answer",
    "Cell",
    "Home",
    "Interval",
    "Rule",
    "at",
    "atm",
    "bars",
    "candles",
    "cells",
    "chain_at",
    "chain_metrics",
    "chain_window",
    "continuous",
    "contracts",
    "daily_bars",
    "describe",
    "implied_volatility",
    "option_chain",
    "spot_at",
    "sql",
    "straddle",
]

Interval: TypeAlias = Literal["1m", "3m", "5m", "15m", "30m", "60m", "1d"]
Rule: TypeAlias = Literal["expiry", "volume", "open_interest"]
Adjustment: TypeAlias = Literal["none", "difference", "ratio"]
Home: TypeAlias = "Path | str | None"

_NEAREST = 4  # expiries that are looked at for a spot


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell's candles in one version; the same version is the same rows, on every machine.

    Attributes:
        underlying: short symbol.
        expiry: the date.
        version: 16 hexadecimal digits, a hash of the content.
        rows: number of candles.
        complete: whether every contract was complete or proven empty.
        published_at: when the version was first read by anybody, UTC.
        current: whether it is the newest.
    """

    underlying: str
    expiry: date
    version: str
    rows: int
    complete: bool
    published_at: datetime
    current: bool
    _room: Reading = field(repr=False, compare=False)
    _source: Version = field(repr=False, compare=False)

    def candles(self) -> Answer:
        """Return all candles of this version: as `archive.candles`."""
        return self._room.candles(self._source)


def at(underlying: str, expiry: date | str, *, version: str | None = None, home: Home = None) -> Cell:
    """Return a cell in a version: the newest, or the one that a backtest wrote down.

    Versions of finished cells are kept when a later collection finds other rows; in a lake as long as its snapshots.

    Raises:
        ConfigurationError: the cell has no candles, or no such version; the sentence names those that there are.
    """
    room, day = _home(home), _day(expiry)
    there = []
    for one in room.versions(underlying, day):
        if version in {None, one.version}:
            return _cell(room, one)
        there.append(one.version)
    if not there:
        raise ConfigurationError(f"There are no candles of {underlying} {day}: collect the cell first.")
    raise ConfigurationError(f"There is no version {version} of {underlying} {day}, only {', '.join(there)}.")


def cells(underlying: str | None = None, *, home: Home = None) -> list[Cell]:
    """Return the cells that have candles, in their newest versions, by underlying and expiry."""
    room = _home(home)
    return [_cell(room, version) for version in room.versions(underlying, None)]


def contracts(underlying: str, expiry: date | str | None = None, *, home: Home = None) -> Answer:
    """Return the listed contracts of a cell, or of an underlying, one row each, by expiry, strike and type."""
    return _select("contracts", underlying, expiry, home)


def candles(underlying: str, expiry: date | str, *, key: str | None = None, home: Home = None) -> Answer:
    """Return the one-minute candles of a cell, or of one contract of it, by contract and time.

    Columns: underlying, expiry, instrument_key, open, high, low, close, volume, open_interest, ts.
    """
    room, day = _home(home), _day(expiry)
    everything = "SELECT * EXCLUDE (minute) FROM candles"
    if key is None:
        return room.ask(f"{everything} ORDER BY instrument_key, minute", {}, underlying, [day])
    table = room.ask(f"{everything} WHERE instrument_key = $key", {"key": key}, underlying, [day]).table
    times = table.column("ts").to_numpy()
    # A contract's rows lie in order, but for those that a review has released later: sorting takes a third of the time.
    return Answer(table if (times[1:] > times[:-1]).all() else table.sort_by("ts"))


def bars(key: str, interval: Interval = "5m", *, home: Home = None) -> Answer:
    """Return a contract's bars: instrument_key, ts, open, high, low, close, volume, open_interest, by time.

    Bars of minutes are counted from 09:15 in India, those of a day from midnight; one without a trade does not exist.
    """
    try:
        expiry = datetime.strptime(key[-10:], "%d-%m-%Y").replace(tzinfo=IST).date()
    except ValueError:
        raise ConfigurationError(f"'{key}' is no key of the form SEGMENT|token|DD-MM-YYYY.") from None
    width = timedelta(days=1) if interval == "1d" else timedelta(minutes=int(interval.removesuffix("m")))
    return _home(home).ask("FROM bars($key, $width)", {"key": key, "width": width}, expiries=[expiry])


def daily_bars(underlying: str, expiry: date | str | None = None, *, home: Home = None) -> Answer:
    """Return the bars of every contract and trading day of an underlying, by day and contract."""
    return _select("daily_bars", underlying, expiry, home)


def option_chain(underlying: str, expiry: date | str, *, home: Home = None) -> Answer:
    """Return both options of each minute and strike of a cell, by time and strike."""
    return _select("option_chain", underlying, expiry, home)


def implied_volatility(underlying: str, expiry: date | str, *, home: Home = None) -> Answer:
    """Return volatility and greeks of each option and minute of a cell, by time, strike and type."""
    return _select("implied_volatility", underlying, expiry, home)


def chain_metrics(underlying: str, expiry: date | str, *, home: Home = None) -> Answer:
    """Return what each minute of a cell says as a whole: ratios, max pain, straddle, forward; by time."""
    return _select("chain_metrics", underlying, expiry, home)


def chain_at(underlying: str, expiry: date | str, instant: datetime | str, *, home: Home = None) -> Answer:
    """Return the chain of a cell in the minute of an instant, one row a strike."""
    day = _day(expiry)
    bound = {"symbol": underlying, "day": day, "instant": _instant(instant)}
    return _home(home).ask("FROM chain_at($symbol, $day, $instant)", bound, underlying, [day])


def atm(underlying: str, expiry: date | str, instant: datetime | str, *, home: Home = None) -> Answer:
    """Return the row of `chain_metrics` in the minute of an instant; none where nothing traded in it."""
    day = _day(expiry)
    bound = {"symbol": underlying, "day": day, "instant": _instant(instant)}
    return _home(home).ask("FROM atm($symbol, $day, $instant)", bound, underlying, [day])


def chain_window(underlying: str, expiry: date | str, steps: int, *, home: Home = None) -> Answer:
    """Return the strikes at most `steps` listed ones away from the money, minute by minute, with their contracts.

    The columns are those of `option_chain` and `step`, which is 0 at the money; by time and strike.
    """
    day = _day(expiry)
    bound = {"symbol": underlying, "day": day, "steps": steps}
    return _home(home).ask("FROM chain_window($symbol, $day, $steps)", bound, underlying, [day])


def straddle(underlying: str, expiry: date | str, *, home: Home = None) -> Answer:
    """Return strike, contracts and price of the straddle at the money, one row a minute, by time."""
    day = _day(expiry)
    return _home(home).ask("FROM straddle($symbol, $day)", {"symbol": underlying, "day": day}, underlying, [day])


def spot_at(underlying: str, instant: datetime | str, *, home: Home = None) -> Answer:
    """Return the spot in the minute of an instant that the nearest expiry's forward implies: one row, or none."""
    room, moment = _home(home), _instant(instant)
    days = room.days_with_forward(underlying)
    near = [day for day in days if day >= moment.astimezone(IST).date()][:_NEAREST]
    return room.ask("FROM spot_at($symbol, $instant)", {"symbol": underlying, "instant": moment}, underlying, near)


def continuous(
    underlying: str,
    rule: Rule = "expiry",
    adjustment: Adjustment = "none",
    *,
    minutes: bool = False,
    home: Home = None,
) -> Answer:
    """Return the continuous future of an underlying, one row a day, or a minute, with the future that it was.

    Args:
        underlying: short symbol.
        rule: when the next future is taken: after the `expiry`, or after a day on which it had more `volume` or
            `open_interest`.
        adjustment: of the earlier prices to the last future: `none`, by the sum of the gaps (`difference`) or by their
            product (`ratio`); null before a roll of which no gap is known.
        minutes: one row a minute.
        home: folder of the data.
    """
    bound = {"symbol": underlying, "rule": rule, "adjustment": adjustment}
    name = "continuous_minutes" if minutes else "continuous"
    return _home(home).ask(f"FROM {name}($symbol, $rule, $adjustment)", bound, underlying)


def sql(
    query: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    underlying: str | None = None,
    expiry: date | str | None = None,
    snapshot: int | datetime | str | None = None,
    home: Home = None,
) -> Answer:
    """Return the answer to a query in DuckDB's SQL, over the tables and macros of docs/queries.md.

    Args:
        query: one SELECT; parameters as `$name`.
        parameters: their values.
        underlying: open this underlying's files alone, which is faster.
        expiry: open this expiry's files alone.
        snapshot: ask a lake as it was after this commit (its number in `expirytrack snapshots`), or at this instant.
        home: folder of the data.

    Raises:
        ConfigurationError: it is no SELECT, or there is no such snapshot.
        QueryRefused: it names something else than the archive.
        duckdb.Error: the query is wrong.
    """
    import duckdb  # noqa: PLC0415 -- importing this module is cheap

    from expirytrack_dagster.warehouse.reach import require_within  # noqa: PLC0415 -- as above

    kinds = [statement.type for statement in duckdb.extract_statements(query)]
    if kinds != [duckdb.StatementType.SELECT]:
        raise ConfigurationError("The archive answers one SELECT at a time, and nothing can be changed from here.")
    require_within(query)
    days = None if expiry is None else [_day(expiry)]
    past = _instant(snapshot) if isinstance(snapshot, datetime | str) else snapshot
    try:
        return _home(home, past).ask(query, dict(parameters or {}), underlying, days)
    except StorageError as error:
        if isinstance(error.__cause__, duckdb.ProgrammingError | duckdb.DataError | duckdb.NotSupportedError):
            raise error.__cause__ from None  # a mistake in the query, and not of the archive
        raise


def describe(table: str, *, home: Home = None) -> Answer:
    """Return each column of a table with its type and a sentence: column, type, description."""
    return _home(home).ask(
        "SELECT column_name AS column, data_type AS type, comment AS description FROM described.columns "
        "WHERE table_name = $table",
        {"table": table},
    )


def _home(home: Home, snapshot: int | datetime | None = None) -> Reading:
    if home is None:
        from expirytrack_dagster.settings import load_settings  # noqa: PLC0415 -- importing this module is cheap

        return room_of(load_settings().home, snapshot)
    return room_of(Path(home).expanduser().resolve(), snapshot)


def _select(table: str, underlying: str, expiry: date | str | None, home: Home) -> Answer:
    return _home(home).rows(table, underlying, None if expiry is None else _day(expiry))


def _cell(room: Reading, found: Version) -> Cell:
    return Cell(
        found.underlying,
        found.expiry,
        found.version,
        found.rows,
        found.complete,
        found.published_at,
        found.current,
        room,
        found,
    )


def _day(day: date | str) -> date:
    if isinstance(day, str):
        try:
            return date.fromisoformat(day)
        except ValueError:
            raise ConfigurationError(f"'{day}' is no date of the form YYYY-MM-DD.") from None
    return day.date() if isinstance(day, datetime) else day


def _instant(instant: datetime | str) -> datetime:
    if isinstance(instant, str):
        try:
            instant = datetime.fromisoformat(instant)
        except ValueError:
            raise ConfigurationError(f"'{instant}' is no time such as 2025-08-26 10:30.") from None
    return instant.replace(tzinfo=IST) if instant.tzinfo is None else instant
