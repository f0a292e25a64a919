"""How `collect` goes through cells: what is complete costs next to nothing, and what stops one stops only that."""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager
from datetime import date, timedelta
from typing import TYPE_CHECKING

import dagster as dg
import pandas as pd
import pytest
from sqlalchemy import select

from expirytrack_dagster import backfill
from expirytrack_dagster.backfill import Backfill
from expirytrack_dagster.console import ProgressBars
from expirytrack_dagster.partitions import cell_key
from expirytrack_dagster.settings import Settings, load_settings
from expirytrack_dagster.state import StateDatabase
from expirytrack_dagster.state.tables import leases
from expirytrack_dagster.warehouse.cells import write_contracts, write_expiries
from expirytrack_dagster.warehouse.connection import Warehouse, open_warehouse

if TYPE_CHECKING:
    from collections.abc import Iterator

    import duckdb

DAYS = [date(2025, 8, 7) + timedelta(weeks=week) for week in range(6)]
NOTHING = pd.DataFrame({"instrument_key": pd.Series(dtype="str"), "instrument_type": pd.Series(dtype="str")})


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Return the settings of a home whose API must not be asked for anything."""
    monkeypatch.setenv("EXPIRYTRACK_API_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("EXPIRYTRACK_ACCESS_TOKEN", "x")
    return load_settings()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """Give an instance that knows of no run."""
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def discovered(settings: Settings, symbol: str, days: list[date], *, sealed: bool) -> None:
    """Let the archive list these dates, all of whose cells have no contract where they are sealed."""
    archive = open_warehouse(settings)
    write_expiries(archive, symbol, pd.DataFrame({"expiry": days, "underlying_key": f"NSE_INDEX|{symbol}"}))
    for day in days if sealed else ():
        write_contracts(archive, symbol, day, NOTHING)


def test_complete_cells_are_looked_at_together(
    settings: Settings, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many they are, the archive is asked the same few questions; a check that failed is told again."""
    discovered(settings, "NIFTY", DAYS, sealed=True)
    for day in DAYS:
        for name, passed in (("ohlc", True), ("duplicates", day != DAYS[0])):
            evaluation = dg.AssetCheckEvaluation(
                asset_key=dg.AssetKey("candles"),
                check_name=name,
                passed=passed,
                metadata={},
                severity=dg.AssetCheckSeverity.WARN,
                description="As found.",
                partition=cell_key("NIFTY", day.isoformat()),
            )
            instance.report_runless_asset_event(evaluation)
    looks: list[int] = []
    reading = Warehouse.reading

    @contextmanager
    def counted(self: Warehouse) -> Iterator[duckdb.DuckDBPyConnection]:
        looks[-1] += 1
        with reading(self) as connection:
            yield connection

    monkeypatch.setattr(Warehouse, "reading", counted)
    for days in (DAYS[:1], DAYS):
        looks.append(0)
        outcome = Backfill(settings, instance, ProgressBars()).collect(["NIFTY"], days)
        assert (outcome.exit_code, outcome.requests, len(outcome.cells)) == (0, 0, len(days))
        told = {(line.name, line.cell, line.passed) for line in outcome.checks}
        assert told == {("ohlc", f"NIFTY {DAYS[0]}", True), ("duplicates", f"NIFTY {DAYS[0]}", False)}
    assert looks[0] == looks[1]


def test_a_state_that_is_held_for_a_while_ends_its_cell_only(
    settings: Settings, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are tried as well, and the end says of each cell how it stands."""
    discovered(settings, "NIFTY", DAYS[:2], sealed=True)
    discovered(settings, "SENSEX", DAYS[:2], sealed=False)
    monkeypatch.setattr(backfill, "open_state", lambda given: StateDatabase(given.state_address, timeout=0.1))
    collector = Backfill(settings, instance, ProgressBars())
    with StateDatabase(settings.state_address) as state:
        state.query(select(leases))  # makes the file
    with closing(sqlite3.connect(settings.state_address.path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        outcome = collector.collect(["NIFTY", "SENSEX"], DAYS[:2])
    assert outcome.exit_code == 1
    assert [error.partition(": ")[0] for error in outcome.errors] == [f"SENSEX {day}" for day in reversed(DAYS[:2])]
    assert all("held by another process" in error for error in outcome.errors)
    assert outcome.cells["sealed"].tolist() == [True, True, False, False]
