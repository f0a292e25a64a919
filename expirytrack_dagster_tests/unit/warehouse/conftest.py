"""A cell as collecting hands it over: staged Parquet files and the states that count their rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from expirytrack_dagster.address import Address, standard
from expirytrack_dagster.security.parquet import encrypting
from expirytrack_dagster.warehouse.cells import CellWrite, write_candles
from expirytrack_dagster.warehouse.connection import Warehouse
from expirytrack_dagster.warehouse.data_path import DataPath
from expirytrack_dagster.warehouse.stores import store_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from expirytrack_dagster.address import FileKind

_KINDS: dict[str, FileKind] = {"plain": "duckdb", "encrypted": "duckdb", "sqlite": "sqlite", "lake": "ducklake:sqlite"}

FIRST = datetime(2025, 8, 1, 3, 45, tzinfo=UTC)  # 09:15 in India


@dataclass
class Cell:
    """Collects contracts, each a staged file of its own with bars of consecutive minutes, and writes them."""

    folder: Path
    key: bytes | None = None
    expiry: date = date(2025, 8, 28)
    staged: list[Path] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)

    def add(self, key: str, good: int = 2, bad: int = 0, price: float = 100.0, **state: Any) -> Cell:
        """Add a contract with valid bars and, after these, bars with broken rules; `state` overrides its state."""
        minutes = [FIRST + timedelta(minutes=step) for step in range(good + bad)]
        if minutes:
            self.stage(
                instrument_key=[key] * len(minutes),
                ts=pa.array(minutes, pa.timestamp("us", tz="UTC")),
                open=[price] * len(minutes),
                high=[price + 3] * len(minutes),
                low=[price - 2] * len(minutes),
                close=[price + 1] * len(minutes),
                volume=list(range(len(minutes))),
                open_interest=[750] * len(minutes),
                rule=pa.array([None] * good + ["low_above_high"] * bad, pa.string()),
                detail=pa.array([None] * good + ["low 5 is above high 4"] * bad, pa.string()),
            )
        counts = {"candles": good, "quarantined": bad, "duplicates": 0, "received": good + bad}
        times = {"first_ts": minutes[0] if good else None, "last_ts": minutes[good - 1] if good else None}
        told = {"status": "complete" if good else "empty_proven", "requests": 1, "error_code": None, "message": None}
        self.states.append({"instrument_key": key, **told, **counts, **times, "checked_at": FIRST, **state})
        return self

    def stage(self, **columns: Any) -> None:
        """Put one more batch on disk, as it is."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"batch-{len(list(self.folder.iterdir())):05d}.parquet"
        pq.write_table(pa.table(columns), path, encryption_properties=encrypting(self.key, path))
        self.staged.append(path)

    @property
    def status(self) -> pd.DataFrame:
        """The states, with the types that they have when they come from the API."""
        frame = pd.DataFrame(self.states)
        for name in ("first_ts", "last_ts", "checked_at"):
            frame[name] = pd.to_datetime(frame[name], utc=True)
        return frame

    def write(self, warehouse: Warehouse, underlying: str = "NIFTY", run_id: str = "run-1") -> CellWrite:
        """Write what was added."""
        return write_candles(warehouse, underlying, self.expiry, self.staged, self.status, run_id, self.key)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what uses an archive on each kind; on SQLite and in lakes only what a module names: they take longer."""
    if "place" in metafunc.fixturenames:
        places = getattr(metafunc.module, "PLACES", ("plain", "encrypted"))
        more = getattr(metafunc.module, "MORE_PLACES", {}).get(metafunc.function.__name__, ())
        metafunc.parametrize("place", (*places, *more), indirect=True)


@pytest.fixture
def place(request: pytest.FixtureRequest) -> str:
    """Name a kind of archive: what holds for one holds for each."""
    return str(request.param)


@pytest.fixture
def key(place: str) -> bytes | None:
    """Give the key of an archive that is encrypted."""
    return bytes(range(32)) if place == "encrypted" else None


@pytest.fixture
def warehouse(tmp_path: Path, place: str, key: bytes | None, request: pytest.FixtureRequest) -> Warehouse:
    """Give an archive that does not exist yet; nothing holds it, so waiting for it is a fault."""
    if place == "lake on a server":
        address = Address("ducklake:postgres", request.getfixturevalue("postgres"))
        return Warehouse(store_of(address, data=DataPath(f"{tmp_path}/home/lake/")), lock_timeout=5.0)
    return Warehouse(store_of(standard(_KINDS[place], tmp_path / "home"), key), lock_timeout=5.0)


@pytest.fixture
def new_cell(tmp_path: Path, key: bytes | None) -> Callable[[], Cell]:
    """Return a function that starts an empty cell."""
    return lambda: Cell(tmp_path / "staged", key)


@pytest.fixture
def cell(new_cell: Callable[[], Cell]) -> Cell:
    """Give an empty cell."""
    return new_cell()


@pytest.fixture
def rows(warehouse: Warehouse) -> Callable[[str], list[dict[str, Any]]]:
    """Return a function that asks the archive and gives the answer's rows."""

    def ask(sql: str) -> list[dict[str, Any]]:
        with warehouse.reading() as connection:
            answer: list[dict[str, Any]] = connection.execute(sql).to_arrow_table().to_pylist()
        return answer

    return ask
