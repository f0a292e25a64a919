"""Markdown as the generated pages need it: tables, and text that must not become markup."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table; what would end a cell or a row is escaped, markup in cells is kept."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines) + "\n"


def code(text: object) -> str:
    """Return text as code, or nothing for nothing."""
    return f"`{text}`" if str(text) else ""


def one_line(text: str | None) -> str:
    """Return the first paragraph of a docstring or description as one line."""
    return " ".join((text or "").split("\n\n")[0].split())


def _cell(value: object) -> str:
    return " ".join(str(value).replace("|", "\\|").split())
