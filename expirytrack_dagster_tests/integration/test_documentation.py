"""The documentation: every example runs, the site builds with strict links, and nothing that it lists is left out.

One archive of the sandbox's market serves all: each page gets a copy of it as the folder `data` in which its blocks run
from top to bottom, as a reader would. Commands run in this process, since starting one takes seconds.
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pytest
from playwright.sync_api import expect, sync_playwright

from expirytrack_dagster import archive
from expirytrack_dagster.cli import main
from expirytrack_dagster.jobs import all_jobs
from expirytrack_dagster.sandbox.running import Running, running
from expirytrack_dagster.sandbox.switches import Switches
from expirytrack_dagster.schedules import build_schedules
from expirytrack_dagster.sensors import build_sensors
from expirytrack_dagster.warehouse.connection import Warehouse
from expirytrack_dagster_tests.docsite import reference, resources, scale
from expirytrack_dagster_tests.docsite.advice import ADVICE
from expirytrack_dagster_tests.docsite.blocks import RUN, SHOWN, Block, blocks
from expirytrack_dagster_tests.docsite.build import CONFIG, DOCS, ELSEWHERE, NOTEBOOK, ROOT, build
from expirytrack_dagster_tests.docsite.example import MARKET, store_example
from expirytrack_dagster_tests.docsite.notebook import executed, read

if TYPE_CHECKING:
    from collections.abc import Iterator

    import dagster as dg

PAGES = sorted(path for path in DOCS.rglob("*.md") if path.parent.name != "decisions")
README = ROOT / "README.md"
WITH_CODE = [*(page for page in PAGES if any(block.runs for block in blocks(page))), README]
NOT_RUN = 19
"""Blocks that say why they do not run: those of a real account, a secret, another machine, a network, root."""
NOT_RUN_IN_README = {
    "login": "needs a real account",
    "status --watch": "needs a terminal",
    "restore FILE": "the file's name is the reader's",
    "expirytrack encrypt": "what follows reads a plain archive",
}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
GUIDE = ROOT.parent / "shared" / "ExpiryTrack-technical-guide.md"
HEADINGS = """
Overview; Core Data Pipeline Implementation; 1. Instrument Discovery Pipeline; 2. Contract Collection Pipeline;
3. Historical Data Pipeline; Implementation Modules; Module 1: Authentication Manager; Module 2: API Client;
Module 3: Data Processor; Module 4: Database Manager; Module 5: Job Scheduler; Data Collection Strategy;
Optimal Collection Sequence; Rate Limiting Strategy; Parallel Processing Design; Database Optimization;
SQLite Configuration; DuckDB Configuration; Indexing Strategy; Error Handling & Recovery; Error Classification;
Recovery Strategies; Performance Metrics; Key Performance Indicators; Monitoring Implementation;
Implementation Best Practices; Dynamic Data Handling; HTTP Client Setup (httpx); Testing Strategy; Unit Tests;
Integration Tests; Performance Tests; Data Quality Tests; Deployment Considerations; Environment Configuration;
Resource Requirements; Security Implementation; Secure Token Storage; API Security; Database Security; Conclusion
"""


def title(page: Path) -> str:
    """Return what names a page in the report of a test."""
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the home of the examples; whoever changes it takes a copy."""
    home = tmp_path_factory.mktemp("example") / "data"
    store_example(home)
    return home


@pytest.fixture(scope="module")
def upstox() -> Iterator[Running]:
    """Serve the market of the examples."""
    with running(MARKET, switches=Switches(depth="six_months")) as served:
        yield served


