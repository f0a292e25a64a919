"""A small archive that several rooms look at: sealed cells with bad rows, a cell that lists nothing, one not collected.

Only data and how it is stored belong here; each test damages its own copy.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from expirytrack_dagster.address import standard
from expirytrack_dagster.collect.staging import CellStaging
from expirytrack_dagster.collect.states import ContractStatus, State, status_frame
from expirytrack_dagster.warehouse import cells
from expirytrack_dagster.warehouse.connection import Warehouse
from expirytrack_dagster.warehouse.stores import store_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from expirytrack_dagster.address import FileKind

EXPIRY = date(2025, 8, 21)
EMPTY, UNCOLLECTED = date(2025, 8, 28), date(2025, 9, 4)
OPEN = datetime(2025, 8, 21, 3, 45, tzinfo=UTC)
MINUTES = 60


@dataclass(frozen=True)
class SmallArchive:
    """An archive and the folder in which its cells are staged.

    NIFTY 2025-08-21 is sealed: it has the contracts A and B with 60 minutes each, of which A has two more in
    quarantine (minutes 60 and 61, rule ohlc; 61 has no close) and B one duplicate dropped, and C, proven empty.
    2025-08-28 lists no contract, 2025-09-04 is not collected.
    """

    warehouse: Warehouse
    staging: Path

    def run(self, *statements: str) -> None:
        """Change the database behind the program's back."""
        with self.warehouse.writing() as connection:
            for statement in statements:
                connection.execute(statement)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Return the answer to a query."""
        with self.warehouse.reading() as connection:
            return connection.execute(sql).fetchall()

    def store(self, statuses: Sequence[ContractStatus], good: pd.DataFrame, bad: pd.DataFrame) -> None:
        """Write contracts of the sealed cell as the asset does."""
        staging = CellStaging(self.staging / "NIFTY" / EXPIRY.isoformat())
        batch = staging.write(good, bad, statuses)
        cells.write_candles(self.warehouse, "NIFTY", EXPIRY, [batch.path], status_frame(statuses), "run-1")
        staging.clear()


def bars(key: str, first: int, last: int) -> pd.DataFrame:
    """Return candles of a contract from one minute of the session to another, the last one excluded."""
    size = last - first
    return pd.DataFrame(
        {
            "instrument_key": pd.Series([key] * size, dtype="str"),
            "ts": pd.Series([OPEN + timedelta(minutes=m) for m in range(first, last)], dtype="datetime64[us, UTC]"),
            **{name: [10.0 + m % 7 for m in range(first, last)] for name in ("open", "high", "low", "close")},
            "volume": pd.Series([75] * size, dtype="int64"),
            "open_interest": pd.Series([750] * size, dtype="int64"),
        }
    )


def status(key: str, state: State, **counts: Any) -> ContractStatus:
    """Return the state of a contract that was asked for once."""
    return ContractStatus(instrument_key=key, status=state, checked_at=OPEN, requests=1, **counts)


def keys() -> tuple[str, str, str]:
    """Return the keys of A, B and C."""
    return "NSE_FO|40001|21-08-2025", "NSE_FO|40002|21-08-2025", "NSE_FO|40003|21-08-2025"


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the small archive once, and return its file."""
    folder = tmp_path_factory.mktemp("pristine")
    small = SmallArchive(Warehouse(folder / "archive.duckdb"), folder / "staging")
    fill(small)
    return small.warehouse.database


def fill(small: SmallArchive) -> None:
    """Write what a small archive holds."""
    a, b, c = keys()
    dates = pd.DataFrame({"expiry": [EXPIRY, EMPTY, UNCOLLECTED], "underlying_key": "NSE_INDEX|Nifty 50"})
    contracts = pd.DataFrame({"instrument_key": [a, b, c], "instrument_type": "CE", "strike_price": [1.0, 2.0, 3.0]})
    cells.write_expiries(small.warehouse, "NIFTY", dates.assign(discovered_at=OPEN))
    cells.write_contracts(small.warehouse, "NIFTY", EXPIRY, contracts)
    cells.write_contracts(small.warehouse, "NIFTY", EMPTY, contracts.iloc[:0])
    last = OPEN + timedelta(minutes=MINUTES - 1)
    bad = bars(a, MINUTES, MINUTES + 2).assign(rule="ohlc", detail="high is below low")
    bad.loc[1, "close"] = None
    small.store(
        [
            status(a, State.COMPLETE, received=62, candles=60, quarantined=2, first_ts=OPEN, last_ts=last),
            status(b, State.COMPLETE, received=61, candles=60, duplicates=1, first_ts=OPEN, last_ts=last),
            status(c, State.EMPTY_PROVEN),
        ],
        pd.concat([bars(a, 0, MINUTES), bars(b, 0, MINUTES)]),
        bad,
    )


@pytest.fixture
def copied(pristine: Path, tmp_path: Path) -> SmallArchive:
    """Give a copy of the small archive."""
    copy = tmp_path / "archive.duckdb"
    shutil.copy(pristine, copy)
    return SmallArchive(Warehouse(copy, lock_timeout=5.0), tmp_path / "staging")


@pytest.fixture
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> SmallArchive:
    """Give the archive that a test may change, in a DuckDB file unless it names another kind of store."""
    return stored_as(getattr(request, "param", "duckdb"), request, tmp_path)


def stored_as(kind: FileKind, request: pytest.FixtureRequest, tmp_path: Path) -> SmallArchive:
    """Return a small archive in a kind of store."""
    if kind == "duckdb":
        copied: SmallArchive = request.getfixturevalue("copied")
        return copied
    small = SmallArchive(Warehouse(store_of(standard(kind, tmp_path)), lock_timeout=5.0), tmp_path / "staging")
    fill(small)
    return small


IN_A_LAKE_TOO = pytest.mark.parametrize("archive", ["duckdb", "ducklake:sqlite"], indirect=True)
"""What holds in a file is shown to hold in a lake: where rows are changed and removed in ways of their own."""
