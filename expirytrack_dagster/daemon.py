"""Dagster's daemon, looking for new backfills every ten seconds instead of every thirty.

Dagster has no setting for it: whoever launches a backfill waits 15 seconds on average, 30 at worst, before anything
happens. `python -m expirytrack_dagster.daemon run ...` takes what `dagster-daemon run ...` takes.
"""

from __future__ import annotations

from dagster._daemon import controller
from dagster._daemon.cli import main

BACKFILL_SECONDS = 10

if __name__ == "__main__":
    controller.DEFAULT_DAEMON_INTERVAL_SECONDS = BACKFILL_SECONDS
    main()
