"""The running UI, driven as a browser drives it: over the webserver's GraphQL, with the daemon beside it.

A cell is materialized from the UI, then seen there: its run, its lineage, and each check's result for that cell.
"""

from __future__ import annotations

import json
from datetime import date
from typing import TYPE_CHECKING

import pytest

from expirytrack_dagster.observe.logs import FILE
from expirytrack_dagster.sandbox.planting import Plant
from expirytrack_dagster.sandbox.running import running
from expirytrack_dagster.sandbox.switches import Switches
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket
from expirytrack_dagster.state import StateDatabase
from expirytrack_dagster.warehouse.connection import Warehouse
from expirytrack_dagster_tests.e2e.served import RUN, Ui, serving, track
from expirytrack_dagster_tests.statements import sql

if TYPE_CHECKING:
    from collections.abc import Iterator

MARKET = SyntheticMarket(strikes=2, days=2, today=date(2025, 9, 1))
CELL, OTHER_CELL = "2025-08-21|NIFTY", "2025-08-14|NIFTY"
CHECKS = ["ohlc", "volume_and_open_interest", "duplicates", "timestamp_continuity", "completeness"]

CHECK = """
query ($check: String!, $partition: String!) {
  assetCheckExecutions(assetKey: {path: ["candles"]}, checkName: $check, limit: 1, partition: $partition) {
    runId status partition
    evaluation {
      success severity description
      metadataEntries { label __typename ... on TableMetadataEntry { table { records schema { columns { name } } } } }
    }
  }
}"""
EVENTS = """
query ($id: ID!) { runOrError(runId: $id) { ... on Run {
  jobName status
  assetMaterializations { assetKey { path } metadataEntries { label ... on IntMetadataEntry { intValue } } }
} } }"""
LINEAGE = """
{ assetNodes { assetKey { path } dependencyKeys { path } groupName kinds owners { ... on TeamAssetOwner { team } }
  partitionStats { numMaterialized numPartitions numFailed } } }"""


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    """Serve the UI of a fresh home over a sandbox with one spoilt contract; NIFTY is tracked and discovered."""
    home = tmp_path_factory.mktemp("home")
    options = [
        str(row["instrument_key"]) for row in MARKET.option_contracts("NSE_INDEX|Nifty 50", date(2025, 8, 21)) or []
    ]
    spoilt = next(key for key in options if len(MARKET.minutes(key) or ()) > 300)
    with running(MARKET, switches=Switches(planted=(Plant((spoilt,)),))) as upstox:
        track(home, upstox.url, "NIFTY")
        with serving(home, upstox.url) as served:
            served.launch("expiry_fetch", ["expiries"], "NIFTY")
            yield served


@pytest.fixture(scope="module")
def run_id(ui: Ui) -> str:
    """Materialize one cell from the launchpad."""
    return ui.launch("historical_data_fetch", ["contracts", "candles"], CELL)


def test_the_run_is_seen(ui: Ui, run_id: str) -> None:
    """The run succeeded and names both assets."""
    run = ui.ask(RUN, id=run_id)["runOrError"]
    assert run["status"] == "SUCCESS"
    assert {asset["key"]["path"][0] for asset in run["assets"]} == {"contracts", "candles"}


def test_the_lineage_is_seen(ui: Ui, run_id: str) -> None:
    """Candles come from contracts, contracts from expiries; this cell is materialized, unlisted ones are settled."""
    assert run_id
    nodes = {node["assetKey"]["path"][0]: node for node in ui.ask(LINEAGE)["assetNodes"]}
    upstream = {name: [key["path"][0] for key in node["dependencyKeys"]] for name, node in nodes.items()}
    archive = {"expiries": [], "contracts": ["expiries"], "candles": ["contracts"]}
    assert {name: upstream[name] for name in archive} == archive
    assert nodes["candles"]["partitionStats"]["numMaterialized"] >= 1
    assert nodes["candles"]["partitionStats"]["numFailed"] == 0
    for node in nodes.values():
        assert node["kinds"]
        assert node["owners"]
        assert node["groupName"]