class Reader:
    """Somebody who types what a page says, in a folder of their own with the archive in `data`."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        """Keep what sets the environment."""
        self._patch = patch
        self._names: dict[str, Any] = {"archive": archive}

    def follow(self, block: Block) -> None:
        """Do what a block says."""
        if block.language == "sh":
            for line in block.text.splitlines():
                self.type(line)
        elif block.language == "sql":
            self._ask(block.text)
        else:
            exec(compile(block.text, "documentation", "exec"), self._names)  # noqa: S102 -- our own pages

    def type(self, line: str) -> None:
        """Run a command, set a variable, or look a target of make up."""
        words = shlex.split(line, comments=True)
        if not words:
            return
        if words[0] == "export":
            for setting in words[1:]:
                self._patch.setenv(*setting.split("=", 1))
        elif words[0] == "make":
            targets = re.findall(r"^([a-z0-9]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
            assert words[1] in targets
        else:
            assert words[0] in {"expirytrack", ".venv/bin/expirytrack"}, f"no test can run: {line}"
            self._patch.setattr(sys, "argv", ["expirytrack", *words[1:]])
            with pytest.raises(SystemExit) as ended:
                main()
            assert not ended.value.code, line

    @staticmethod
    def _ask(question: str) -> None:
        if "read_parquet(" in question:
            with duckdb.connect() as memory:
                assert memory.execute(question).fetchone()
            return
        with Warehouse(Path("data") / "expirytrack.duckdb").reading() as connection:
            stored = connection.execute(question).to_arrow_table().num_rows
        assert len(archive.sql(question.rstrip().removesuffix(";"))) == stored > 0


@pytest.fixture
def reader(example: Path, upstox: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    """Return a reader of a page, with the archive where the settings look for it by default."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EXPIRYTRACK_HOME")
    monkeypatch.setenv("EXPIRYTRACK_API_URL", upstox.url)
    monkeypatch.setenv("EXPIRYTRACK_ACCESS_TOKEN", "sandbox")
    shutil.copytree(example, "data")
    shutil.copytree(example, Path("data") / "demo")
    return Reader(monkeypatch)


@pytest.mark.parametrize("page", WITH_CODE, ids=title)
def test_the_examples_of_a_page_run(page: Path, reader: Reader, capsys: pytest.CaptureFixture[str]) -> None:
    """From top to bottom, as they stand."""
    for block in blocks(page, indented=page == README):
        if not block.runs:
            continue
        if page == README and block.language == "sh":
            kept = [line for line in block.text.splitlines() if not any(name in line for name in NOT_RUN_IN_README)]
            block = Block(block.line, "sh", "\n".join(kept))  # noqa: PLW2901 -- the block as the reader can run it
        try:
            reader.follow(block)
        except (Exception, SystemExit) as error:  # noqa: BLE001 -- whatever it is, the page and line are told
            said = capsys.readouterr()
            pytest.fail(f"{title(page)}:{block.line}: {type(error).__name__}: {error}\n{said.out}{said.err}")


def test_what_does_not_run_says_why() -> None:
    """Blocks without a language are refused, and those that are excused are few and counted."""
    everything = [block for page in [*PAGES, *(ROOT / source for source in ELSEWHERE)] for block in blocks(page)]
    assert {block.language for block in everything} <= {*RUN, *SHOWN}
    assert sum(block.language in RUN and block.reason is not None for block in everything) == NOT_RUN


def test_every_macro_is_shown() -> None:
    """A macro that the page does not show is as good as not there."""
    shown = " ".join(block.text for block in blocks(DOCS / "queries.md"))
    macros = set(re.findall(r"\| `(\w+)\(", reference.macros_page()))
    assert {name for name in macros if re.search(rf"\b{name}\(", shown)} == macros - {"bars_of"}  # shown by its views
    assert len(macros) > 7


@pytest.fixture(scope="module")
def notebook(example: Path) -> Any:
    """Return the notebook with its outputs."""
    return executed(NOTEBOOK, example)


