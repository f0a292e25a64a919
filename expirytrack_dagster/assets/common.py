"""What the assets share: their owner, how columns are described, the option to ask again."""

from __future__ import annotations

import dagster as dg

from expirytrack_dagster.quality.catalogue import Table, column_descriptions

OWNERS = ["team:expirytrack"]
POOL = "upstox"
"""What asks for cells; dagster.yaml says how many runs of it go at once. Discovery is one request, and goes first."""


class CollectConfig(dg.Config):
    """Options of a run of `contracts` or `candles`."""

    refetch: bool = False
    """Ask the API again even for what the archive holds for good."""


def column_schema(table: Table) -> dg.TableSchema:
    """Return the columns of a table with types and descriptions, for the catalogue."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                column.name,
                type=column.type,
                description=f"{column.description} ({column.unit})" if column.unit else column.description,
            )
            for column in column_descriptions(table)
        ]
    )
