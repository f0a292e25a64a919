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
from typing import Literal, NamedTuple, get_args
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

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
_SERVER = re.compile(r"(postgresql(?:\+\w+)?://(?:[^/?#@]*@)?)([^/?#@]*)/*([^?#]*)\??([^#]*)")
_PORT = 5432
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

    def is_same(self, other: Address) -> bool:
        """Say whether both name one archive, as far as that can be seen without opening it; of files, always."""
        if isinstance(self.place, str) or isinstance(other.place, str):
            return self == other
        return self.place.exists() and other.place.exists() and self.place.samefile(other.place)

    @property
    def is_lake(self) -> bool:
        """Whether it is a DuckLake."""
        return self.kind.startswith("ducklake:")

    def __str__(self) -> str:
        """Return the form in which the setting is written."""
        return f"{self.kind}:{self.place}"


class Server(NamedTuple):
    """libpq's URL of a database, taken apart: of several hosts, the first one that answers is used."""

    user: str
    """All that stands before the hosts."""
    hosts: tuple[str, ...]
    ports: tuple[int, ...]
    database: str
    query: str

    def for_sqlalchemy(self) -> str:
        """Return the URL with its hosts in the query, where SQLAlchemy takes several, and libpq too."""
        hosts = urlencode({"host": ",".join(self.hosts), "port": ",".join(map(str, self.ports))}, safe=",")
        return f"{self.user}/{self.database}?{'&'.join(filter(None, (hosts, self.query)))}"


def parse_server(url: str) -> Server:
    """Take the URL of a database of PostgreSQL apart, which libpq understands with one host, several, or none.

    Raises:
        ValueError: it is no such URL, names no database, or has a port that cannot be one.
    """
    found = _SERVER.fullmatch(url)
    if found is None or not found[3]:
        message = "no database is named"
        raise ValueError(message)
    user, hosts, database, query = found.groups()
    parse_qsl(query, strict_parsing=bool(query))
    each = [urlsplit(f"//{host}") for host in hosts.split(",")]  # one by one: several are no host to urlsplit
    ports = tuple(_PORT if host.port is None else host.port for host in each)  # what is no number raises
    if 0 in ports:
        message = "0 is no port"
        raise ValueError(message)
    return Server(user, tuple(unquote(host.hostname or "") for host in each), ports, database, query)


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
