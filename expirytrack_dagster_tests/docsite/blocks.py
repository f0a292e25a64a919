"""The blocks of code on a page: what runs, in which language, and what does not and why.

A block that cannot run on every machine says so in a line of its own above it, for readers and for the test alike:
`*Not run by the tests: needs a real account.*`
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from textwrap import dedent
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RUN = ("sh", "python", "sql")
"""Languages whose blocks run."""
SHOWN = ("text", "toml", "json", "powershell")
"""Languages whose blocks are only read."""

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?<=\n\n)(?: {4}\S.*\n+)+")
_REASON = re.compile(r"\*Not run by the tests: ([^*]+)\.\*\s*\Z")


@dataclass(frozen=True, slots=True)
class Block:
    """One block: the line on which it begins, its language and text, and why it does not run, if it does not."""

    line: int
    language: str
    text: str
    reason: str | None = None

    @property
    def runs(self) -> bool:
        """Say whether it has to run."""
        return self.language in RUN and self.reason is None


def blocks(page: Path, *, indented: bool = False) -> list[Block]:
    """Return the blocks of a page from top to bottom; `indented` takes lines that are indented by four as commands."""
    text = page.read_text(encoding="utf-8")
    found = [*_fenced(text), *(_indented(text) if indented else ())]
    return sorted(found, key=lambda block: block.line)


def _fenced(text: str) -> Iterator[Block]:
    for found in _FENCE.finditer(text):
        reason = _REASON.search(text[: found.start()])
        yield Block(
            text[: found.start()].count("\n") + 1, found[2], dedent(found[3]), reason[1] if reason is not None else None
        )


def _indented(text: str) -> Iterator[Block]:
    outside = _FENCE.sub(lambda found: "\n" * found[0].count("\n"), text)
    for found in _INDENTED.finditer(outside):
        yield Block(outside[: found.start()].count("\n") + 1, "sh", dedent(found[0]))
