"""Where the state database is: `sqlite:PATH` or `postgresql://USER@HOST:PORT/DATABASE`, as `EXPIRYTRACK_STATE` says it.

Only the words are understood here, and nothing is opened. A password never stands in an address: libpq, which
PostgreSQL's clients share, finds it in `PGPASSWORD`, in `~/.pgpass` or through `PGSERVICE`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from expirytrack_dagster.address import parse_server, without_password

SQLITE, POSTGRES = "sqlite:", "postgresql://"
FORMS = "sqlite:PATH or postgresql://USER@HOST:PORT/DATABASE"


@dataclass(frozen=True, slots=True)
class StateAddress:
    """An engine, and the file or the address in the form of libpq that it is reached by."""

    kind: Literal["sqlite", "postgresql"]
    place: str

    @classmethod
    def of_file(cls, path: Path) -> StateAddress:
        """Return the address of a SQLite file."""
        return cls("sqlite", str(path.absolute()))

    @property
    def path(self) -> Path:
        """The SQLite file."""
        if self.kind != "sqlite":
            raise AssertionError("only a SQLite database is a file")
        return Path(self.place)

    def __str__(self) -> str:
        """Return the form in which the setting is written."""
        return f"{SQLITE}{self.place}" if self.kind == "sqlite" else self.place


def parse_state_address(text: object) -> object:
    """Turn the text of the setting into an address; anything but text passes unchanged.

    Raises:
        ValueError: it is neither of the two forms, or holds a password; a sentence without it.
    """
    if not isinstance(text, str):
        return text
    text = text.strip()
    if text.startswith(POSTGRES):
        return _of_server(text)
    if not text.startswith(SQLITE):
        message = f"it is not of the form {FORMS}"
        raise ValueError(message)
    if not (path := text.removeprefix(SQLITE)):
        message = "it names no file: it is sqlite: and a path, such as sqlite:data/state.sqlite"
        raise ValueError(message)
    try:
        return StateAddress.of_file(Path(path).expanduser())
    except RuntimeError as error:  # of no such user
        message = f"it cannot be used: {error}"
        raise ValueError(message) from None


def anchored(text: str, folder: Path) -> str:
    """Let a relative path count from a folder; anything else passes unchanged."""
    path = text.strip().removeprefix(SQLITE)
    fit = text.strip().startswith(SQLITE) and path and not path.startswith("~")
    return f"{SQLITE}{folder / path}" if fit else text


def _of_server(text: str) -> StateAddress:
    if without_password(text) != text:
        message = "a password does not belong in an address: set PGPASSWORD, or write it into ~/.pgpass"
        raise ValueError(message)
    try:
        parse_server(text)
    except ValueError as error:
        message = f"it cannot be read ({error}): use {POSTGRES}USER@HOST:PORT/DATABASE"
        raise ValueError(message) from None
    return StateAddress("postgresql", text)
