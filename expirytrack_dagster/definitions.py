"""The one Definitions object of the code location; nothing else is decided here.

`build_defs` takes overrides so that the command line and tests swap a part instead of patching it.
"""

from __future__ import annotations

import logging

import dagster as dg
from dagster_duckdb import DuckDBResource

from expirytrack_dagster.assets import all_assets
from expirytrack_dagster.checks.chain import chain
from expirytrack_dagster.checks.horizon import leaving_soon
from expirytrack_dagster.checks.integrity import archive_integrity
from expirytrack_dagster.checks.token import access_token
from expirytrack_dagster.instance import warn_of_another_instance
from expirytrack_dagster.io_managers import ArchiveIOManager
from expirytrack_dagster.jobs import all_jobs
from expirytrack_dagster.observe import logs
from expirytrack_dagster.resources import ProgressResource, UpstoxResource, WarehouseResource
from expirytrack_dagster.schedules import build_schedules
from expirytrack_dagster.security.access import close_home, close_what_is_made
from expirytrack_dagster.sensors import build_sensors
from expirytrack_dagster.settings import load_settings

_LOG = logging.getLogger(__name__)


def build_defs(**overrides: object) -> dg.Definitions:
    """Assemble assets, checks, jobs, schedules, sensors and resources; each override replaces the resource of its name.

    Raises:
        ConfigurationError: a setting of the environment cannot be used.
    """
    settings = load_settings()
    warehouse = WarehouseResource(
        duckdb=DuckDBResource(database=str(settings.address.place)),
        kind=settings.address.kind,
        lock_timeout=settings.lock_timeout,
    )
    return dg.Definitions(
        assets=all_assets,
        asset_checks=[archive_integrity, chain, access_token, leaving_soon],
        jobs=all_jobs,
        schedules=build_schedules(automatic=settings.automatic),
        sensors=build_sensors(automatic=settings.automatic),
        executor=dg.in_process_executor,
        resources={
            "upstox": UpstoxResource(),
            "warehouse": warehouse,
            "archive": ArchiveIOManager(warehouse=warehouse),
            "progress": ProgressResource(),
            **overrides,
        },
    )


@dg.definitions
def defs() -> dg.Definitions:
    """Return the definitions of the code location; built when Dagster loads it, not at import.

    Raises:
        ConfigurationError: a setting of the environment cannot be used.
        UnsafeFile: other users can read the home, and it cannot be closed to them.
    """
    settings = load_settings()
    warn_of_another_instance(settings)
    close_what_is_made()  # the runs that this process starts inherit it
    for sentence in close_home(settings):
        _LOG.warning(sentence)
    logs.begin(settings, "dagster")
    return build_defs()
