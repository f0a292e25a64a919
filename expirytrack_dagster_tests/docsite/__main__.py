"""`python -m expirytrack_dagster_tests.docsite [FOLDER]`: make the site below a folder, by default `build`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from expirytrack_dagster_tests.docsite.build import NOTEBOOK, ROOT, build
from expirytrack_dagster_tests.docsite.example import store_example
from expirytrack_dagster_tests.docsite.notebook import executed


def main(work: Path) -> None:
    """Make the example's archive, execute the notebook on it, and build."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        home = Path(folder) / "home"
        store_example(home)
        site = build(work, executed(NOTEBOOK, home))
    print(f"Open {site / 'index.html'}")  # noqa: T201 - this program's output


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT / "build")
