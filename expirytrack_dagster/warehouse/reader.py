"""Questions to the archive that assets, checks and the command line ask: each is one short query.

Frames have the columns of their table; `expiry` is a `datetime.date`, times are datetime64[us, UTC], a flag that may
be missing is pandas' `boolean`, and a whole number that may be missing (in quarantine alone) is float64 with NaN. The
connection is closed before a function returns. Changing anything belongs to `cells.py`.
"""

from __future__ import annotations

from datetime import datetime, time
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa

from expirytrack_dagster.ist import IST

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from datetime import date

    from expirytrack_dagster.warehouse.connection import Warehouse

_EXPIRIES = "SELECT * FROM expiries WHERE underlying = $underlying ORDER BY expiry"
_CONTRACTS = "SELECT * FROM contracts WHERE underlying = $underlying AND expiry = $expiry ORDER BY instrument_key"
_STATUSES = "SELECT * FROM contract_status WHERE underlying = $underlying AND expiry = $expiry ORDER BY instrument_key"

_SEAL = "SELECT sealed_at FROM cell_seals WHERE underlying = $underlying AND expiry = $expiry"

_QUARANTINED = """
SELECT * FROM quarantine
WHERE underlying = $underlying AND expiry = $expiry AND instrument_key NOT IN (SELECT unnest($except_keys::TEXT[]))
ORDER BY instrument_key, ts
LIMIT $limit
"""

_MINUTES = """
SELECT ts, count(*) AS contracts, count(*) FILTER (volume > 0) AS traded
FROM candles
WHERE underlying = $underlying AND expiry = $expiry AND instrument_key NOT IN (SELECT unnest($except_keys::TEXT[]))
AND ($keys::TEXT[] IS NULL OR instrument_key IN (SELECT unnest($keys::TEXT[])))
GROUP BY ts
ORDER BY ts
"""

_DAYS = """
SELECT DISTINCT (ts + INTERVAL 330 MINUTE)::DATE AS day
FROM candles
WHERE underlying = $underlying AND expiry = $expiry
ORDER BY day
"""

_CHAIN = """
SELECT
    ts,
    instrument_key,
    instrument_type,
    strike_price,
    high,
    low,
    close,
    volume,
    open_interest,
    tick_size
FROM candles
JOIN contracts USING (underlying, expiry, instrument_key)
WHERE underlying = $underlying AND expiry = $expiry AND ts >= $start AND ts < $start + INTERVAL 1 DAY
ORDER BY instrument_key, ts
"""

_TRADES = """
SELECT
    instrument_key,
    (ts + INTERVAL 330 MINUTE)::DATE AS day,
    count(*) FILTER (NOT away AND volume > 0) AS traded,
    count(*) FILTER (away) AS outside
FROM (
    SELECT instrument_key, ts, volume, coalesce(ts > last, true) AS away
    FROM candles
    ASOF LEFT JOIN (SELECT unnest($first::TIMESTAMPTZ[]) AS first, unnest($last::TIMESTAMPTZ[]) AS last) AS sessions
    ON ts >= first
    WHERE
        underlying = $underlying AND expiry = $expiry
        AND instrument_key NOT IN (SELECT unnest($except_keys::TEXT[]))
)
GROUP BY ALL
ORDER BY ALL
"""

CELLS = """
SELECT
    underlying,
    expiry,
    count(contracts.instrument_key) AS contracts,
    count(*) FILTER (status = 'complete') AS complete,
    count(*) FILTER (status = 'empty_proven') AS empty_proven,
    count(*) FILTER (status = 'partial') AS partial,
    count(*) FILTER (status = 'refused') AS refused,
    count(*) FILTER (status = 'failed') AS failed,
    count(contracts.instrument_key) - count(status) AS unasked,
    coalesce(sum(contract_status.candles), 0)::BIGINT AS candles,
    coalesce(sum(quarantined), 0)::BIGINT AS quarantined,
    min(first_ts) AS first_ts,
    max(last_ts) AS last_ts,
    bool_or(sealed_at IS NOT NULL) AS sealed
FROM expiries
LEFT JOIN contracts USING (underlying, expiry)
LEFT JOIN contract_status USING (underlying, expiry, instrument_key)
LEFT JOIN cell_seals USING (underlying, expiry)
GROUP BY underlying, expiry
ORDER BY underlying, expiry
"""
"""Answers `cells`, over tables or whatever has their names and columns."""

# Sorting the day of a wide chain takes 140 MB if it may, and no longer with this.
_FOR_A_DAY = "64MB"

