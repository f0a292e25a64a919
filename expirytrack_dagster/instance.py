"""The Dagster instance that the command line and the UI share, below `EXPIRYTRACK_HOME`.

Only where it is and how it comes to be; what runs on it is `runs.py`, who serves it is `servers.py`.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from filelock import FileLock, Timeout
from sqlalchemy.exc import DBAPIError

from expirytrack_dagster.errors import StorageError
from expirytrack_dagster.security.private_files import make_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from expirytrack_dagster.settings import Settings

_EARLIER = {"3cec74ec2caf0d41e26294eec3304c8ddd64932e71c6978ace987536a2f109f4"}
"""SHA-256 of every dagster.yaml that was shipped before, to be added to whenever it changes."""
_LAUNCHER = b"expirytrack_dagster.launcher"

_log = logging.getLogger("dagster.expirytrack")  # Dagster's programs show what is below their own name


def prepare(settings: Settings) -> Path:
    """Make the instance's folder with its dagster.yaml, point DAGSTER_HOME at it, and return it.

    One that an earlier version of this program put there is renewed. One that was changed is kept; where it does not
    watch runs, that is said, because a killed run would then count as running for ever.

    Raises:
        StorageError: the folder cannot be made or written.
    """
    folder = settings.dagster_home
    configuration = folder / "dagster.yaml"
    try:
        make_folder(folder)
        found = configuration.read_bytes().replace(b"\r\n", b"\n") if configuration.exists() else None
        if found is None or hashlib.sha256(found).hexdigest() in _EARLIER:
            shutil.copyfile(shipped("dagster.yaml"), configuration)
        elif _LAUNCHER not in found:
            _log.warning(
                "%s was changed by hand and does not name the run_launcher expirytrack_dagster.launcher: a run that is "
                "killed would count as running for ever. Take that section over from %s, or remove the file.",
                configuration,
                shipped("dagster.yaml"),
            )
    except OSError as error:
        raise StorageError(
            f"{folder} cannot be used as a folder ({error.strerror or error}): see that nothing else stands there, the "
            "disk has room and the home belongs to you."
        ) from error
    os.environ["DAGSTER_HOME"] = str(folder)
    return folder


@contextmanager
def open_instance(settings: Settings) -> Iterator[dg.DagsterInstance]:
    """Yield the instance, made at first use.

    One process opens it at a time: Dagster looks whether its tables are there and makes them in two steps, so that two
    which come first together fail (seen in 12 of 24 processes; 0 of 24 with the lock).

    Raises:
        StorageError: Dagster cannot read or write its own databases, as a rule because the disk is full.
    """
    folder = prepare(settings)
    try:
        with FileLock(folder / "opening.lock", timeout=settings.lock_timeout):
            opened = dg.DagsterInstance.from_config(str(folder))
    except Timeout:
        raise StorageError(
            f"Another program has been opening {folder} for {settings.lock_timeout:g} s: end it, or try again."
        ) from None
    except DBAPIError as error:
        raise _unusable(settings, error) from error
    try:
        with opened as instance:
            yield instance
    except DBAPIError as error:
        raise _unusable(settings, error) from error


def _unusable(settings: Settings, error: DBAPIError) -> StorageError:
    return StorageError(
        f"Dagster's records in {settings.dagster_home} cannot be used ({error.orig}): see that the disk has room, "
        "then run the same command again; what has arrived is kept."
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
