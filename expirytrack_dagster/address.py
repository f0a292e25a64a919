"""Where the archive is: `duckdb:PATH` or `sqlite:PATH`, as `EXPIRYTRACK_WAREHOUSE` names it.

Only the words are understood here, and nothing is opened. What each kind of store can hold, and how it is attached, is
in `warehouse/stores.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

Kind = Literal["duckdb", "sqlite"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Address:
    """A kind of store and its file."""

    kind: Kind
    path: Path

    def __str__(self) -> str:
        """Return the form in which the setting is written."""
        return f"{self.kind}:{self.path}"


def parse_address(text: object) -> object:
    """Turn `sqlite:PATH` into an address; anything but text passes unchanged.

    Raises:
        ValueError: the kind is unknown or the path is missing; a sentence.
    """
    if not isinstance(text, str):
        return text
    kind, colon, path = text.strip().partition(":")
    if kind not in KINDS or not colon:
        message = f"'{text}' is not of the form duckdb:PATH or sqlite:PATH"
        raise ValueError(message)
    if not path:
        message = f"'{text}' names no file: it is {kind}: and a path, such as {kind}:data/expirytrack.{kind}"
        raise ValueError(message)
    try:
        return Address(kind, Path(path).expanduser().absolute())
    except RuntimeError as error:  # of no such user
        message = f"'{text}' cannot be used: {error}"
        raise ValueError(message) from None


def anchored(text: str, folder: Path) -> str:
    """Let a relative path count from a folder; what is no address passes unchanged, to be complained of later."""
    kind, colon, path = text.strip().partition(":")
    fit = kind in KINDS and path and not path.startswith("~")
    return f"{kind}{colon}{folder / path}" if fit else text


def standard(kind: Kind, home: Path) -> Address:
    """Return where a home's archive is unless something else is said, and always in a backup."""
    return Address(kind, home / f"expirytrack.{kind}")
