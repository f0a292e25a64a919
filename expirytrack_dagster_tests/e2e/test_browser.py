"""The UI as a person meets it: Chromium clicks through discovery, a cell, a backfill, lineage, checks and a resumption.

The tests of this file follow one another like an afternoon at the screen, on one home. With UI_IMAGES set to
a folder, pictures of the pages are kept there: `make images` renews those of the documentation.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from expirytrack_dagster.sandbox.planting import ROW_KINDS, Plant
from expirytrack_dagster.sandbox.running import Running, running
from expirytrack_dagster.sandbox.switches import Switches
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket
from expirytrack_dagster.servers import LOCATION
from expirytrack_dagster.warehouse.connection import Warehouse
from expirytrack_dagster_tests.e2e.served import BACKFILLS, OVER, Ui, serving, track

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")

MARKET = SyntheticMarket(strikes=8, days=2, today=date(2025, 9, 1))
CELL = ("2025-08-21", "NIFTY")
MISSING = ("2025-08-12", "2025-08-14", "2025-08-19", CELL[0])
RESUMED = ("2025-08-07", "NIFTY")
JOB = f"/locations/{LOCATION}/jobs/historical_data_fetch"
PATIENCE = 60_000
FLAGS = [
    "--no-sandbox",  # tests run as root in containers
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def upstox() -> Iterator[Running]:
    """Serve a market of which two contracts of one cell have bad rows; it lists half a year of expiries."""
    rows = MARKET.option_contracts("NSE_INDEX|Nifty 50", date.fromisoformat(CELL[0])) or []
    traded = [key for row in rows if len(MARKET.minutes(key := str(row["instrument_key"])) or ()) > 300]
    middle = len(traded) // 2
    spoilt = Plant(tuple(traded[middle : middle + 2]))
    with running(MARKET, switches=Switches(planted=(spoilt,), depth="six_months")) as served:
        yield served


@pytest.fixture(scope="module")
def ui(upstox: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    """Serve a home in which two underlyings are tracked and nothing else is known."""
    home = tmp_path_factory.mktemp("home")
    track(home, upstox.url, "NIFTY", "SENSEX")
    with serving(home, upstox.url) as served:
        yield served


@pytest.fixture(scope="module")
def page(ui: Ui) -> Iterator[Page]:
    """Return a browser's page, in which relative addresses are those of the UI."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        context = browser.new_context(
            base_url=ui.url, viewport={"width": 1680, "height": 900}, timezone_id="Asia/Kolkata", locale="en-GB"
        )
        context.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        yield context.new_page()
        browser.close()


@pytest.fixture(scope="module")
def picture(page: Page) -> Callable[[str], None]:
    """Return a function that keeps a picture of the page under a name, where pictures are wanted."""
    folder = os.environ.get("UI_IMAGES")  # read before each test's environment is cleaned

    def keep(name: str) -> None:
        if folder:
            page.wait_for_timeout(1000)  # transitions end
            page.screenshot(path=Path(folder) / f"{name}.png", animations="disabled", caret="hide")

    return keep


def choose(page: Page, *keys: str) -> None:
    """Tick partitions in the next empty field of the dialog."""
    page.get_by_role("dialog").get_by_text("Select a partition or create one").first.click()
    field = page.get_by_placeholder("Filter partitions")
    for key in keys:
        field.fill(key)
        page.get_by_role("menuitem", name=key).click()
    page.get_by_text("Launch runs to materialize").click()  # closes the menu
    expect(field).to_be_hidden()  # it fades, and the next one has a field of the same name


def launch(page: Page, button: str) -> None:
    """Press the button of the dialog that starts it, and wait until the dialog has gone."""
    dialog = page.get_by_role("dialog").filter(has_text="Partition selection")
    dialog.get_by_role("button", name=button).click()
    expect(dialog).to_be_hidden()


