"""`verify`, `quarantine` and the job `data_validation` on what a real collection left, sound and damaged."""

from __future__ import annotations

import io
import json
import shutil
import sys
from datetime import date
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest

from expirytrack_dagster.cli import main
from expirytrack_dagster.definitions import build_defs
from expirytrack_dagster.instance import open_instance
from expirytrack_dagster.partitions import cell_key
from expirytrack_dagster.sandbox.planting import Plant
from expirytrack_dagster.sandbox.running import running
from expirytrack_dagster.sandbox.switches import Switches
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket
from expirytrack_dagster.settings import load_settings
from expirytrack_dagster.warehouse.connection import Warehouse

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from expirytrack_dagster.sandbox.running import Running

    Command = Callable[..., tuple[int, str, str]]

MARKET = SyntheticMarket(strikes=2, days=1, today=date(2025, 9, 1))
NIFTY = "NSE_INDEX|Nifty 50"
EXPIRY = date(2025, 8, 21)
COLLECT = ("collect", "NIFTY", "--expiry", "2025-08-21")
DUPLICATES = "SELECT count(*) - count(DISTINCT (instrument_key, ts)) FROM candles"


class NothingListed(SyntheticMarket):
    """A market that lists an expiry and no contract in it."""

    def option_contracts(self, underlying_key: str, expiry: date) -> list[dict[str, Any]] | None:
        """Return an empty list, as a success."""
        return [] if expiry == EXPIRY else super().option_contracts(underlying_key, expiry)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Return a function that runs `expirytrack WORDS` in this process: exit code, output, errors."""
    monkeypatch.setenv("EXPIRYTRACK_ACCESS_TOKEN", "x")
    monkeypatch.setenv("EXPIRYTRACK_API_URL", "http://127.0.0.1:9")  # nobody listens: asking would fail

    def command(*words: str, upstox: Running | None = None, answer: str = "") -> tuple[int, str, str]:
        if upstox is not None:
            monkeypatch.setenv("EXPIRYTRACK_API_URL", upstox.url)
        monkeypatch.setattr(sys, "argv", ["expirytrack", *words])
        monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        told = capsys.readouterr()
        code = ended.value.code
        return (code if isinstance(code, int) else 0), told.out, told.err

    return command


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Collect a cell in which one contract has seven faults, once, and return its home."""
    rows = MARKET.option_contracts(NIFTY, EXPIRY) or []
    keys = [str(row["instrument_key"]) for row in rows]
    key = next(key for key in keys if len(MARKET.minutes(key) or ()) > 300)
    home = tmp_path_factory.mktemp("collected")
    switches = Switches(planted=(Plant((key,)),))
    with running(MARKET, switches=switches) as upstox, pytest.MonkeyPatch.context() as patch:
        for name, value in {"HOME": str(home), "API_URL": upstox.url, "ACCESS_TOKEN": "x"}.items():
            patch.setenv(f"EXPIRYTRACK_{name}", value)
        patch.setattr(sys, "argv", ["expirytrack", *COLLECT])
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 0
    return home


@pytest.fixture
def planted(collected: Path, home: Path) -> None:
    """Give this test's home a copy of the collected one."""
    shutil.copytree(collected, home)


def number(home: Path, sql: str) -> int:
    """Return the number that answers a query."""
    with Warehouse(home / "expirytrack.duckdb").reading() as connection:
        (value,) = connection.execute(sql).fetchone() or (0,)
    return int(value)


def integrity(result: dg.ExecuteInProcessResult) -> dg.AssetCheckEvaluation:
    """Return what the check `archive_integrity` said."""
    (said,) = (found for found in result.get_asset_check_evaluations() if found.check_name == "archive_integrity")
    return said


def change(home: Path, sql: str) -> None:
    """Change the archive behind the program's back."""
    with Warehouse(home / "expirytrack.duckdb").writing() as connection:
        connection.execute(sql)


