"""The columns of the collected tables in plain data, for catalogues such as Dagster's column schema.

Everything is read from the pandera columns beside the rules; nothing is described here a second time.
"""

from __future__ import annotations

from typing import Literal

from expirytrack_dagster.quality.candle_rules import CANDLE_COLUMNS
from expirytrack_dagster.quality.columns import ColumnDescription, describe
from expirytrack_dagster.quality.contracts import CONTRACT_COLUMNS
from expirytrack_dagster.quality.expiries import EXPIRY_COLUMNS

Table = Literal["expiries", "contracts", "candles"]


def column_descriptions(table: Table) -> list[ColumnDescription]:
    """Return name, DuckDB type, unit and description of a table's columns as they are stored.

    Candles are judged without their cell, and stored with it: underlying and expiry come first.
    """
    if table == "expiries":
        return describe(EXPIRY_COLUMNS)
    if table == "contracts":
        return describe(CONTRACT_COLUMNS)
    cell = {name: CONTRACT_COLUMNS[name] for name in ("underlying", "expiry")}
    return describe(cell | CANDLE_COLUMNS)