def newest_backfill(ui: Ui) -> str:
    """Return the id of the backfill that was launched last."""
    backfills = ui.ask(BACKFILLS)["partitionBackfillsOrError"]["results"]
    return str(max(backfills, key=lambda backfill: backfill["timestamp"])["id"])


def launched_run(ui: Ui, cell: tuple[str, str]) -> str:
    """Return the id of the newest run of a cell."""
    return next(str(run["runId"]) for run in ui.runs() if run["tags"].get("dagster/partition") == "|".join(cell))


def free(ui: Ui) -> bool:
    """Say whether nothing holds or waits for a slot of any pool."""
    return not any(pool["claimedSlots"] or pool["pendingSteps"] for pool in ui.pools())


def answered(home: Path) -> set[str]:
    """Return contract and interval of every answer with candles that has arrived, from the ledger."""
    with closing(sqlite3.connect(home / "state.sqlite")) as state:
        rows = state.execute(
            "SELECT target, params ->> 'interval' FROM requests WHERE endpoint = 'candles' AND outcome = 'ok'"
        ).fetchall()
    return {f"{contract}/{interval}" for contract, interval in rows}


def asked(upstox: Running, since: int) -> list[str]:
    """Return contract and interval of every request for candles that the sandbox saw after so many requests."""
    paths = [unquote(entry.path) for entry in upstox.requests()[since:] if entry.endpoint == "candles"]
    return ["/".join(path.split("/historical-candle/")[1].split("/")[:2]) for path in paths]


def test_discovery_of_all_that_is_missing(ui: Ui, page: Page) -> None:
    """The button "Missing" of `expiries` asks for both underlyings; their dates become partitions."""
    page.goto("/assets/expiries?view=partitions")
    page.get_by_role("button", name="Materialize…").click()
    page.get_by_role("button", name="Missing", exact=True).click()
    launch(page, "Launch")
    assert [run["status"] for run in ui.ended(newest_backfill(ui))["runs"]] == ["SUCCESS", "SUCCESS"]
    page.reload()
    expect(page.get_by_text("Materialized (2)")).to_be_visible()


def test_one_cell_from_the_dialog(ui: Ui, page: Page, picture: Callable[[str], None]) -> None:
    """A date and an underlying chosen in the dialog become one run, and the grid shows the cell with its numbers."""
    page.goto(JOB)
    page.get_by_role("button", name="Materialize all…").click()
    choose(page, CELL[0])
    choose(page, CELL[1])
    expect(page.get_by_text("1 partition", exact=True)).to_be_visible()
    picture("materialize")
    launch(page, "Launch 1 run")
    run_id = launched_run(ui, CELL)
    ui.wait(lambda: ui.status(run_id) in OVER)
    page.goto("/runs")
    row = page.locator("tr, div", has_text=run_id[:8]).filter(has_text="historical_data_fetch").last
    expect(row).to_contain_text("Success")
    page.goto(f"/assets/candles?view=partitions&partition={'%7C'.join(CELL)}")
    expect(page.get_by_role("cell", name="completeness_percent")).to_be_visible()
    picture("partitions")


def test_failing_rows_of_a_check(ui: Ui, page: Page, picture: Callable[[str], None]) -> None:
    """The tab "Checks" leads to the rule that was broken, its sentence, and the rows that broke it."""
    page.goto("/assets/candles")
    page.get_by_role("tab", name="Checks").click()
    page.get_by_text("ohlc", exact=True).first.click()
    with Warehouse(ui.home / "expirytrack.duckdb").reading() as connection:
        (bad,) = connection.execute("SELECT count(*) FROM quarantine WHERE rule = 'ohlc'").fetchone() or (0,)
    assert 0 < bad < 2 * len(ROW_KINDS)
    expect(page.get_by_text(re.compile(rf"^{bad} of [\d,]+ rows broke this rule"))).to_be_visible()
    table = page.get_by_role("table").filter(has=page.get_by_role("columnheader", name="detail")).last
    expect(table.get_by_role("row")).to_have_count(bad + 1)
    expect(table).to_contain_text("is below low")
    picture("check-result")


