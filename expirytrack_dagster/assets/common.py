"""What the assets share: their owner, how columns are described, the option to ask again."""

from __future__ import annotations

from datetime import timedelta

import dagster as dg

from expirytrack_dagster.quality.catalogue import Table, column_descriptions

OWNERS = ["team:expirytrack"]
POOL = "upstox"
"""What asks for cells; dagster.yaml says how many runs of it go at once. Discovery is one request, and goes first."""

FRESH = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=36), warn_window=timedelta(hours=26))
"""What is asked or summed up once a day at least: late after a day and two hours, stale after a day and a half."""

_UPSTOX = "https://upstox.com/developer/api-documentation"


class CollectConfig(dg.Config):
    """Options of a run of `contracts` or `candles`."""

    refetch: bool = False
    """Ask the API again even for what the archive holds for good."""


def documents(page: str, upstox: str | None = None) -> dict[str, dg.MetadataValue]:
    """Return where to read on about an asset: a page of `docs/`, and the one of Upstox if it asks the API."""
    links: dict[str, dg.MetadataValue] = {"docs": dg.MetadataValue.path(f"docs/{page}.md")}
    return links if upstox is None else {**links, "upstox_docs": dg.MetadataValue.url(f"{_UPSTOX}/{upstox}")}


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
