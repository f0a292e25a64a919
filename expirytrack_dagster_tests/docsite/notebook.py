"""The notebook: it is kept without outputs, executed against a home, and made into a page with its pictures."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import nbformat
from nbclient import NotebookClient
from nbconvert import MarkdownExporter

from expirytrack_dagster.settings import PREFIX

if TYPE_CHECKING:
    from pathlib import Path

_PATIENCE = 120


def read(path: Path) -> Any:
    """Return a notebook as it is kept."""
    return nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]


def executed(path: Path, home: Path) -> Any:
    """Return the notebook with its outputs, run in a kernel of its own on the archive of a home.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    notebook = read(path)
    client = NotebookClient(notebook, timeout=_PATIENCE, kernel_name="python3", resources={"metadata": {"path": home}})
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    client.execute(env=inherited | {f"{PREFIX}HOME": str(home)})
    return notebook


def render(notebook: Any, page: Path) -> None:
    """Write an executed notebook as Markdown, its pictures in a folder beside the page."""
    pictures = f"{page.stem}_files"
    exporter = MarkdownExporter()  # type: ignore[no-untyped-call]
    text, resources = exporter.from_notebook_node(notebook, {"output_files_dir": pictures, "unique_key": page.stem})
    (page.parent / pictures).mkdir(parents=True, exist_ok=True)
    for name, picture in resources["outputs"].items():
        (page.parent / name).write_bytes(picture)
    page.write_text(text, encoding="utf-8")
