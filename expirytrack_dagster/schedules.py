"""When jobs run by themselves: a schedule names a job and a time, and is switched on in the UI, not by being installed.

Times are those of India, where the exchange is. What a job does is in `jobs.py`.
"""

import dagster as dg

from expirytrack_dagster.jobs import backup

nightly_backup = dg.ScheduleDefinition(
    name="nightly_backup",
    job=backup,
    # Tokens die at 03:30: a collection of the night has ended, and none of the day has begun.
    cron_schedule="10 4 * * *",
    execution_timezone="Asia/Kolkata",
    description="A sealed backup every night; keep the recovery key (`expirytrack backup --show-key`) elsewhere.",
)

all_schedules = [nightly_backup]
