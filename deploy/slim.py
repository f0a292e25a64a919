"""Print the installed packages that ExpiryTrack with its extra `scale` does not need, one a line.

The lock file has what developers need too, so that one file with hashes serves all. The image is built from it, and
this says what to take out again. Nothing is removed here.
"""

# ruff: noqa: INP001 -- a program of its own
from __future__ import annotations

import re
from importlib import metadata

from packaging.requirements import Requirement

ROOT = "expirytrack-dagster[scale]"
KEPT = {"pip"}
"""What takes the others out, and goes last."""


def surplus() -> list[str]:
    """Return the names of the packages that are installed and not needed."""
    needed, waiting = set[tuple[str, str]](), [Requirement(ROOT)]
    while waiting:
        wanted = waiting.pop()
        for extra in ("", *wanted.extras):
            key = _plain(wanted.name), extra
            if key in needed:
                continue
            needed.add(key)
            found = map(Requirement, metadata.requires(wanted.name) or ())
            waiting += [one for one in found if one.marker is None or one.marker.evaluate({"extra": extra})]
    installed = {_plain(one.name) for one in metadata.distributions()}
    return sorted(installed - {name for name, _ in needed} - KEPT)


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    print("\n".join(surplus()))  # noqa: T201 -- what it is for