@pytest.mark.usefixtures("planted")
def test_a_collection_is_proven_and_reported(run: Command, home: Path) -> None:
    """Nothing is asked, everything is proven, and the report on disk counts what the states count."""
    code, out, _ = run("verify", "NIFTY", "--json")
    result = json.loads(out)
    assert (code, result["proven"]) == (0, True)
    assert {finding["kind"] for finding in result["findings"]} == {"uncollected"}
    report = json.loads((home / "reports" / "NIFTY" / "2025-08-21.json").read_text(encoding="utf-8"))
    for name in ("received", "candles", "quarantined", "duplicates", "discarded"):
        assert report["rows"][name] == number(home, f"SELECT sum({name}) FROM contract_status")  # noqa: S608 -- constants
    assert report["rows"]["quarantined"] > 0
    assert report["contracts"] == sum(report["states"].values()) == number(home, "SELECT count(*) FROM contracts")


@pytest.mark.usefixtures("planted")
def test_rows_are_reviewed_step_by_step(run: Command, home: Path) -> None:
    """Listing and refusing change nothing; releasing and discarding empty the quarantine, and all stays proven."""
    everything = number(home, "SELECT count(*) FROM quarantine")
    code, out, _ = run("quarantine", "list", "NIFTY", "--json")
    assert (code, len(json.loads(out)["rows"])) == (0, everything)
    assert "ohlc" in run("quarantine", "list")[1]
    assert "  2025-08-21 " in run("quarantine", "list", "--rule", "ohlc")[1]
    for answer in ("", "n\n"):
        code, out, _ = run("quarantine", "release", "NIFTY", "--rule", "volume_and_open_interest", answer=answer)
        assert code == 0
        assert "Nothing was changed; --yes does it without asking." in out
    dry = json.loads(run("quarantine", "release", "NIFTY", "--json")[1])
    assert not dry["changed"]
    assert len(dry["rows"]) + len(dry["stay"]) == everything
    assert number(home, "SELECT count(*) FROM quarantine") == everything

    code, out, _ = run("quarantine", "release", "NIFTY", "--yes")
    assert code == 3
    assert f"{len(dry['rows'])} rows released." in out
    assert "cannot be released, because it is not on the minute" in out
    assert number(home, DUPLICATES) == 0
    assert run("verify")[0] == 0
    assert run("quarantine", "discard", "NIFTY", answer="y\n")[0] == 0
    assert number(home, "SELECT count(*) FROM quarantine") == 0
    assert number(home, "SELECT sum(rows) FROM reviews") == everything
    assert (
        number(home, "SELECT sum(received - candles - quarantined - duplicates - discarded) FROM contract_status") == 0
    )
    assert run("verify")[0] == 0
    assert run("quarantine", "discard", "NIFTY")[:2] == (0, "Nothing in quarantine matches.\n")
    noted = [(entry["event"], entry["details"]) for entry in json.loads(run("audit", "list", "--json")[1])]
    assert noted[-2:] == [
        ("release", {"rows": len(dry["rows"]), "underlying": "NIFTY"}),
        ("discard", {"rows": len(dry["stay"]), "underlying": "NIFTY"}),
    ]


@pytest.mark.usefixtures("planted")
def test_a_changed_value_is_found_and_refetching_heals_it(run: Command, home: Path) -> None:
    """Exit code 3 with the cell and the command; that command makes the archive whole again."""
    change(home, "UPDATE candles SET close = close + 0.05 WHERE ts = (SELECT min(ts) FROM candles)")
    code, out, _ = run("verify", "NIFTY")
    assert code == 3
    words = " ".join(out.split())
    assert "contradiction" in words
    assert "1 cell not as it was sealed" in words
    with running(MARKET) as upstox:
        assert run(*COLLECT, "--refetch", upstox=upstox)[0] == 0
    assert run("verify", "NIFTY")[0] == 0


