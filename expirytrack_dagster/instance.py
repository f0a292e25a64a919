"""The Dagster instance that the command line and the UI share: below `EXPIRYTRACK_HOME`, or in PostgreSQL.

Only where it is and how it comes to be; what runs on it is `runs.py`, who serves it is `servers.py`. In PostgreSQL are
runs, events, schedules and partitions, which the instances of all machines then share; dagster.yaml and what runs print
stay below the home.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
from contextlib import ExitStack, closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from filelock import FileLock, Timeout
from sqlalchemy.exc import DBAPIError

from expirytrack_dagster.address import parse_server
from expirytrack_dagster.errors import ConfigurationError, StorageError
from expirytrack_dagster.security.private_files import make_folder
from expirytrack_dagster.settings import SERVER_DRIVER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg2.extensions import connection

    from expirytrack_dagster.settings import Settings

_EARLIER = {"3cec74ec2caf0d41e26294eec3304c8ddd64932e71c6978ace987536a2f109f4"}
"""SHA-256 of every dagster.yaml that was shipped before, to be added to whenever it changes."""
_LAUNCHER = b"expirytrack_dagster.launcher"
_SERVER = "EXPIRYTRACK_DAGSTER"
_IN_SERVER = f"""
# Runs, events and schedules are in PostgreSQL. Its address is the environment's, and its password libpq's to find.
storage:
  postgres:
    postgres_url:
      env: {_SERVER}
""".encode()
_OPENING = 0x45787054_72616368
"""The number of PostgreSQL's advisory lock for opening an instance: "ExpTrach" in ASCII."""

_log = logging.getLogger("dagster.expirytrack")  # Dagster's programs show what is below their own name


def prepare(settings: Settings) -> Path:
    """Make the instance's folder with its dagster.yaml, point DAGSTER_HOME at it, and return it.

    One that this program put there, now or in an earlier version, is brought to what the settings say. One that was
    changed is kept; where it does not watch runs, that is said, because a killed run would then count as running for
    ever.

    Raises:
        StorageError: the folder cannot be made or written.
        ConfigurationError: one that was changed keeps runs elsewhere than the settings say, or a package is missing.
    """
    folder = settings.dagster_home
    configuration = folder / "dagster.yaml"
    try:
        make_folder(folder)
        found = configuration.read_bytes().replace(b"\r\n", b"\n") if configuration.exists() else None
        in_files = shipped("dagster.yaml").read_bytes().replace(b"\r\n", b"\n")
        wanted = in_files if settings.dagster_server is None else in_files + _IN_SERVER
        if found is None or found in {in_files, in_files + _IN_SERVER} or _was_shipped(found):
            if found != wanted:
                configuration.write_bytes(wanted)
        else:
            _check_changed(found, configuration, settings)
    except OSError as error:
        raise StorageError(
            f"{folder} cannot be used as a folder ({error.strerror or error}): see that nothing else stands there, the "
            "disk has room and the home belongs to you."
        ) from error
    os.environ["DAGSTER_HOME"] = str(folder)
    name_server(settings)
    return folder


def name_server(settings: Settings) -> None:
    """Let Dagster find the address in the environment, as dagster.yaml tells it; nothing where runs are in files.

    Raises:
        ConfigurationError: the package for it is missing.
    """
    if settings.dagster_server is not None:
        if find_spec("dagster_postgres") is None:
            raise ConfigurationError(
                f"Dagster's records in {settings.dagster_server} need a package: run "
                "pip install 'expirytrack-dagster[scale]'."
            )
        server = parse_server(settings.dagster_server)
        address = settings.dagster_server if len(server.hosts) == 1 else server.for_sqlalchemy()
        os.environ[_SERVER] = address.replace("postgresql://", f"{SERVER_DRIVER}://", 1)


def _was_shipped(found: bytes) -> bool:
    return hashlib.sha256(found.removesuffix(_IN_SERVER)).hexdigest() in _EARLIER


def _check_changed(found: bytes, configuration: Path, settings: Settings) -> None:
    """Say what a dagster.yaml that was changed by hand lacks.

    Raises:
        ConfigurationError: it keeps runs in files, and the settings say that they are in PostgreSQL.
    """
    if settings.dagster_server is not None and b"postgres" not in found:
        raise ConfigurationError(
            f"{configuration} was changed by hand and keeps runs in files, but the settings name "
            f"{settings.dagster_server}: remove the file, or add to it:{_IN_SERVER.decode().rstrip()}"
        )
    if _LAUNCHER not in found:
        _log.warning(
            "%s was changed by hand and does not name the run_launcher expirytrack_dagster.launcher: a run that is "
            "killed would count as running for ever. Take that section over from %s, or remove the file.",
            configuration,
            shipped("dagster.yaml"),
        )


