"""The Dagster instance that the command line and the UI share, below `EXPIRYTRACK_HOME`.

Only where it is and how it comes to be; what runs on it is `runs.py`, who serves it is `servers.py`.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

if TYPE_CHECKING:
    from expirytrack_dagster.settings import Settings


def prepare(settings: Settings) -> Path:
    """Make the instance's folder with its dagster.yaml, point DAGSTER_HOME at it, and return it.

    An existing dagster.yaml is kept: it may have been changed on purpose.
    """
    folder = settings.dagster_home
    folder.mkdir(parents=True, exist_ok=True)
    configuration = folder / "dagster.yaml"
    if not configuration.exists():
        shutil.copyfile(_shipped_configuration(), configuration)
    os.environ["DAGSTER_HOME"] = str(folder)
    return folder


def open_instance(settings: Settings) -> dg.DagsterInstance:
    """Return the instance, made at first use."""
    return dg.DagsterInstance.from_config(str(prepare(settings)))


def _shipped_configuration() -> Path:
    """Return dagster.yaml from the installed package, or from the project in which the package lies."""
    package = Path(__file__).parent
    installed = package / "dagster.yaml"
    return installed if installed.exists() else package.parent / "dagster.yaml"
