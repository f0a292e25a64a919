"""`plan` and `job`: what is said before anything is asked is what it costs afterwards."""

from __future__ import annotations

import json
import sys
from datetime import date
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from expirytrack_dagster.cli import main
from expirytrack_dagster.instance import open_instance
from expirytrack_dagster.sandbox.running import running
from expirytrack_dagster.sandbox.switches import Switches
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket
from expirytrack_dagster.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    Command = Callable[..., tuple[int, str, str]]

TODAY = date(2024, 10, 12)
DATES = ("2024-10-10", "2024-10-03")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Return a function that runs `expirytrack WORDS` in this process: exit code, output, errors."""
    monkeypatch.setenv("EXPIRYTRACK_ACCESS_TOKEN", "x")
    monkeypatch.setenv("EXPIRYTRACK_API_URL", "http://127.0.0.1:9")  # nobody listens: asking would fail
    monkeypatch.setenv("EXPIRYTRACK_RATE_LIMITS", "1000/1,100000/1800")

    def command(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["expirytrack", *words])
        capsys.readouterr()
        code: str | int | None = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        captured = capsys.readouterr()
        return int(code or 0), captured.out, captured.err

    return command


def _planned(run: Command, *words: str) -> dict[str, int]:
    code, out, _ = run("plan", *words, "--json")
    assert code == 0
    found: dict[str, int] = json.loads(out)
    return found


def _spent(expiry: str) -> dict[str, float]:
    """Return the numbers that the last run of a cell left in the UI."""
    with open_instance(load_settings()) as instance:
        records = instance.fetch_materializations(
            dg.AssetRecordsFilter(dg.AssetKey("candles"), asset_partitions=[f"{expiry}|NIFTY"]), limit=1
        ).records
    materialization = records[0].asset_materialization
    assert materialization is not None
    return {
        name: value.value
        for name, value in materialization.metadata.items()
        if isinstance(value, (dg.IntMetadataValue, dg.FloatMetadataValue)) and value.value is not None
    }


@pytest.mark.parametrize("switches", [Switches(), Switches(range_cap=20)], ids=["wide windows", "narrow windows"])
def test_planned_and_actual(run: Command, monkeypatch: pytest.MonkeyPatch, switches: Switches) -> None:
    """The plan of a cell is within 5 % of what it costs, before its list is known and after; both are in the UI."""
    market = SyntheticMarket(strikes=25 if switches == Switches() else 12, days=2, today=TODAY)
    with running(market, limits=(), switches=switches) as upstox:
        monkeypatch.setenv("EXPIRYTRACK_API_URL", upstox.url)
        assert run("collect", "NIFTY", "--expiry", DATES[1])[0] == 0
        first = _spent(DATES[1])
        if switches == Switches():
            assert first["planned_requests"] == pytest.approx(first["requests"], rel=0.05)
        before = _planned(run, "NIFTY")
        assert before["cells"] == 1
        assert run("job", "contract_fetch", "NIFTY", "--expiry", DATES[0])[0] == 0
        listed = _planned(run)
        asked = len(upstox.requests())
        assert run("collect", "NIFTY", "--expiry", DATES[0])[0] == 0
        cost = len(upstox.requests()) - asked
        second = _spent(DATES[0])
    assert second["requests"] == cost
    assert before["requests"] == pytest.approx(cost + 2, rel=0.05)
    assert listed["requests"] == pytest.approx(cost, rel=0.05)
    assert second["planned_requests"] == pytest.approx(cost, rel=0.05)
    assert second["requests_per_1000_rows"] == pytest.approx(1000 * cost / second["dagster/partition_row_count"], abs=1)
    assert _planned(run)["cells"] == 0


def test_a_plan_for_a_person(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells in the order of the work, when they are complete, what fits before the token dies; nothing is asked."""
    with running(SyntheticMarket(strikes=2, days=1, today=TODAY), limits=()) as upstox:
        monkeypatch.setenv("EXPIRYTRACK_API_URL", upstox.url)
        assert run("track", "NIFTY")[0] == 0
        _, unknown, _ = run("plan")
        assert unknown.startswith("NIFTY is not planned")  # nothing is said to be complete
        assert "`expirytrack job expiry_fetch NIFTY`" in unknown
        assert run("job", "expiry_fetch", "NIFTY")[0] == 0
        before = len(upstox.requests())
        code, out, _ = run("plan", "NIFTY")
        assert len(upstox.requests()) == before
    assert code == 0
    assert out.index(f"NIFTY {DATES[0]}") < out.index(f"NIFTY {DATES[1]}")
    assert "?215" in out
    assert "2 cells need about 430 requests" in " ".join(out.split())
    assert run("plan", "SENSEX")[0] == 1


def test_a_collection_that_cannot_end_tonight_says_so(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it starts, and it starts all the same."""
    with running(SyntheticMarket(strikes=1, days=1, today=date(2024, 10, 5)), limits=()) as upstox:
        monkeypatch.setenv("EXPIRYTRACK_API_URL", upstox.url)
        assert run("job", "expiry_fetch", "NIFTY")[0] == 1
        monkeypatch.setenv("EXPIRYTRACK_RATE_LIMITS", "1000/1,60/86400")
        code, _, err = run("collect", "NIFTY")
    assert code == 0
    assert "can leave before the token dies at 03:30 IST" in " ".join(err.split())


def test_jobs_by_name(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each job of the guide runs from the command line, and the last proves a cell without a request."""
    with running(SyntheticMarket(strikes=1, days=1, today=date(2024, 10, 5)), limits=()) as upstox:
        monkeypatch.setenv("EXPIRYTRACK_API_URL", upstox.url)
        run("track", "NIFTY")
        for words in (("expiry_fetch",), ("contract_fetch", "--expiry", DATES[1])):
            assert run("job", words[0], "NIFTY", *words[1:])[0] == 0
        assert run("job", "historical_data_fetch", "NIFTY", "--expiry", DATES[1])[0] == 0
        before = len(upstox.requests())
        code, out, _ = run("job", "data_validation", "NIFTY", "--expiry", DATES[1], "--json")
        assert len(upstox.requests()) == before
    report = json.loads(out)
    assert code == 0
    assert report["complete"]
    assert "archive_integrity" in {check["name"] for check in report["checks"]}
    assert run("job", "data_validation", "NIFTY")[0] == 2
    assert run("job", "expiry_fetch", "NIFTY", "--expiry", DATES[1])[0] == 2
    assert run("job", "data_validation", "NIFTY", "--expiry", "2030-01-01")[0] == 1