@pytest.mark.usefixtures("planted")
def test_the_job_data_validation_proves_a_cell_without_a_request(home: Path) -> None:
    """Its check passes on a sound cell, fails with the findings on a damaged one; the collection left a report."""
    job = build_defs().resolve_job_def("data_validation")
    key = cell_key("NIFTY", "2025-08-21")
    with open_instance(load_settings()) as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey("candles"))
        assert event is not None
        assert event.asset_materialization is not None
        markdown = event.asset_materialization.metadata["validation_report"].value
        sound = integrity(job.execute_in_process(instance=instance, partition_key=key))
        change(home, "DELETE FROM candles WHERE ts = (SELECT max(ts) FROM candles)")
        damaged = integrity(job.execute_in_process(instance=instance, partition_key=key))
    assert str(markdown).startswith("### NIFTY 2025-08-21\n")
    assert sound.passed
    assert sound.partition == key
    assert not damaged.passed
    findings = damaged.metadata["findings"]
    assert isinstance(findings, dg.TableMetadataValue)
    assert {record.data["severity"] for record in findings.records} == {"contradiction"}


def test_an_empty_contract_list_is_asked_once(run: Command, home: Path) -> None:
    """The cell is complete: no further request, whether collected again or materialized again, until refetched."""
    with running(NothingListed(strikes=2, days=1, today=date(2025, 9, 1))) as upstox:
        assert run(*COLLECT, upstox=upstox)[0] == 0
        assert number(home, "SELECT count(*) FROM cell_seals") == 1
        asked = len(upstox.requests())
        assert run(*COLLECT, upstox=upstox)[0] == 0
        with open_instance(load_settings()) as instance:
            fetch = build_defs().resolve_job_def("historical_data_fetch")
            assert fetch.execute_in_process(instance=instance, partition_key=cell_key("NIFTY", "2025-08-21")).success
        assert len(upstox.requests()) == asked
        assert "2025-08-21" in run("status")[1]
        assert run("verify")[0] == 0
        assert run(*COLLECT, "--refetch", upstox=upstox)[0] == 0
        assert len(upstox.requests()) > asked


@pytest.mark.usefixtures("planted")
@pytest.mark.parametrize("damage", ["truncated", "overwritten"])
def test_a_damaged_file_is_named_and_left_alone(run: Command, home: Path, damage: str) -> None:
    """`verify` and `collect` end with one sentence and code 1, and no byte is changed."""
    file = home / "expirytrack.duckdb"
    with file.open("r+b") as opened:
        if damage == "truncated":
            opened.truncate(file.stat().st_size // 2)
        else:
            opened.seek(0)
            opened.write(bytes(3 * 4096))  # the headers
    before = file.read_bytes()
    for words in (("verify",), COLLECT, ("quarantine", "discard", "NIFTY", "--yes")):
        code, out, err = run(*words)
        assert (code, out) == (1, "")
        assert "is damaged and was left as it is" in err
        assert err.count("\n") == 1
        assert file.read_bytes() == before


@pytest.mark.usefixtures("planted")
def test_a_damaged_block_stops_the_collection_that_meets_it(run: Command, home: Path) -> None:
    """The file opens, but the candles cannot be read: one sentence, code 1, and nothing is written."""
    file = home / "expirytrack.duckdb"
    change(home, "UPDATE contract_status SET status = 'failed' WHERE status = 'empty_proven'")
    change(home, "DELETE FROM cell_seals")
    block = number(home, "SELECT max(block_id) FROM pragma_storage_info('candles') WHERE block_id >= 0")
    with file.open("r+b") as opened:
        opened.seek(3 * 4096 + block * 262_144 + 12)
        opened.write(b"\x55" * 16)
    before = file.read_bytes()
    with running(MARKET) as upstox:
        code, _, err = run(*COLLECT, upstox=upstox)
    assert code == 1
    assert err.count("is damaged and was left as it is") == 1
    assert file.read_bytes() == before
    assert run("verify")[0] == 1
