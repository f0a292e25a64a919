"""One form for every rule about rows, so that a schema and an explanation cannot disagree.

A `Rule` is a vectorised test with words for the rows that break it. pandera schemas are built from rules
(`Rule.as_check`), and so are the reasons given for broken rows (`explain`). The rules themselves stand in `expiries`,
`contracts` and `candle_rules`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pandas as pd
import pandera.pandas as pa
from numpy.typing import NDArray
from pandera.errors import SchemaErrors

from expirytrack_dagster.errors import UnfitData

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Mask: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True)
class Rule:
    """What must hold for every row.

    Attributes:
        label: under which a row that breaks the rule is filed.
        statement: what must hold, in words.
        holds: takes a frame, returns a boolean for each row.
        tells: takes the broken rows, returns a phrase with the values for each of them.
    """

    label: str
    statement: str
    holds: Callable[[pd.DataFrame], Mask]
    tells: Callable[[pd.DataFrame], list[str]]

    def as_check(self) -> pa.Check:
        """Return the rule as a check for the `checks` of a pandera DataFrameSchema."""
        return pa.Check(lambda frame: pd.Series(self.holds(frame), index=frame.index), error=self.statement)


def explain(frame: pd.DataFrame, rules: Sequence[Rule]) -> pd.DataFrame:
    """Say which rows break which rules.

    Returns:
        Columns `rule` (the label of the first broken rule, in the order of `rules`) and `detail` (all of them in
        words); one row for each broken row, indexed by its position in `frame`, ascending.
    """
    labels: dict[int, str] = {}
    details: dict[int, list[str]] = {}
    for rule in rules:
        broken = np.flatnonzero(~rule.holds(frame))
        if len(broken) == 0:
            continue
        for position, detail in zip(broken.tolist(), rule.tells(frame.iloc[broken]), strict=True):
            labels.setdefault(position, rule.label)
            details.setdefault(position, []).append(detail)
    positions = sorted(labels)
    return pd.DataFrame(
        {
            "rule": pd.Series([labels[position] for position in positions], index=positions, dtype="str"),
            "detail": pd.Series(["; ".join(details[position]) for position in positions], index=positions, dtype="str"),
        },
    )


def judge(frame: pd.DataFrame, schema: pa.DataFrameSchema, rules: Sequence[Rule]) -> pd.DataFrame:
    """Validate a small frame against the schema built from `rules`.

    Meant for lists of hundreds of rows: pandera's failure cases are slow on large frames.

    Returns:
        As `explain`; a fault of a whole column (its type) has the position -1.

    Raises:
        UnfitData: a column of the schema is missing.
    """
    require_columns(frame, list(schema.columns))
    frame = frame.reset_index(drop=True)
    try:
        schema.validate(frame, lazy=True)
    except SchemaErrors as error:
        faults = _column_faults(error, {rule.statement for rule in rules})
        broken = pd.concat([faults, explain(frame, rules)]).groupby(level=0, sort=True)
        return pd.DataFrame({"rule": broken["rule"].first(), "detail": broken["detail"].agg("; ".join)})
    return explain(frame, [])


def require_columns(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    """Refuse a frame that lacks a column.

    Raises:
        UnfitData: names the missing columns.
    """
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise UnfitData(f"The data cannot be judged: the columns {', '.join(missing)} are missing.")


def number(value: float) -> str:
    """Return the value as people write it: `103`, `101.55`, or `missing`."""
    return "missing" if pd.isna(value) else f"{value:.15g}"


def _column_faults(error: SchemaErrors, statements: set[str]) -> pd.DataFrame:
    """Return what pandera itself found about columns (nulls and types), in the form of `explain`."""
    cases = error.failure_cases
    cases = cases[~cases["check"].isin(statements)]
    nulls = cases["check"] == "not_nullable"
    words = [
        f"{column} is missing" if null else f"{column} fails {check} with {case}"
        for column, check, case, null in zip(cases["column"], cases["check"], cases["failure_case"], nulls, strict=True)
    ]
    positions = pd.to_numeric(cases["index"]).fillna(-1).astype("int64")
    return pd.DataFrame({"rule": cases["column"].to_numpy(), "detail": words}, index=positions.to_numpy(), dtype="str")
