"""Turn an outcome of `quality/` into a Dagster check result whose metadata holds the failing rows as a table."""

from __future__ import annotations

import base64
import math
from typing import TYPE_CHECKING

import dagster as dg
import pandas as pd

if TYPE_CHECKING:
    from expirytrack_dagster.quality.outcome import CheckOutcome


def check_result(outcome: CheckOutcome, asset: str, image: bytes | None = None) -> dg.AssetCheckResult:
    """Return the result, perhaps with a picture: an error when the cell must not be written, else a warning."""
    metadata: dict[str, dg.MetadataValue | int | float] = dict(outcome.counts)
    if image:
        metadata["picture"] = picture(image, outcome.name)
    if len(outcome.failing):
        metadata["failing_rows"] = failing_table(outcome.failing)
    return dg.AssetCheckResult(
        check_name=outcome.name,
        asset_key=asset,
        passed=outcome.passed,
        severity=dg.AssetCheckSeverity.ERROR if outcome.fatal else dg.AssetCheckSeverity.WARN,
        description=outcome.summary,
        metadata=metadata,
    )


def failing_table(frame: pd.DataFrame) -> dg.TableMetadataValue:
    """Return the rows as a table for the UI, which takes plain scalars only; times read as ISO text in UTC."""
    columns = [dg.TableColumn(str(name), _type_name(frame[name])) for name in frame.columns]
    records = [
        dg.TableRecord({str(name): _scalar(value) for name, value in row.items()})
        for row in frame.to_dict(orient="records")
    ]
    return dg.MetadataValue.table(records, schema=dg.TableSchema(columns=columns))


def picture(png: bytes, title: str) -> dg.MarkdownMetadataValue:
    """Return a PNG as a picture for the UI; it is stored in the event log as a whole, so keep it small."""
    return dg.MetadataValue.md(f"![{title}](data:image/png;base64,{base64.b64encode(png).decode()})")


def _type_name(column: pd.Series) -> str:
    if pd.api.types.is_bool_dtype(column):
        return "bool"
    if pd.api.types.is_integer_dtype(column):
        return "int"
    return "float" if pd.api.types.is_float_dtype(column) else "string"


def _scalar(value: object) -> str | int | float | bool | None:
    if value is None or value is pd.NaT or value is pd.NA:
        return None
    if isinstance(value, float):
        return None if math.isnan(value) else value
    return value if isinstance(value, (bool, int)) else str(value)
