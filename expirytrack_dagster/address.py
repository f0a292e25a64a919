"""Where the archive is, as `EXPIRYTRACK_WAREHOUSE` names it: a kind of store, and its file or its server.

    duckdb:PATH
    sqlite:PATH
    ducklake:sqlite:PATH            a lake whose catalogue is a SQLite file
    ducklake:postgres:CONNINFO      a lake whose catalogue is in PostgreSQL: libpq's key=value words, or its URL

Only the words are understood here, and nothing is opened. What each kind of store can hold, and how it is attached, is
in `warehouse/stores.py` and `warehouse/lake.py`. No password stands in an address: libpq finds it by its own ways.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import unquote

from expirytrack_dagster.errors import ConfigurationError

FileKind = Literal["duckdb", "sqlite", "ducklake:sqlite"]
Kind = Literal[FileKind, "ducklake:postgres"]
FILE_KINDS: tuple[FileKind, ...] = get_args(FileKind)
KINDS: tuple[Kind, ...] = get_args(Kind)
FORMS = "duckdb:PATH, sqlite:PATH, ducklake:sqlite:PATH or ducklake:postgres:CONNINFO"

NAMES: dict[FileKind, str] = {
    "duckdb": "expirytrack.duckdb",
    "sqlite": "expirytrack.sqlite",
    "ducklake:sqlite": "lake.sqlite",
}
"""How the file of each kind is called in a home, where nothing else is said."""
_SECRET_WORD = re.compile(r"\b((?:ssl)?password)\s*=\s*('(?:[^'\\]|\\.)*'|[^\s&]*)", re.IGNORECASE)
_SECRET_USER = re.compile(r"(\w+://[^/?#@:\s]*):[^/?#\s]*@")
_WORD = r"[a-z_]+\s*=\s*(?:'(?:[^'\\]|\\.)*'|[^\s']+)"
_WORDS = re.compile(rf"\s*{_WORD}(?:\s+{_WORD})*\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Address:
    """A kind of store and its place: the path of a file, or how libpq finds the database of a catalogue."""

    kind: Kind
    place: Path | str

    @property
    def path(self) -> Path:
        """The file of the archive, or of a lake's catalogue.

        Raises:
            ConfigurationError: it is on a server.
        """
        if isinstance(self.place, str):
            raise ConfigurationError(f"The archive {self} is on a server, not in a file.")
        return self.place

    @property
    def is_lake(self) -> bool:
        """Whether it is a DuckLake."""
        return self.kind.startswith("ducklake:")

    def __str__(self) -> str:
        """Return the form in which the setting is written."""
        return f"{self.kind}:{self.place}"


def parse_address(text: object) -> object:
    """Turn `sqlite:PATH` into an address; anything but text passes unchanged.

    Raises:
        ValueError: the kind is unknown, the place is missing, or there is a password; a sentence.
    """
    if not isinstance(text, str):
        return text
    kind, place = _split(text.strip())
    if kind is None:
        message = f"'{without_password(text)}' is not of the form {FORMS}"
        raise ValueError(message)
    if kind == "ducklake:postgres":
        return Address(kind, _server(place))
    if not place:
        message = f"'{text}' names no file: it is {kind}: and a path, such as {kind}:data/{NAMES[kind]}"
        raise ValueError(message)
    try:
        return Address(kind, Path(place).expanduser().absolute())
    except RuntimeError as error:  # of no such user
        message = f"'{text}' cannot be used: {error}"
        raise ValueError(message) from None


def without_password(text: str) -> str:
    """Return a text in which no password of an address can be read."""
    plain = unquote(text)  # in a URL, %77 is a letter of a name like any other
    masked = _SECRET_USER.sub(r"\1:***@", _SECRET_WORD.sub(r"\1=***", plain))
    return text if masked == plain else masked


def anchored(text: str, folder: Path) -> str:
    """Let a relative path count from a folder; what is no address passes unchanged, to be complained of later."""
    kind, place = _split(text.strip())
    fit = kind in FILE_KINDS and place and not place.startswith("~")
    return f"{kind}:{folder / place}" if fit else text


def standard(kind: FileKind, home: Path) -> Address:
    """Return where a home's archive is unless something else is said, and always in a backup."""
    return Address(kind, home / NAMES[kind])


def _split(text: str) -> tuple[Kind | None, str]:
    for kind in KINDS:
        if text.startswith(f"{kind}:"):
            return kind, text[len(kind) + 1 :]
    return None, text


def _server(conninfo: str) -> str:
    """Return what libpq is told.

    Raises:
        ValueError: it tells a password, or is neither a URL nor key=value words.
    """
    if without_password(conninfo) != conninfo:
        message = (
            "no password may stand in an address, where others can read it: give it in PGPASSWORD, in ~/.pgpass, or "
            "name a service of PGSERVICE's file"
        )
        raise ValueError(message)
    if not re.match(r"postgres(ql)?://", conninfo) and not _WORDS.fullmatch(conninfo):
        message = (
            f"'ducklake:postgres:{conninfo}' names no database: write ducklake:postgres:dbname=lake host=SERVER "
            "user=NAME, or ducklake:postgres:postgresql://NAME@SERVER/lake"
        )
        raise ValueError(message)
    return conninfo
