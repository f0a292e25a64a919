"""A collection against a sandbox, as `expirytrack collect` does it, for tests that look at what came out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from expirytrack_dagster.backfill import Backfill, Outcome, track
from expirytrack_dagster.console import ProgressBars
from expirytrack_dagster.instance import open_instance
from expirytrack_dagster.settings import Settings, load_settings
from expirytrack_dagster.warehouse.connection import Warehouse

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import date

    import pandas as pd

    from expirytrack_dagster.sandbox.running import Running


@dataclass(frozen=True)
class Archive:
    """A collected home: how the collection ended, and a way to ask the database."""

    settings: Settings
    outcome: Outcome

    def table(self, sql: str) -> pd.DataFrame:
        """Return the answer to a query."""
        with Warehouse(self.settings.database).reading() as connection:
            frame: pd.DataFrame = connection.execute(sql).to_arrow_table().to_pandas()
        return frame

    def number(self, sql: str) -> int:
        """Return the one whole number that answers a query."""
        value: Any = self.table(sql).iloc[0, 0]
        return int(value)


@pytest.fixture
def collect(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Archive]:
    """Return a function that collects cells of NIFTY from a running sandbox into this test's home."""

    def run(upstox: Running, expiries: list[date], *, refetch: bool = False, **settings: str) -> Archive:
        monkeypatch.setenv("EXPIRYTRACK_API_URL", upstox.url)
        monkeypatch.setenv("EXPIRYTRACK_ACCESS_TOKEN", "x")
        for name, value in settings.items():
            monkeypatch.setenv(f"EXPIRYTRACK_{name.upper()}", value)
        loaded = load_settings()
        with open_instance(loaded) as instance:
            track(loaded, instance, "NIFTY")
            outcome = Backfill(loaded, instance, ProgressBars()).collect(["NIFTY"], expiries, refetch=refetch)
        return Archive(loaded, outcome)

    return run
