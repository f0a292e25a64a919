"""The review of quarantined rows: people release them into `candles`, or discard them for good.

A released row keeps its prices as received and loses its place in quarantine; which rule it broke, and who let it pass,
stays in the table `reviews` (no column of `candles` tells, at no cost a row). What the table `candles` promises is not
given up: a row without a value, off the minute, after the expiry, or of a minute that is taken stays in quarantine.
Rows, counts of the states, seals and the line in `reviews` change in one transaction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from expirytrack_dagster.warehouse.seals import require_intact, reseal
from expirytrack_dagster.warehouse.stores import Commit

if TYPE_CHECKING:
    from datetime import date

    import duckdb
    import pandas as pd

    from expirytrack_dagster.warehouse.connection import Warehouse

Action = Literal["release", "discard"]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows of quarantine: of an underlying, and of an expiry, a rule and a contract where these are given."""

    underlying: str | None = None
    expiry: date | None = None
    rule: str | None = None
    instrument_key: str | None = None


# `obstacle` is why a row cannot be released; the order is that of the sentences' usefulness.
_CHOOSE = """
CREATE OR REPLACE TEMP TABLE chosen AS
SELECT *, CASE
    WHEN ts IS NULL OR open IS NULL OR high IS NULL OR low IS NULL OR close IS NULL OR volume IS NULL
        OR open_interest IS NULL THEN 'a value is missing'
    WHEN epoch_us(ts) % 60000000 <> 0 THEN 'it is not on the minute'
    WHEN ts >= (expiry + INTERVAL '18:30')::TIMESTAMPTZ THEN 'it lies after the expiry'
    WHEN count(*) OVER (PARTITION BY instrument_key, ts) > 1 THEN 'several chosen rows claim its minute'
    WHEN EXISTS (SELECT 1 FROM candles WHERE candles.underlying = quarantine.underlying
        AND candles.expiry = quarantine.expiry AND candles.instrument_key = quarantine.instrument_key
        AND candles.ts = quarantine.ts) THEN 'candles has its minute already'
    WHEN (underlying, expiry, instrument_key) NOT IN
        (SELECT (underlying, expiry, instrument_key) FROM contract_status) THEN 'its contract has no state'
    END AS obstacle
FROM quarantine
WHERE ($underlying IS NULL OR underlying = $underlying) AND ($expiry IS NULL OR expiry = $expiry)
AND ($rule IS NULL OR rule = $rule) AND ($instrument_key IS NULL OR instrument_key = $instrument_key)
ORDER BY underlying, expiry, instrument_key, ts
"""

_SHOWN = "SELECT * FROM chosen ORDER BY underlying, expiry, instrument_key, ts"

_CONTRACTS = "SELECT DISTINCT underlying, expiry, instrument_key FROM chosen"

_CELLS = "SELECT DISTINCT underlying, expiry FROM chosen ORDER BY ALL"

_OF_OTHER_CELLS = "DELETE FROM chosen WHERE concat(underlying, ' ', expiry) NOT IN (SELECT unnest($named::TEXT[]))"

# A contract's rows are written anew, because they stand side by side in ascending order.
_RELEASE = (
    f"""
    CREATE OR REPLACE TEMP TABLE merged AS
    SELECT candles.* EXCLUDE (ts) FROM candles SEMI JOIN ({_CONTRACTS}) USING (underlying, expiry, instrument_key)
    UNION ALL BY NAME
    SELECT underlying, expiry, instrument_key, epoch_us(ts) // 60000000 AS minute, open, high, low, close, volume,
        open_interest
    FROM chosen
    """,  # noqa: S608 -- our own constant
    f"DELETE FROM main.candles WHERE (underlying, expiry, instrument_key) IN ({_CONTRACTS})",  # noqa: S608 -- our own constant
    "INSERT INTO main.candles BY NAME SELECT * FROM merged ORDER BY underlying, expiry, instrument_key, minute",
    """
    UPDATE main.contract_status AS status SET candles = now.rows, first_ts = now.first_ts, last_ts = now.last_ts
    FROM (SELECT underlying, expiry, instrument_key, count(*) AS rows, to_timestamp(min(minute) * 60) AS first_ts,
            to_timestamp(max(minute) * 60) AS last_ts
          FROM merged GROUP BY ALL) AS now
    WHERE status.underlying = now.underlying AND status.expiry = now.expiry
    AND status.instrument_key = now.instrument_key
    """,
)