# Only cells that are not sealed: of a large archive a few, and a tick of a sensor has no time to count all contracts.
_UNSEALED = """
WITH unsealed AS (SELECT underlying, expiry FROM expiries ANTI JOIN cell_seals USING (underlying, expiry)),
counted AS (
    SELECT
        underlying,
        expiry,
        count(*) AS contracts,
        count(*) FILTER (status = 'complete') AS complete,
        count(*) FILTER (status = 'empty_proven') AS empty_proven,
        count(*) FILTER (status = 'partial') AS partial,
        count(*) FILTER (status = 'refused') AS refused
    FROM contracts SEMI JOIN unsealed USING (underlying, expiry)
    LEFT JOIN contract_status USING (underlying, expiry, instrument_key)
    GROUP BY underlying, expiry
)
SELECT
    underlying,
    expiry,
    coalesce(contracts, 0) AS contracts,
    coalesce(complete, 0) AS complete,
    coalesce(empty_proven, 0) AS empty_proven,
    coalesce(partial, 0) AS partial,
    coalesce(refused, 0) AS refused,
    false AS sealed
FROM unsealed LEFT JOIN counted USING (underlying, expiry)
ORDER BY underlying, expiry
"""

_OPEN_CONTRACTS = """
SELECT underlying, expiry, instrument_key, instrument_type, strike_price, status
FROM contracts
LEFT JOIN contract_status USING (underlying, expiry, instrument_key)
SEMI JOIN (SELECT unnest($underlyings::TEXT[]) AS underlying, unnest($expiries::DATE[]) AS expiry)
USING (underlying, expiry)
ORDER BY underlying, expiry, instrument_key
"""

# Older cells say little about the next one, and twenty are enough for a mean. A contract costs twice the usual at most,
# for its minutes and its days: the one that found out how wide a window may be, or met an outage, says nothing.
_EXPERIENCE = """
WITH recent AS (
    SELECT underlying, expiry FROM cell_seals WHERE contracts > 0
    QUALIFY row_number() OVER (PARTITION BY underlying ORDER BY expiry DESC) <= 20
),
asked AS (
    SELECT *, median(requests) OVER (PARTITION BY underlying) AS usual
    FROM contract_status JOIN recent USING (underlying, expiry)
)
SELECT
    underlying,
    count(DISTINCT expiry) AS cells,
    count(*) AS contracts,
    sum(least(requests, 2 * usual))::BIGINT AS requests,
    sum(received)::BIGINT AS rows
FROM asked
GROUP BY underlying
ORDER BY underlying
"""

# What was finished just now is told by the run that did it.
_FINISHED = """
SELECT unnest(['contracts', 'candles']) AS asset, underlying, expiry::TEXT AS day FROM cell_seals
WHERE sealed_at < now() - INTERVAL 1 HOUR
UNION ALL
SELECT asset, underlying, expiry::TEXT AS day FROM derived_cells
WHERE expiry IS NOT NULL AND derived_at < now() - INTERVAL 1 HOUR
"""

_BOOLEAN = {pa.bool_(): pd.BooleanDtype()}


def expiries(warehouse: Warehouse, underlying: str) -> pd.DataFrame:
    """Return the expiry dates of an underlying, ascending."""
    return _frame(warehouse, _EXPIRIES, {"underlying": underlying})


def listed(warehouse: Warehouse) -> dict[str, set[str]]:
    """Return every underlying's expiry dates in ISO form: the cells that exist."""
    frame = _frame(warehouse, "SELECT underlying, expiry::TEXT AS day FROM expiries", {})
    return {str(underlying): set(days) for underlying, days in frame.groupby("underlying")["day"]}


def finished(warehouse: Warehouse) -> dict[str, set[tuple[str, str]]]:
    """Return for each table of cells which cells it has had for more than an hour: underlying and ISO expiry."""
    frame = _frame(warehouse, _FINISHED, {})
    return {
        str(asset): set(zip(rows["underlying"], rows["day"], strict=True)) for asset, rows in frame.groupby("asset")
    }


def contracts(warehouse: Warehouse, underlying: str, expiry: date) -> pd.DataFrame:
    """Return the contracts of a cell, in the order of their keys."""
    return _frame(warehouse, _CONTRACTS, {"underlying": underlying, "expiry": expiry})


def statuses(warehouse: Warehouse, underlying: str, expiry: date) -> pd.DataFrame:
    """Return the states of the cell's contracts that were asked for, in the order of their keys."""
    return _frame(warehouse, _STATUSES, {"underlying": underlying, "expiry": expiry})


def is_sealed(warehouse: Warehouse, underlying: str, expiry: date) -> bool:
    """Say whether the cell is finished: nothing of it has to be asked again."""
    return len(_frame(warehouse, _SEAL, {"underlying": underlying, "expiry": expiry})) == 1