def test_lineage_reads_from_left_to_right(page: Page, picture: Callable[[str], None]) -> None:
    """Expiries stand left of contracts, contracts left of candles, each with its checks and how much is filled."""
    page.goto("/assets/contracts")
    page.get_by_role("tab", name="Lineage").click()
    boxes = []
    for name in ("expiries", "contracts", "candles"):
        node = (
            page.locator("foreignObject").filter(has_text=re.compile(rf"^{name}")).filter(has_text="Partitions").first
        )
        expect(node).to_contain_text("filled")
        expect(node).to_contain_text("Passed")
        boxes.append(node.evaluate("node => node.getBoundingClientRect().x"))
    assert boxes == sorted(set(boxes))
    picture("lineage")


def test_a_backfill_of_what_is_missing(ui: Ui, page: Page, picture: Callable[[str], None]) -> None:
    """Dates and all underlyings, missing only: a run for each missing cell, none for what is there or not listed."""
    page.goto(JOB)
    page.get_by_role("button", name="Materialize all…").click()
    choose(page, *MISSING)
    page.get_by_role("dialog").get_by_role("button", name="All", exact=True).last.click()
    page.get_by_text("Backfill only failed and missing").click()
    launch(page, "Launch backfill")
    backfill = newest_backfill(ui)
    ended = ui.ended(backfill)
    page.goto(f"/runs/b/{backfill}")
    expect(page.get_by_text("100% completed")).to_be_visible()
    expect(page.get_by_text("Succeeded", exact=True).first).to_be_visible()
    picture("backfill")
    assert ended["status"] == "COMPLETED_SUCCESS"
    cells = {
        run["tags"]["dagster/partition"]: run for run in ui.runs() if run["tags"].get("dagster/backfill") == backfill
    }
    assert {run["runId"] for run in cells.values()} == {run["id"] for run in ended["runs"]}
    assert {run["status"] for run in cells.values()} == {"SUCCESS"}
    assert set(cells) == {"2025-08-12|SENSEX", "2025-08-14|NIFTY", "2025-08-19|SENSEX"}
    assert free(ui)


def test_a_terminated_run_goes_on_where_it_stopped(
    ui: Ui, upstox: Running, page: Page, picture: Callable[[str], None]
) -> None:
    """Terminated in the middle: every slot is free; re-executed from failure, it asks for nothing that had arrived."""
    before = answered(ui.home)
    upstox.switch(delay_after=(0.8, 1.0))
    page.goto(JOB)
    page.get_by_role("button", name="Materialize all…").click()
    choose(page, RESUMED[0])
    choose(page, RESUMED[1])
    launch(page, "Launch 1 run")
    run_id = launched_run(ui, RESUMED)
    page.goto(f"/runs/{run_id}")
    ui.wait(lambda: len(answered(ui.home) - before) > 10)
    page.get_by_role("button", name="Terminate").click()
    page.get_by_role("dialog").get_by_role("button", name=re.compile("terminate", re.IGNORECASE)).click()
    ui.wait(lambda: ui.status(run_id) in OVER)
    assert ui.status(run_id) == "CANCELED"
    assert free(ui)
    arrived = answered(ui.home) - before
    assert arrived
    upstox.switch(delay_after=(0.0, 0.0))
    so_far = len(upstox.requests())
    page.goto(f"/runs/{run_id}")
    expect(page.get_by_text("Canceled").first).to_be_visible()
    page.get_by_role("button", name=re.compile("^Re-execute")).click()
    ui.wait(lambda: launched_run(ui, RESUMED) != run_id)
    resumed = launched_run(ui, RESUMED)
    ui.wait(lambda: ui.status(resumed) in OVER)
    assert ui.status(resumed) == "SUCCESS"
    page.goto("/runs")
    expect(page.get_by_text("Canceled").first).to_be_visible()
    picture("resumed")
    again = asked(upstox, so_far)
    assert again
    assert arrived.isdisjoint(again), sorted(arrived & set(again))
