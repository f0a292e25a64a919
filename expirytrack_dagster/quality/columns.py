"""How a column is declared: a pandera Column that carries its storage type, unit and description.

The helper and the plain description belong here; the columns of each table stand beside its rules, and
`catalogue` lists them by table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandera.pandas as pa


@dataclass(frozen=True)
class ColumnDescription:
    """A column in plain data: DuckDB type, unit (empty where there is none) and meaning."""

    name: str
    type: str
    unit: str
    description: str


def column(
    dtype: Any,
    stored_as: str,
    description: str,
    *,
    unit: str = "",
    nullable: bool = False,
    coerce: bool = False,
) -> pa.Column:
    """Declare a column of a schema.

    Args:
        dtype: type in pandas, as pandera takes it; None leaves it open.
        stored_as: type in DuckDB.
        description: what the value means.
        unit: of the value, such as `rupees`.
        nullable: whether a value may be missing.
        coerce: whether a value of another type is converted before it is judged.
    """
    metadata = {"stored_as": stored_as, "unit": unit}
    return pa.Column(dtype, nullable=nullable, coerce=coerce, description=description, metadata=metadata)


def describe(columns: dict[str, pa.Column]) -> list[ColumnDescription]:
    """Return the descriptions of columns that were declared with `column`, in their order."""
    return [
        ColumnDescription(name, declared.metadata["stored_as"], declared.metadata["unit"], declared.description)
        for name, declared in columns.items()
    ]
