"""How a home comes to be before anything is collected: its settings file and what Dagster's own tools need.

Nothing that is there is overwritten; dagster.yaml alone is renewed, where it is as an earlier version put it there
(`instance.py`). Commands make a home as they go, too: this only puts into the user's hands what can be changed in it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from expirytrack_dagster.errors import StorageError
from expirytrack_dagster.instance import prepare, shipped
from expirytrack_dagster.security.access import close_home
from expirytrack_dagster.security.private_files import make_folder, write_private
from expirytrack_dagster.settings.loading import FILE
from expirytrack_dagster.settings.template import template

if TYPE_CHECKING:
    from pathlib import Path

    from expirytrack_dagster.settings import Settings

WORKSPACE = "workspace.yaml"


@dataclass(frozen=True, slots=True)
class NewHome:
    """The files of a home that a user may change: those just made or renewed, and those left as they were."""

    made: list[Path]
    kept: list[Path]


def make_home(settings: Settings) -> NewHome:
    """Make the home with expirytrack.toml, workspace.yaml and dagster/dagster.yaml, where they are missing.

    Raises:
        StorageError: the home cannot be made or written.
        UnsafeFile: a link stands in the place of a file, or the home cannot be closed to other users.
    """
    home, configuration = settings.home, settings.dagster_home / "dagster.yaml"
    try:
        make_folder(home)
    except OSError as error:
        raise StorageError(
            f"{home} cannot be made ({error.strerror or error}): see that the folder above it belongs to you, or name "
            "another home."
        ) from error
    close_home(settings)
    files = {
        home / FILE: template().encode(),
        home / WORKSPACE: shipped(WORKSPACE).read_bytes(),
    }
    missing = [path for path in files if not os.path.lexists(path)]
    for path in missing:
        write_private(path, files[path])
    before = configuration.read_bytes() if configuration.is_file() else None
    prepare(settings)
    if configuration.read_bytes() != before:
        missing.append(configuration)
    return NewHome(missing, [path for path in (*files, configuration) if path not in missing])