def test_each_check_is_seen_for_the_cell(ui: Ui, run_id: str) -> None:
    """Every check has a result of this cell from this run; a failed one shows its failing rows as a table."""
    results = {}
    for check in CHECKS:
        (execution,) = ui.ask(CHECK, check=check, partition=CELL)["assetCheckExecutions"]
        assert execution["runId"] == run_id
        assert execution["partition"] == CELL
        results[check] = execution["evaluation"]
    passed = {check: result["success"] for check, result in results.items()}
    assert passed == {check: check == "completeness" for check in CHECKS}
    tables = [entry["table"] for entry in results["ohlc"]["metadataEntries"] if entry["label"] == "failing_rows"]
    assert len(tables) == 1
    assert len(tables[0]["records"]) == 4
    assert {"instrument_key", "detail"} <= {column["name"] for column in tables[0]["schema"]["columns"]}
    assert results["ohlc"]["severity"] == "WARN"


def test_a_backfill_of_a_cell_ends(ui: Ui) -> None:
    """A backfill launched from the UI is carried out by the daemon, both assets of the cell in one run."""
    ended = ui.ended(ui.backfill([OTHER_CELL]))
    assert ended["status"] == "COMPLETED_SUCCESS"
    assert [run["status"] for run in ended["runs"]] == ["SUCCESS"]
    with Warehouse(ui.home / "expirytrack.duckdb").reading() as connection:
        rows = connection.execute("SELECT count(*) FROM candles WHERE expiry = '2025-08-14'").fetchall()
    assert rows[0][0] > 0


def test_a_cell_materialized_again_asks_nothing(ui: Ui, run_id: str) -> None:
    """The same cell, materialized once more from the UI, succeeds and costs no request."""
    again = ui.launch("historical_data_fetch", ["contracts", "candles"], CELL)
    assert again != run_id
    (execution,) = ui.ask(CHECK, check="completeness", partition=CELL)["assetCheckExecutions"]
    assert execution["runId"] == again
    events = ui.ask(EVENTS, id=again)["runOrError"]["assetMaterializations"]
    spent = [
        entry["intValue"] for event in events for entry in event["metadataEntries"] if entry["label"] == "requests"
    ]
    assert spent == [0, 0]


@pytest.mark.parametrize(
    ("job", "partition", "materialized"),
    [
        ("expiry_fetch", "NIFTY", ["expiries"]),
        ("contract_fetch", CELL, ["contracts"]),
        ("historical_data_fetch", CELL, ["contracts", "candles"]),
        ("data_validation", CELL, []),
        ("derivation", CELL, ["daily_bars", "option_chain", "implied_volatility", "chain_metrics"]),
        ("futures_rolling", "NIFTY", ["continuous_futures"]),
        ("parquet_export", CELL, ["parquet_archive"]),
    ],
)
def test_each_job_is_launched_by_its_name(
    ui: Ui, run_id: str, job: str, partition: str, materialized: list[str]
) -> None:
    """As from the page of the job, with nothing but the partition chosen; of a stored cell only lists are asked."""
    assert run_id
    own = ui.launch(job, [], partition)
    run = ui.ask(EVENTS, id=own)["runOrError"]
    assert (run["jobName"], run["status"]) == (job, "SUCCESS")
    assert {event["assetKey"]["path"][0] for event in run["assetMaterializations"]} == set(materialized)
    asked = [
        entry["intValue"]
        for event in run["assetMaterializations"]
        for entry in event["metadataEntries"]
        if entry["label"] == "requests"
    ]
    assert sum(asked) == (job == "expiry_fetch")


def test_runs_and_the_daemon_leave_figures_and_lines(ui: Ui, run_id: str) -> None:
    """What a process of its own counted and logged is in the home's table and file, as the ledger has it."""
    with StateDatabase(ui.home / "state.sqlite") as state:
        counted = state.query(
            sql("SELECT sum(added) FROM metrics WHERE run_id = ? AND name = 'expirytrack_api_calls_total'", run_id)
        )
        assert counted == state.query(sql("SELECT count(*) FROM requests WHERE run_id = ?", run_id))
        assert state.query(sql("SELECT count(*) > 0 FROM metrics WHERE run_id IS NULL AND pid IS NOT NULL")) == [(1,)]
    lines = [json.loads(line) for line in (ui.home / "logs" / FILE).read_text(encoding="utf-8").splitlines()]
    own = [line for line in lines if line.get("run") == run_id]
    assert {"httpx", "dagster", "expirytrack_dagster.observe.recorder"} <= {line["logger"] for line in own}
    assert {line["cell"] for line in own if line["logger"] == "httpx"} == {"NIFTY 2025-08-21"}
    assert any(line["program"] == "daemon" for line in lines)