def quarantined(
    warehouse: Warehouse, underlying: str, expiry: date, limit: int | None = None, except_keys: Collection[str] = ()
) -> pd.DataFrame:
    """Return the cell's bad rows by contract and time: at most `limit`, none of the contracts `except_keys`."""
    bound = {"underlying": underlying, "expiry": expiry, "limit": limit, "except_keys": list(except_keys)}
    return _frame(warehouse, _QUARANTINED, bound)


def minutes(
    warehouse: Warehouse,
    underlying: str,
    expiry: date,
    keys: Collection[str] | None = None,
    except_keys: Collection[str] = (),
) -> pd.DataFrame:
    """Return the distinct minutes of a cell, ascending.

    Args:
        warehouse: the archive.
        underlying: short symbol.
        expiry: the cell's date.
        keys: only these contracts; None for all.
        except_keys: not these contracts.

    Returns:
        `ts`, `contracts` (how many have a bar in that minute) and `traded` (how many of these a volume above zero).
    """
    only = None if keys is None else list(keys)
    bound = {"underlying": underlying, "expiry": expiry, "keys": only, "except_keys": list(except_keys)}
    return _frame(warehouse, _MINUTES, bound)


def chain_days(warehouse: Warehouse, underlying: str, expiry: date) -> Iterator[pd.DataFrame]:
    """Yield the candles of a cell with their contracts, one trading day (IST) at a time, ascending.

    The connection is open for a day's query only. `instrument_key` and `instrument_type` are categories.

    Yields:
        `ts`, `instrument_key`, `instrument_type`, `strike_price` (NaN for a future), `high`, `low`, `close`, `volume`,
        `open_interest`, `tick_size` (paise), sorted by contract and time.
    """
    cell = {"underlying": underlying, "expiry": expiry}
    for day in _frame(warehouse, _DAYS, cell)["day"]:
        start = datetime.combine(day, time(), IST)
        kinds = ("instrument_key", "instrument_type")
        yield _frame(warehouse, _CHAIN, {**cell, "start": start}, kinds, memory_limit=_FOR_A_DAY)


def trades(
    warehouse: Warehouse,
    underlying: str,
    expiry: date,
    sessions: pd.DataFrame,
    except_keys: Collection[str] = (),
) -> pd.DataFrame:
    """Count the minutes of each contract and trading day of a cell.

    Args:
        warehouse: the archive.
        underlying: short symbol.
        expiry: the cell's date.
        sessions: first and last minute (UTC) of each.
        except_keys: not these contracts.

    Returns:
        `instrument_key`, `day` (a date in IST), `traded` (minutes of a session with volume) and `outside` (bars
        outside), by contract and day.
    """
    bounds = {name: sessions[name].dt.to_pydatetime().tolist() for name in ("first", "last")}
    bound = {"underlying": underlying, "expiry": expiry, "except_keys": list(except_keys), **bounds}
    return _frame(warehouse, _TRADES, bound)


def cells(warehouse: Warehouse) -> pd.DataFrame:
    """Return one row for each listed cell: contracts by state, rows, first and last minute.

    `contracts` is the sum of the five states and `unasked`. Candles are counted from the states, not scanned; a
    contract that the API has withdrawn from its list is not counted. `sealed` cells are never asked again: the API was
    asked what they hold, and every contract of the answer, if any, is complete or proven empty.
    """
    return _frame(warehouse, CELLS, {})


def unsealed(warehouse: Warehouse) -> pd.DataFrame:
    """Return one row for each listed cell without a seal: the counts of `cells` that say what is left to do."""
    return _frame(warehouse, _UNSEALED, {})


def open_contracts(warehouse: Warehouse, cells: Sequence[tuple[str, date]]) -> pd.DataFrame:
    """Return the contracts of these cells with their states (missing where they were not asked for).

    Columns: underlying, expiry, instrument_key, instrument_type, strike_price, status; by cell and key.
    """
    bound = {"underlyings": [name for name, _ in cells], "expiries": [day for _, day in cells]}
    return _frame(warehouse, _OPEN_CONTRACTS, bound)


def experience(warehouse: Warehouse) -> pd.DataFrame:
    """Return what the newest sealed cells of each underlying cost: underlying, cells, contracts, requests, rows."""
    return _frame(warehouse, _EXPERIENCE, {})


def _frame(
    warehouse: Warehouse,
    sql: str,
    bound: Mapping[str, Any],
    categories: Sequence[str] = (),
    *,
    memory_limit: str | None = None,
) -> pd.DataFrame:
    with warehouse.reading() as connection:
        if memory_limit:
            connection.execute(f"SET memory_limit = '{memory_limit}'")
        table = connection.execute(sql, bound).to_arrow_table()
    frame: pd.DataFrame = table.to_pandas(types_mapper=_BOOLEAN.get, categories=list(categories))
    return frame
