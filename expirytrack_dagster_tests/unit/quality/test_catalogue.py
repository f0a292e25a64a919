"""The catalogue names every stored column of every table, once, with a type and a description."""

from __future__ import annotations

import pytest

from expirytrack_dagster.quality.catalogue import Table, column_descriptions

STORED = {
    "expiries": "underlying expiry underlying_key discovered_at",
    "contracts": "instrument_key underlying expiry instrument_type strike_price trading_symbol exchange_token lot_size "
    "tick_size minimum_lot freeze_quantity weekly segment name underlying_key",
    "candles": "underlying expiry instrument_key ts open high low close volume open_interest",
}


@pytest.mark.parametrize("table", ["expiries", "contracts", "candles"])
def test_every_stored_column_is_described(table: Table) -> None:
    """The columns are those of the warehouse, each with a DuckDB type and a sentence."""
    columns = column_descriptions(table)
    assert [column.name for column in columns] == STORED[table].split()
    assert {column.type for column in columns} <= {"TEXT", "DATE", "DOUBLE", "BIGINT", "BOOLEAN", "TIMESTAMPTZ"}
    assert all(column.description.endswith(".") for column in columns)


def test_units_say_the_time_zone() -> None:
    """Instants are in UTC and dates in IST."""
    units = {column.name: column.unit for column in column_descriptions("candles")}
    assert (units["ts"], units["expiry"], units["open"]) == ("UTC", "date in IST", "rupees")
