"""What planning asks the archive: cells without a seal, their contracts, and what sealed ones cost."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

from expirytrack_dagster.warehouse import reader
from expirytrack_dagster_tests.unit.conftest import EXPIRY, keys

if TYPE_CHECKING:
    from expirytrack_dagster_tests.unit.conftest import SmallArchive


def test_cells_without_a_seal(archive: SmallArchive) -> None:
    """Only what is left to do, with the counts that the whole table has."""
    frame = reader.unsealed(archive.warehouse)
    assert [str(day)[:10] for day in frame["expiry"]] == ["2025-09-04"]
    assert frame["contracts"].tolist() == [0]
    archive.run("DELETE FROM main.cell_seals", "UPDATE main.contract_status SET status = 'partial' WHERE candles > 0")
    counted = ["underlying", "expiry", "contracts", "complete", "empty_proven", "partial", "refused", "sealed"]
    whole = reader.cells(archive.warehouse)[counted]
    assert reader.unsealed(archive.warehouse).to_dict("records") == whole.to_dict("records")


def test_contracts_of_some_cells(archive: SmallArchive) -> None:
    """Only of the cells that are named, each with its state; a contract that was not asked for has none."""
    archive.run("DELETE FROM main.contract_status WHERE candles = 0")
    frame = reader.open_contracts(archive.warehouse, [("NIFTY", EXPIRY), ("NIFTY", date(2025, 9, 4))])
    assert frame["instrument_key"].tolist() == list(keys())
    assert frame["status"].fillna("").tolist() == ["complete", "complete", ""]
    assert len(reader.open_contracts(archive.warehouse, [])) == 0


def test_what_sealed_cells_cost(archive: SmallArchive) -> None:
    """Sums over the newest sealed cells; a contract that cost far more than the usual counts as twice the usual."""
    assert reader.experience(archive.warehouse).to_dict("records") == [
        {"underlying": "NIFTY", "cells": 1, "contracts": 3, "requests": 3, "rows": 123}
    ]
    archive.run("UPDATE main.contract_status SET requests = 40 WHERE candles = 0")
    assert reader.experience(archive.warehouse)["requests"].tolist() == [4]
    archive.run("DELETE FROM main.cell_seals")
    assert len(reader.experience(archive.warehouse)) == 0