@pytest.fixture(scope="module")
def site(notebook: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site with strict links."""
    return build(tmp_path_factory.mktemp("site") / "build", notebook)


def test_the_site_is_whole_and_takes_nothing_from_elsewhere(site: Path, notebook: Any) -> None:
    """Every page is there, the notebook with its pictures, and nothing is loaded from another host."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(list((site / "notebooks" / "first-look_files").glob("*.png"))) == len(pictures) == 5
    assert not [output for output in outputs if output.get("name") == "stderr"]
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(PAGES) + len(reference.PAGES)
    for page in pages:
        taken = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="?(https?://[^">\s]+)', page.read_text("utf-8"))
        assert not taken, page


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")
def test_the_search_works_from_a_disk_without_a_network(site: Path) -> None:
    """In a browser that is offline, on the page as a file."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_context(offline=True).new_page()
        page.goto((site / "reference" / "settings.html").as_uri())
        page.keyboard.press("/")
        page.keyboard.type("quarantine", delay=20)
        expect(page.get_by_role("option", name="expirytrack quarantine release")).to_be_visible(timeout=30_000)
        browser.close()


def test_the_notebook_is_kept_without_outputs() -> None:
    """They would change with every version of a library, and nobody reviews a picture in base64."""
    for cell in read(NOTEBOOK).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_every_page_has_a_place_in_the_navigation() -> None:
    """And every place a page: one that is left out can only be found by whoever knows it."""
    placed = set(re.findall(r'"([\w/.-]+\.md)"', str(tomllib.loads(CONFIG.read_text("utf-8"))).replace("'", '"')))
    written = {str(page.relative_to(DOCS).as_posix()) for page in PAGES}
    made = {*reference.PAGES, *ELSEWHERE.values(), "explanation/resources.md", "notebooks/first-look.md"}
    assert placed == written | made | {"decisions/README.md"}


def test_every_heading_of_the_guide_is_on_its_page() -> None:
    """In the guide's own words; where the guide lies beside the project, the list here is held to it too."""
    headings = [heading.strip() for heading in HEADINGS.replace("\n", " ").split(";")]
    if GUIDE.is_file():
        text = re.sub(r"^```.*?^```", "", GUIDE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        assert re.findall(r"^##+ (.*?)\s*$", text, re.MULTILINE) == headings
    first = re.findall(r"^\| ([^|]+?) \|", (DOCS / "guide.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert [cell for cell in first if cell not in {"heading of the guide", "---"}] == headings


def test_whatever_runs_by_itself_is_told_when() -> None:
    """Each schedule, sensor and job has its row on the page of automation, and no row is left over."""
    page = (DOCS / "automation.md").read_text(encoding="utf-8")
    first, second = (re.findall(r"^\| (`.+?`) \|", part, re.MULTILINE) for part in page.split("## By hand"))
    ticking: list[dg.ScheduleDefinition | dg.SensorDefinition]
    ticking = [*build_schedules(automatic=False), *build_sensors(automatic=False)]
    names = [one.name for one in ticking], [job.name for job in all_jobs]
    assert [sorted(first), sorted(", ".join(second).split(", "))] == [sorted(f"`{n}`" for n in some) for some in names]


def test_there_is_advice_for_every_error() -> None:
    """None is missing and none is left over."""
    assert set(ADVICE) == {error.__name__ for error in reference.leaves()}


def test_the_page_of_resources_has_figures_of_runs() -> None:
    """Every number of its first table is computed from what a benchmark left; none is missing or senseless."""
    page = resources.page(DOCS / "measured")
    rows = re.findall(r"^\| (?:Minimum|Recommended|Production).*", page, re.MULTILINE)
    assert len(rows) == 3
    for row in rows:
        assert all(float(cell.replace(",", "")) >= 1 for cell in row.strip("| ").split(" | ")[1:])


def test_the_page_of_scale_is_what_the_figures_say() -> None:
    """It is written from what the benchmarks left, and every bar was reached."""
    assert scale.PAGE.read_text(encoding="utf-8") == scale.page(DOCS / "measured")
    assert all(figure.passed is not False for figure in resources.figures(DOCS / "measured", "scale").values())
