"""docs/queries.md: every example runs and answers with rows, in the file and through the reader."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from expirytrack_dagster import archive
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket
from expirytrack_dagster.warehouse.connection import Warehouse
from expirytrack_dagster.warehouse.derived import CELL_TABLES, derive, derive_continuous
from expirytrack_dagster.warehouse.published import publish
from expirytrack_dagster_tests.market import store_cell

if TYPE_CHECKING:
    from collections.abc import Callable

TEXT = (Path(__file__).parents[2] / "docs" / "queries.md").read_text(encoding="utf-8")
SQL = re.findall(r"```sql\n(.*?)```", TEXT, re.DOTALL)
PYTHON = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
# What the page has to show; the macros themselves are in warehouse/migrations.
PROMISED = {"bars", "chain_at", "chain_window", "atm", "spot_at", "straddle", "continuous", "continuous_minutes"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a home with the cell of the examples."""
    folder = tmp_path_factory.mktemp("home")
    warehouse = Warehouse(folder / "expirytrack.duckdb")
    market, expiry = SyntheticMarket(strikes=4, days=4, today=date(2025, 9, 15)), date(2025, 8, 28)
    store_cell(warehouse, market, "NIFTY", expiry, folder)
    for table in CELL_TABLES:
        derive(warehouse, table, "NIFTY", expiry, 0.065)
    derive_continuous(warehouse, "NIFTY")
    publish(warehouse)
    return folder


def first_line(example: str) -> str:
    """Return what names an example in the report of a test."""
    return example.strip().splitlines()[0].removeprefix("-- ")


@pytest.mark.parametrize("example", SQL, ids=first_line)
def test_an_example_in_sql_answers(home: Path, example: str) -> None:
    """The same number of rows from the file and from the published copy, and more than none."""
    with Warehouse(home / "expirytrack.duckdb").reading() as connection:
        stored = connection.execute(example).to_arrow_table().num_rows
    assert len(archive.sql(example.rstrip().removesuffix(";"), home=home)) == stored > 0


@pytest.mark.parametrize("example", PYTHON, ids=first_line)
def test_an_example_in_python_runs(home: Path, example: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands, with the home of the environment."""
    monkeypatch.setenv("EXPIRYTRACK_HOME", str(home))
    exec(compile(example, "docs/queries.md", "exec"), {"archive": archive})  # noqa: S102 -- our own page


def test_every_macro_is_shown(rows_of: Callable[[str], list[str]]) -> None:
    """A macro that the page does not show is as good as not there."""
    macros = set(
        rows_of("SELECT function_name FROM duckdb_functions() WHERE function_type = 'table_macro' AND NOT internal")
    )
    shown = {name for name in macros if any(re.search(rf"\b{name}\(", example) for example in SQL)}
    assert shown == macros - {"bars_of"}  # shown by its views
    assert shown == PROMISED


@pytest.fixture
def rows_of(home: Path) -> Callable[[str], list[str]]:
    """Return a function that gives the first column of an answer of the file."""

    def ask(query: str) -> list[str]:
        with Warehouse(home / "expirytrack.duckdb").reading() as connection:
            return [str(row[0]) for row in connection.execute(query).fetchall()]

    return ask
