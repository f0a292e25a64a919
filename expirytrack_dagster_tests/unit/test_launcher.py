"""What run monitoring learns of a run: alive, gone, or not for us to judge."""

from __future__ import annotations

import os
import subprocess
import sys

import dagster as dg
import psutil
import pytest
from dagster._core.launcher import WorkerStatus

from expirytrack_dagster.launcher import PROCESS_TAG, WatchedRunLauncher
from expirytrack_dagster.processes import this_process
from expirytrack_dagster.settings import load_settings
from expirytrack_dagster.state import open_state
from expirytrack_dagster.state.tables import leases


def health(tags: dict[str, str]) -> WorkerStatus:
    """Return what the launcher says of a run with these tags."""
    with dg.DagsterInstance.ephemeral() as instance:
        launcher = WatchedRunLauncher()
        launcher.register_instance(instance)
        run = dg.DagsterRun("job", tags=tags)
        instance.add_run(run)
        return launcher.check_run_worker_health(run).status


def test_it_can_be_asked() -> None:
    """Monitoring asks only launchers that say so."""
    assert WatchedRunLauncher().supports_check_run_worker_health


def test_this_process_is_alive() -> None:
    """A run of a process that works on is left alone."""
    assert health({PROCESS_TAG: this_process()}) is WorkerStatus.RUNNING


def test_a_process_that_has_ended_is_gone() -> None:
    """A run of the command line ends with its process."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        name = f"{process.pid} since {psutil.Process(process.pid).create_time():.0f}"
        assert health({PROCESS_TAG: name}) is WorkerStatus.RUNNING
        process.communicate(b"\n")
    assert health({PROCESS_TAG: name}) is WorkerStatus.NOT_FOUND


def test_another_process_with_the_same_number_is_not_ours() -> None:
    """Numbers are used again, at another time."""
    began = psutil.Process().create_time()
    assert health({PROCESS_TAG: f"{os.getpid()} since {began - 3600:.0f}"}) is WorkerStatus.NOT_FOUND


def test_a_process_of_another_host_is_judged_by_its_signs_of_life() -> None:
    """One that has given none is let be; one that has fallen silent is gone."""
    name = "7 since 1790000000 on trader-2~abc123"
    assert health({PROCESS_TAG: name}) is WorkerStatus.RUNNING
    with open_state(load_settings()) as state:
        for left, expected in ((60.0, WorkerStatus.RUNNING), (-1.0, WorkerStatus.NOT_FOUND)):
            row = {"name": name, "number": 1, "process": name, "run_id": "", "until": state.now() + left}
            with state.transaction() as connection:
                connection.execute(leases.delete())
                connection.execute(leases.insert(), row)
            assert health({PROCESS_TAG: name}) is expected


def test_a_code_server_that_has_ended_takes_its_runs_along() -> None:
    """Where nobody listens, nobody executes."""
    tag = '{"host": "localhost", "socket": "/nowhere/socket"}'
    assert health({".dagster/grpc_info": tag}) is WorkerStatus.NOT_FOUND


@pytest.mark.parametrize("tags", [{}, {"expirytrack/started_by": "a notebook"}], ids=["no tag", "another tag"])
def test_what_leaves_no_trace_is_let_be(tags: dict[str, str]) -> None:
    """A run in somebody's notebook is not failed under their hands."""
    assert health(tags) is WorkerStatus.RUNNING
