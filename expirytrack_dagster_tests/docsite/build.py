"""From `docs/` to a site: gather the written pages, add the generated ones, and let Zensical build with strict links.

The pages are gathered in a folder of their own, so that nothing generated ever lies among what people write.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from expirytrack_dagster_tests.docsite import notebook, reference, resources

if TYPE_CHECKING:
    from typing import Any

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
NOTEBOOK = DOCS / "notebooks" / "first-look.ipynb"
CONFIG = ROOT / "zensical.toml"
# Pages that lie beside what they describe, under the name that they have in the site. Their links leave `docs/`.
ELSEWHERE = {"deploy/README.md": "how-to/always-on.md", "data/README.md": "reference/home.md"}
_LINKS_ELSEWHERE = {
    "(../README.md#settings)": "(../reference/settings.md)",
    "(../docs/how-to/several-collectors.md)": "(several-collectors.md)",
}
_REMOTE_SHIM, _LOCAL_SHIM = "https://unpkg.com/iframe-worker/shim", "offline-search.js"


def build(work: Path, executed: Any) -> Path:
    """Build the site in a folder, which is emptied first, and return the folder of its pages.

    Args:
        work: where everything that is made goes.
        executed: the notebook with its outputs.

    Raises:
        RuntimeError: a link or an anchor leads nowhere, or a page cannot be made; with what Zensical said.
    """
    shutil.rmtree(work, ignore_errors=True)
    pages = work / "docs"
    shutil.copytree(DOCS, pages, ignore=shutil.ignore_patterns("*.ipynb", "measured"))
    reference.write(pages)
    (pages / "explanation").mkdir(exist_ok=True)
    (pages / "explanation" / "resources.md").write_text(resources.page(DOCS / "measured"), encoding="utf-8")
    (pages / "decisions" / "README.md").write_text(decisions_page(), encoding="utf-8")
    for source, page in ELSEWHERE.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        for link, instead in _LINKS_ELSEWHERE.items():
            text = text.replace(link, instead)
        (pages / page).write_text(text, encoding="utf-8")
    (pages / "notebooks").mkdir(exist_ok=True)
    notebook.render(executed, pages / "notebooks" / "first-look.md")
    shutil.copy(CONFIG, work / CONFIG.name)
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--config-file", str(work / CONFIG.name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8")
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    _search_from_a_disk(work / "site")
    return work / "site"


def _search_from_a_disk(site: Path) -> None:
    """Let every page take the script that the search needs without a server from the site, not from the network."""
    for page in site.rglob("*.html"):
        up = "../" * (len(page.relative_to(site).parts) - 1)
        text = page.read_text(encoding="utf-8")
        page.write_text(text.replace(_REMOTE_SHIM, f"{up}{_LOCAL_SHIM}"), encoding="utf-8")


def decisions_page() -> str:
    """Return the list of the decisions, under the words that stand in its file."""
    text = (DOCS / "decisions" / "README.md").read_text(encoding="utf-8")
    for path in sorted((DOCS / "decisions").glob("[0-9]*.md")):
        title = re.match(r"# (\d+)\. (.*)", path.read_text(encoding="utf-8"))
        if title is None:
            raise RuntimeError(f"{path} does not begin with '# NNNN. Title'.")
        text += f"\n- {title[1]} [{title[2]}]({path.name})"
    return text + "\n"