@contextmanager
def open_instance(settings: Settings) -> Iterator[dg.DagsterInstance]:
    """Yield the instance, made at first use.

    One process opens it at a time, of this machine or in the whole of a server: Dagster looks whether its tables are
    there and makes them in two steps, so that two which come first together fail (seen in 12 of 24 processes with
    files and in 1 of 18 with PostgreSQL; in none with the lock).

    Raises:
        StorageError: Dagster cannot read or write its own databases, as a rule because the disk is full or the server
            is away.
    """
    folder = prepare(settings)
    try:
        with ExitStack() as alone:
            alone.enter_context(FileLock(folder / "opening.lock", timeout=settings.lock_timeout))
            if settings.dagster_server is not None:
                alone.enter_context(_alone_in_server(settings))
            opened = dg.DagsterInstance.from_config(str(folder))
    except Timeout:
        raise StorageError(
            f"Another program has been opening {folder} for {settings.lock_timeout:g} s: end it, or try again."
        ) from None
    except _refusals() as error:
        raise _unusable(settings, error) from error
    try:
        with opened as instance:
            yield instance
    except _refusals() as error:
        raise _unusable(settings, error) from error


@contextmanager
def _alone_in_server(settings: Settings) -> Iterator[None]:
    """Hold the lock for opening; it ends with its connection, whatever becomes of this process.

    Raises:
        StorageError: the server is away, or another program held the lock for too long.
    """
    import psycopg2  # noqa: PLC0415 -- of use with a server alone

    patience = settings.lock_timeout
    with closing(connected(settings)) as beside, beside.cursor() as cursor:
        try:
            cursor.execute(f"SET lock_timeout = {max(1, round(patience * 1000))}")
            cursor.execute("SELECT pg_advisory_lock(%s)", (_OPENING,))
        except psycopg2.errors.LockNotAvailable:
            raise StorageError(
                f"Another program has been opening Dagster's records in {settings.dagster_server} for {patience:g} s: "
                "end it, or try again."
            ) from None
        yield


def connected(settings: Settings) -> connection:
    """Return a connection with the server of Dagster's records, which the caller closes.

    Raises:
        StorageError: there is no such server, or it lets nobody of this name in; it was asked once.
    """
    import psycopg2  # noqa: PLC0415 -- of use with a server alone

    address = str(settings.dagster_server).replace(f"{SERVER_DRIVER}://", "postgresql://", 1)
    try:
        return psycopg2.connect(address, connect_timeout=max(2, round(settings.lock_timeout)))
    except psycopg2.Error as error:
        raise _unusable(settings, error) from error


def _refusals() -> tuple[type[Exception], ...]:
    """Return what Dagster raises when its databases do not serve it; it loads what is for PostgreSQL at need."""
    server = sys.modules.get("dagster_postgres.utils")
    return (DBAPIError,) if server is None else (DBAPIError, server.DagsterPostgresException)


def _unusable(settings: Settings, error: Exception) -> StorageError:
    cause = error.__cause__ if isinstance(error.__cause__, DBAPIError) else error
    words = " ".join(str(cause.orig if isinstance(cause, DBAPIError) else cause).split())
    if settings.dagster_server is None:
        place, mend = str(settings.dagster_home), "the disk has room"
    else:
        place, mend = settings.dagster_server, "the server runs and lets you in"
    return StorageError(
        f"Dagster's records in {place} cannot be used ({words}): see that {mend}, then run the same command again; "
        "what has arrived is kept."
    )


def warn_of_another_instance(settings: Settings) -> None:
    """Tell whoever started `dagster dev` or `dg dev` that its runs and partitions are not those of the archive."""
    own = settings.dagster_home
    if "DAGSTER_IS_DEV_CLI" in os.environ and Path(os.environ.get("DAGSTER_HOME", "")) != own:
        _log.warning(
            "This UI has an instance of its own: tracked underlyings and earlier runs are not in it. "
            "Start it with DAGSTER_HOME=%s to see what `expirytrack` sees.",
            own,
        )


def shipped(name: str) -> Path:
    """Return a file of the project's top folder, from the installed package or from the folder of the sources."""
    package = Path(__file__).parent
    installed = package / name
    return installed if installed.exists() else package.parent / name
