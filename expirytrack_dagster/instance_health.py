"""What `expirytrack doctor` looks at of Dagster: the instance opens, and its daemon is at work.

Nothing is made or started here: an instance that is not there yet is said to be none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from expirytrack_dagster.instance import connected, name_server
from expirytrack_dagster.observe.doctor import PATIENCE, Line, isolated, ok

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from expirytrack_dagster.settings import Settings

SILENT = 120.0
"""Seconds without a heartbeat, of which there are two a minute, after which the daemon counts as ended."""

_WATCHES = ("SENSOR", "SCHEDULER", "QUEUED_RUN_COORDINATOR")


def instance_lines(settings: Settings, now: float) -> list[Line]:
    """Return the lines about Dagster at this moment (seconds since the epoch)."""
    folder = settings.dagster_home
    if not (folder / "dagster.yaml").exists():
        none = "There is no Dagster instance yet; the first collection or 'expirytrack ui' makes it."
        return [ok("dagster", none), _no_daemon(settings, "It has never run here.")]
    return isolated("dagster", lambda: _lines(settings, folder, now))


def _lines(settings: Settings, folder: Path, now: float) -> Iterator[Line]:
    place = folder if settings.dagster_server is None else settings.dagster_server
    if settings.dagster_server is not None:
        if b"postgres" not in (folder / "dagster.yaml").read_bytes():
            found = f"The settings name {place}, but Dagster has kept its records in {folder} so far."
            yield Line("dagster", "warn", found, "The next collection or 'expirytrack ui' goes over to the server.")
            return
        name_server(settings)
        connected(settings.model_copy(update={"lock_timeout": PATIENCE})).close()
    try:
        with dg.DagsterInstance.from_config(str(folder)) as instance:
            runs = instance.get_runs_count()
            statuses = instance.get_daemon_statuses(_WATCHES)
    except Exception as error:  # noqa: BLE001 -- Dagster, SQLAlchemy and YAML each raise their own
        found = f"The instance in {place} does not open: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        mend = f"Remove {folder / 'dagster.yaml'} if you changed it, it is made again; else restore a backup."
        yield Line("dagster", "fail", found, mend)
        return
    yield ok("dagster", f"The instance in {place} opens; {runs:,} runs are recorded.")
    beats = [status.last_heartbeat for status in statuses.values()]
    newest = max((beat.timestamp for beat in beats if beat is not None), default=None)
    if newest is None:
        yield _no_daemon(settings, "It has never run here.")
    elif now - newest > SILENT:
        yield _no_daemon(settings, f"It was last seen {(now - newest) / 60:,.0f} minutes ago.")
    elif errors := [error.message.split("\n")[0] for beat in beats if beat for error in beat.errors or ()]:
        yield Line("daemon", "warn", f"It runs, with an error: {errors[0]}", f"See {settings.home / 'logs'}.")
    else:
        yield ok("daemon", "The daemon is at work.")


def _no_daemon(settings: Settings, found: str) -> Line:
    """Say that nothing runs by itself, which is a failure only where the settings want it to."""
    mend = "Run 'expirytrack ui', or set the service up that deploy/README.md describes; `collect` needs none."
    return Line("daemon", "fail" if settings.automatic else "warn", f"The daemon does not run. {found}", mend)
