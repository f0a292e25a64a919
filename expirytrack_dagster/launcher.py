"""How runs of the UI are launched, and how Dagster learns that the process of a run is no more.

Dagster's own launcher cannot say whether a run's process is alive: a run whose program, or whose whole machine, was cut
off would stay "started" for ever and keep its place in the queue. This one answers run monitoring, which then fails the
run, and the retry of crashed runs goes on where it stopped. Named in dagster.yaml; limits and intervals are there.
"""

from __future__ import annotations

from dagster import DagsterRun, deserialize_value
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher import CheckRunHealthResult, DefaultRunLauncher, WorkerStatus
from dagster._grpc.types import CanCancelExecutionRequest, CanCancelExecutionResult

from expirytrack_dagster.collect.leases import has_fallen_silent
from expirytrack_dagster.processes import is_alive, is_here
from expirytrack_dagster.settings import load_settings
from expirytrack_dagster.state import open_state
from expirytrack_dagster.upstox.clock import SystemClock

PROCESS_TAG = "expirytrack/process"


class WatchedRunLauncher(DefaultRunLauncher):
    """Dagster's launcher, which also says whether a run that is called started still has a process."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Say that run monitoring may ask."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Look for the process of a run: that of the command line, or the one that a code server started.

        One of another host is judged by the signs of life that it gives, and is let be where it never gave any.
        What was started by other means (a notebook, Dagster's own command line) leaves no trace, and is let be.
        """
        if PROCESS_TAG in run.tags:
            process = run.tags[PROCESS_TAG]
            return _running() if _is_at_work(process) else _gone(f"Process {process} has ended without a word.")
        # Dagster does not annotate this method.
        server = self._get_grpc_client_for_termination(run.run_id)  # type: ignore[no-untyped-call]
        if server is None:
            return _running()
        try:
            answer = deserialize_value(
                server.can_cancel_execution(CanCancelExecutionRequest(run_id=run.run_id)), CanCancelExecutionResult
            )
        except DagsterUserCodeUnreachableError:
            return _gone("The code server that started its process has ended.")
        return _running() if answer.can_cancel else _gone("Its code server knows no process of this run.")


def _is_at_work(process: str) -> bool:
    """Say whether a process lives: of this host by looking, of another by what it tells in the state database."""
    if is_here(process):
        return is_alive(process)
    with open_state(load_settings()) as state:
        return not has_fallen_silent(state, process, SystemClock())


def _running() -> CheckRunHealthResult:
    return CheckRunHealthResult(WorkerStatus.RUNNING)


def _gone(why: str) -> CheckRunHealthResult:
    return CheckRunHealthResult(WorkerStatus.NOT_FOUND, why)
