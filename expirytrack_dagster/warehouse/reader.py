"""Questions to the archive that assets, checks and the command line ask: each is one short query.

Frames have the columns of their table; `expiry` is a `datetime.date`, times are datetime64[us, UTC], a flag that may
be missing is pandas' `boolean`, and a whole number that may be missing (in quarantine alone) is float64 with NaN. The
connection is closed before a function returns. Changing anything belongs to `cells.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from datetime import date

    from expirytrack_dagster.warehouse.connection import Warehouse

_EXPIRIES = "SELECT * FROM expiries WHERE underlying = $underlying ORDER BY expiry"
_CONTRACTS = "SELECT * FROM contracts WHERE underlying = $underlying AND expiry = $expiry ORDER BY instrument_key"
_STATUSES = "SELECT * FROM contract_status WHERE underlying = $underlying AND expiry = $expiry ORDER BY instrument_key"

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

_CELLS = """
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
    coalesce(sum(candles), 0)::BIGINT AS candles,
    coalesce(sum(quarantined), 0)::BIGINT AS quarantined,
    min(first_ts) AS first_ts,
    max(last_ts) AS last_ts
FROM expiries
LEFT JOIN contracts USING (underlying, expiry)
LEFT JOIN contract_status USING (underlying, expiry, instrument_key)
GROUP BY underlying, expiry
ORDER BY underlying, expiry
"""

_BOOLEAN = {pa.bool_(): pd.BooleanDtype()}


def expiries(warehouse: Warehouse, underlying: str) -> pd.DataFrame:
    """Return the expiry dates of an underlying, ascending."""
    return _frame(warehouse, _EXPIRIES, {"underlying": underlying})


def listed(warehouse: Warehouse) -> dict[str, set[str]]:
    """Return every underlying's expiry dates in ISO form: the cells that exist."""
    frame = _frame(warehouse, "SELECT underlying, expiry::TEXT AS day FROM expiries", {})
    return {str(underlying): set(days) for underlying, days in frame.groupby("underlying")["day"]}


def contracts(warehouse: Warehouse, underlying: str, expiry: date) -> pd.DataFrame:
    """Return the contracts of a cell, in the order of their keys."""
    return _frame(warehouse, _CONTRACTS, {"underlying": underlying, "expiry": expiry})


def statuses(warehouse: Warehouse, underlying: str, expiry: date) -> pd.DataFrame:
    """Return the states of the cell's contracts that were asked for, in the order of their keys."""
    return _frame(warehouse, _STATUSES, {"underlying": underlying, "expiry": expiry})


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


def cells(warehouse: Warehouse) -> pd.DataFrame:
    """Return one row for each listed cell: contracts by state, rows, first and last minute.

    `contracts` is the sum of the five states and `unasked`. Candles are counted from the states, not scanned; a
    contract that the API has withdrawn from its list is not counted.
    """
    return _frame(warehouse, _CELLS, {})


def _frame(warehouse: Warehouse, sql: str, bound: Mapping[str, Any]) -> pd.DataFrame:
    with warehouse.reading() as connection:
        table = connection.execute(sql, bound).to_arrow_table()
    frame: pd.DataFrame = table.to_pandas(types_mapper=_BOOLEAN.get)
    return frame
