"""A UI that is served for tests: webserver and daemon as `expirytrack ui` starts them, over a home of their own.

Belongs here: starting, asking over GraphQL as the pages do, and certain ending. What is looked at is in the tests.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import psutil

from expirytrack_dagster.servers import LOCATION, free_port, this_program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

PATIENCE = 240.0
OVER = {"SUCCESS", "FAILURE", "CANCELED"}

LAUNCH_RUN = """
mutation ($params: ExecutionParams!) {
  launchPipelineExecution(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
  }
}"""
LAUNCH_BACKFILL = """
mutation ($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
  }
}"""
RUN = """
query ($id: ID!) { runOrError(runId: $id) { ... on Run {
  status jobName startTime assets { key { path } } tags { key value }
} } }"""
RUNS = "{ runsOrError(limit: 100) { ... on Runs { results { runId status tags { key value } } } } }"
BACKFILL = """
query ($id: String!) {
  partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status runs(limit: 100) { id status } } }
}"""
BACKFILLS = "{ partitionBackfillsOrError { ... on PartitionBackfills { results { id status timestamp } } } }"
POOLS = """
{ instance { concurrencyLimits {
  concurrencyKey limit slotCount claimedSlots { runId } pendingSteps { runId } activeSlotCount
} } }"""


@dataclass(frozen=True)
class Ui:
    """A running UI and the process that serves it."""

    url: str
    home: Path
    process: subprocess.Popen[bytes]
    location: str = LOCATION

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """Send a query; an error of GraphQL fails the test."""
        answer = httpx.post(f"{self.url}/graphql", json={"query": query, "variables": variables}, timeout=60).json()
        assert "errors" not in answer, answer["errors"]
        data: dict[str, Any] = answer["data"]
        return data

    def begin(self, job: str, assets: list[str], partition: str) -> str:
        """Launch a run of assets of one partition as the launchpad does, of all of the job if none; return its id."""
        params = {
            "selector": {
                "repositoryLocationName": self.location,
                "repositoryName": "__repository__",
                "jobName": job,
                "assetSelection": [{"path": [asset]} for asset in assets] or None,
                "assetCheckSelection": None,
            },
            "mode": "default",
            "runConfigData": {},
            "executionMetadata": {"tags": [{"key": "dagster/partition", "value": partition}]},
        }
        launched = self.ask(LAUNCH_RUN, params=params)["launchPipelineExecution"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return str(launched["run"]["runId"])

    def launch(self, job: str, assets: list[str], partition: str) -> str:
        """Materialize assets of one partition, and return the run's id when it has ended."""
        run_id = self.begin(job, assets, partition)
        self.wait(lambda: self.status(run_id) in OVER)
        return run_id

    def backfill(self, cells: Sequence[str]) -> str:
        """Launch a backfill of whole cells, and return its id."""
        params = {
            "assetSelection": [{"path": ["contracts"]}, {"path": ["candles"]}],
            "partitionNames": cells,
            "tags": [],
        }
        launched = self.ask(LAUNCH_BACKFILL, params=params)["launchPartitionBackfill"]
        assert launched["__typename"] == "LaunchBackfillSuccess", launched
        return str(launched["backfillId"])

    def ended(self, backfill: str, seconds: float = PATIENCE) -> dict[str, Any]:
        """Return a backfill, with its runs, when the daemon calls it ended."""

        def look() -> dict[str, Any]:
            found: dict[str, Any] = self.ask(BACKFILL, id=backfill)["partitionBackfillOrError"]
            return found

        self.wait(lambda: look()["status"] not in {"REQUESTED", "CANCELING", "FAILING"}, seconds)
        return look()

    def status(self, run_id: str) -> str:
        """Return the status of a run."""
        return str(self.ask(RUN, id=run_id)["runOrError"]["status"])

    def runs(self) -> list[dict[str, Any]]:
        """Return the newest runs, newest first, each with its tags as a dictionary."""
        found = self.ask(RUNS)["runsOrError"]["results"]
        return [run | {"tags": {tag["key"]: tag["value"] for tag in run["tags"]}} for run in found]

    def pools(self) -> list[dict[str, Any]]:
        """Return every pool with what holds its slots."""
        limits: list[dict[str, Any]] = self.ask(POOLS)["instance"]["concurrencyLimits"]
        return limits

    def wait(self, done: Callable[[], object], seconds: float = PATIENCE) -> None:
        """Return when the condition holds; fail when it does not in time."""
        deadline = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < deadline, "the daemon or the run did not get on"
            time.sleep(0.4)

    def family(self) -> list[psutil.Process]:
        """Return every process that this UI has started, itself first."""
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def kill(self) -> None:
        """End everything at once and without a word, as a power cut does."""
        for member in self.family():
            member.kill()
        self.process.wait(timeout=30)


def environment(home: Path, api_url: str, **settings: str) -> dict[str, str]:
    """Return the environment of a process that works for this home."""
    given = {"HOME": str(home), "API_URL": api_url, "ACCESS_TOKEN": "x", **settings}
    return os.environ | {f"EXPIRYTRACK_{name}": value for name, value in given.items()}


def track(home: Path, api_url: str, *symbols: str) -> None:
    """Track underlyings with the command line."""
    for symbol in symbols:
        subprocess.run([*this_program(), "track", symbol], env=environment(home, api_url), check=True, timeout=60)


@contextmanager
def serving(home: Path, api_url: str, **settings: str) -> Iterator[Ui]:
    """Serve the UI of a home on a free port; at the end nothing of its family may outlive it."""
    port = free_port()
    with subprocess.Popen(
        [*this_program(), "ui", "--port", str(port)], env=environment(home, api_url, **settings)
    ) as process:
        served = Ui(f"http://127.0.0.1:{port}", home, process)
        served.wait(lambda: answers(served.url) or process.poll() is not None)
        try:
            yield served
        finally:
            if process.poll() is None:
                family = served.family()[1:]
                process.send_signal(signal.SIGTERM)
                assert process.wait(timeout=30) == 0
                gone, alive = psutil.wait_procs(family, timeout=1)
                assert gone
                assert not alive, "children of the UI outlive it"


def answers(url: str) -> bool:
    """Say whether a webserver is there."""
    try:
        return httpx.get(f"{url}/server_info", timeout=2).is_success
    except httpx.HTTPError:
        return False
