"""What the assets share: how a foreseeable error ends a run, how columns are described, the option to ask again."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import dagster as dg

from expirytrack_dagster.errors import ExpiryTrackError
from expirytrack_dagster.quality.catalogue import Table, column_descriptions

if TYPE_CHECKING:
    from collections.abc import Iterator

OWNERS = ["team:expirytrack"]
ERROR_METADATA = "error"
EXIT_CODE_METADATA = "exit_code"


class CollectConfig(dg.Config):
    """Options of a run of `contracts` or `candles`."""

    refetch: bool = False
    """Ask the API again even for what the archive holds for good."""


@contextmanager
def readable_failures() -> Iterator[None]:
    """Turn an error of the tree into a Dagster failure: its one sentence, no traceback of ours, no blind retry."""
    try:
        yield
    except ExpiryTrackError as error:
        raise dg.Failure(
            description=str(error),
            metadata={ERROR_METADATA: type(error).__name__, EXIT_CODE_METADATA: error.exit_code},
            allow_retries=error.retryable,
        ) from None


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