# Rows have no names of their own: of those that are alike, all were chosen, with the same obstacle, or none.
_TAKE_OUT = (
    f"""
    CREATE OR REPLACE TEMP TABLE staying AS
    FROM quarantine SEMI JOIN ({_CONTRACTS}) USING (underlying, expiry, instrument_key)
    EXCEPT ALL SELECT * EXCLUDE (obstacle) FROM chosen
    """,  # noqa: S608 -- our own constant
    f"DELETE FROM main.quarantine WHERE (underlying, expiry, instrument_key) IN ({_CONTRACTS})",  # noqa: S608 -- as above
    "INSERT INTO main.quarantine BY NAME FROM staying ORDER BY underlying, expiry, instrument_key, ts",
)

_COUNT = """
UPDATE main.contract_status AS status
SET quarantined = quarantined - gone.rows, discarded = discarded + CASE $action WHEN 'discard' THEN gone.rows ELSE 0 END
FROM (SELECT underlying, expiry, instrument_key, count(*) AS rows FROM chosen GROUP BY ALL) AS gone
WHERE status.underlying = gone.underlying AND status.expiry = gone.expiry
AND status.instrument_key = gone.instrument_key
"""

_NOTE = """
INSERT INTO main.reviews BY NAME
SELECT now() AS reviewed_at, $reviewer AS reviewer, $action AS action, underlying, expiry, instrument_key, rule, run_id,
    min(ts) AS first_ts, max(ts) AS last_ts, count(*) AS rows
FROM chosen GROUP BY ALL ORDER BY ALL
"""


def chosen(warehouse: Warehouse, selection: Selection) -> pd.DataFrame:
    """Return the selected rows with all columns of `quarantine`, and `obstacle`: why a row cannot be released, if so.

    Times are datetime64[us, UTC]; a whole number that is missing makes its column float64.
    """
    with warehouse.reading() as connection:
        _choose(connection, selection)
        return _shown(connection)


def review(warehouse: Warehouse, selection: Selection, action: Action, reviewer: str) -> pd.DataFrame:
    """Release or discard the selected rows in one transaction, and return those that were.

    A row with an obstacle is not released: it stays in quarantine, as does one of a cell of which none was there when
    the review began.

    Raises:
        StorageError: a cell is not as it was sealed; nothing was changed.
    """
    with warehouse.reading() as connection:
        _choose(connection, selection)
        named = tuple(connection.execute(_CELLS).fetchall())
        if not named:
            return _shown(connection)

    def work(connection: duckdb.DuckDBPyConnection) -> pd.DataFrame:
        _choose(connection, selection)
        connection.execute(_OF_OTHER_CELLS, {"named": [f"{underlying} {expiry}" for underlying, expiry in named]})
        if action == "release":
            connection.execute("DELETE FROM chosen WHERE obstacle IS NOT NULL")
        cells = [
            {"underlying": underlying, "expiry": expiry} for underlying, expiry in connection.execute(_CELLS).fetchall()
        ]
        for cell in cells:
            require_intact(connection, cell)
        for statement in _RELEASE if action == "release" else ():
            connection.execute(statement)
        for statement in _TAKE_OUT:
            connection.execute(statement)
        connection.execute(_COUNT, {"action": action})
        connection.execute(_NOTE, {"action": action, "reviewer": reviewer})
        for cell in cells:
            reseal(connection, cell)
        return _shown(connection)

    return warehouse.write(work, Commit(action, named, tables=("reviews", "contract_status", "cell_seals")))


def _shown(connection: duckdb.DuckDBPyConnection) -> pd.DataFrame:
    frame: pd.DataFrame = connection.execute(_SHOWN).to_arrow_table().to_pandas()
    return frame


def _choose(connection: duckdb.DuckDBPyConnection, selection: Selection) -> None:
    connection.execute(
        _CHOOSE,
        {
            "underlying": selection.underlying,
            "expiry": selection.expiry,
            "rule": selection.rule,
            "instrument_key": selection.instrument_key,
        },
    )
