"""`expirytrack derive`: makes what is missing or old, once, and says what it made; no request is ever sent."""

from __future__ import annotations

import json
import sys
from datetime import date
from typing import TYPE_CHECKING

import pytest

from expirytrack_dagster import archive
from expirytrack_dagster.cli import main
from expirytrack_dagster.instance import open_instance
from expirytrack_dagster.partitions import EXPIRY, UNDERLYING
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket
from expirytrack_dagster.settings import load_settings
from expirytrack_dagster.warehouse.connection import Warehouse
from expirytrack_dagster_tests.market import store_bars, store_cell

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Command = Callable[..., tuple[int, str, str]]

MARKET = SyntheticMarket(strikes=2, days=1, today=date(2025, 9, 15))
EXPIRIES = (date(2025, 8, 21), date(2025, 8, 28))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Return a function that runs `expirytrack derive WORDS` in this process: exit code, output, errors."""
    monkeypatch.setenv("EXPIRYTRACK_API_URL", "http://127.0.0.1:9")  # nobody listens: asking would fail

    def command(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["expirytrack", "derive", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        told = capsys.readouterr()
        return (ended.value.code if isinstance(ended.value.code, int) else 0), told.out, told.err

    return command


@pytest.fixture
def warehouse(home: Path, tmp_path: Path) -> Warehouse:
    """Give an archive with two cells, from which nothing is made yet."""
    filled = Warehouse(home / "expirytrack.duckdb")
    for expiry in EXPIRIES:
        store_cell(filled, MARKET, "NIFTY", expiry, tmp_path)
    return filled


@pytest.mark.usefixtures("warehouse")
def test_what_is_missing_is_made_once(run: Command) -> None:
    """Both cells, the newest first; then nothing is left to do."""
    code, out, _ = run("--json")
    made = json.loads(out)
    assert code == 0
    assert made == {"cells": [{"underlying": "NIFTY", "expiry": str(day)} for day in reversed(EXPIRIES)], "errors": []}
    assert len(archive.straddle("NIFTY", EXPIRIES[0])) == 375
    assert len(archive.continuous("NIFTY")) == 1
    assert run() == (0, "Everything is derived from the newest candles.\n", "")


def test_only_a_cell_that_changed_is_made_again(run: Command, warehouse: Warehouse, tmp_path: Path) -> None:
    """Other candles, or another rate."""
    assert run()[0] == 0
    with warehouse.reading() as connection:
        found = connection.execute("SELECT max(instrument_key) FROM candles WHERE expiry = '2025-08-21'").fetchone()
    assert found is not None
    minutes = MARKET.minutes(found[0])
    assert minutes is not None
    store_bars(warehouse, "NIFTY", EXPIRIES[0], {found[0]: minutes.take(slice(5, None))}, tmp_path)
    assert json.loads(run("NIFTY", "--json")[1])["cells"] == [{"underlying": "NIFTY", "expiry": "2025-08-21"}]


def test_another_rate_makes_all_again(run: Command, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rate is part of what a chain was made from."""
    assert run()[0] == 0
    monkeypatch.setenv("EXPIRYTRACK_INTEREST_RATE", "0.05")
    assert run()[1] == "2 cells derived.\n"
    with warehouse.reading() as connection:
        assert connection.execute("SELECT DISTINCT rate FROM option_chain").fetchall() == [(0.05,)]


@pytest.mark.usefixtures("warehouse")
def test_a_cell_may_be_named(run: Command) -> None:
    """It is made even when it is up to date; without its symbol an expiry says nothing."""
    assert run("NIFTY", "--expiry", "2025-08-28")[1] == "1 cell derived.\n"
    assert run("NIFTY", "--expiry", "2025-08-28")[1] == "1 cell derived.\n"
    assert run("--expiry", "2025-08-28")[0] == 2


def test_an_empty_archive_has_nothing_to_derive(run: Command) -> None:
    """Before the first collection."""
    assert run() == (0, "Everything is derived from the newest candles.\n", "")


@pytest.mark.usefixtures("warehouse")
@pytest.mark.parametrize(
    "words", [("NIFTY", "--expiry", "2020-01-02"), ("SENSEX",), ("SENSEX", "--expiry", "2025-08-28")]
)
def test_what_the_archive_does_not_hold_is_refused(run: Command, words: tuple[str, ...]) -> None:
    """One sentence that names it; it does not become a partition of the grid."""
    code, out, err = run(*words)
    assert (code, out) == (1, "")
    assert "The archive has no candle of " + words[0] in err.replace("\n", " ")
    with open_instance(load_settings()) as instance:
        assert instance.get_dynamic_partitions(EXPIRY) == []
        assert instance.get_dynamic_partitions(UNDERLYING) == []
