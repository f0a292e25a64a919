"""Dagster's daemon, looking for new backfills every ten seconds instead of every thirty, and keeping metrics.

Dagster has no setting for it: whoever launches a backfill waits 15 seconds on average, 30 at worst, before anything
happens. `python -m expirytrack_dagster.daemon run ...` takes what `dagster-daemon run ...` takes.
"""

from __future__ import annotations

from dagster._daemon import controller
from dagster._daemon.cli import main

from expirytrack_dagster.observe import logs
from expirytrack_dagster.observe.recorder import recording
from expirytrack_dagster.security.access import close_what_is_made
from expirytrack_dagster.settings import load_settings

BACKFILL_SECONDS = 10

if __name__ == "__main__":
    controller.DEFAULT_DAEMON_INTERVAL_SECONDS = BACKFILL_SECONDS
    settings = load_settings()
    close_what_is_made()
    logs.begin(settings, "daemon")
    with recording(settings):
        main()
