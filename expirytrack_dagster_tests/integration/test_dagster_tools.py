"""Dagster's own tools in the project's folder: each finds the same code location, without a word of explanation."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest
import yaml

from expirytrack_dagster.servers import LOCATION, free_port, script, this_program
from expirytrack_dagster.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

ROOT = Path(__file__).parents[2]
WITHIN = 120.0
SEEN = """
{ workspaceOrError { ... on Workspace { locationEntries { name locationOrLoadError {
    ... on RepositoryLocation { repositories { assetNodes { assetKey { path } } } } } } } }
  instance { runLauncher { name } }
  assetNodeOrError(assetKey: {path: ["expiries"]}) { ... on AssetNode { partitionKeys } } }"""


def environment(home: Path, **more: str) -> dict[str, str]:
    """Return an environment in which the project's own programs are found first, as after activating it."""
    programs = str(Path(sys.executable).parent)
    path = os.pathsep.join([programs, os.environ["PATH"]])
    return os.environ | {"EXPIRYTRACK_HOME": str(home), "PATH": path, "VIRTUAL_ENV": sys.prefix, **more}


def test_one_name_for_the_code_location() -> None:
    """`expirytrack ui`, workspace.yaml and pyproject.toml name one module, and so the same schedules and sensors."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["dg"]["project"]
    (entry,) = yaml.safe_load((ROOT / "workspace.yaml").read_text(encoding="utf-8"))["load_from"]
    assert project["code_location_target_module"] == project["code_location_name"] == LOCATION
    assert entry["python_module"] == {"module_name": LOCATION, "location_name": LOCATION, "working_directory": "."}


def test_dg_checks_the_project(home: Path) -> None:
    """`dg check` finds no fault in the definitions or in pyproject.toml."""
    for what in ("defs", "toml"):
        done = subprocess.run(
            [script("dg"), "check", what], cwd=ROOT, env=environment(home), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_dg_lists_what_there_is(home: Path) -> None:
    """`dg list defs` shows the assets and jobs; listing writes nothing."""
    done = subprocess.run(
        [script("dg"), "list", "defs", "--json"], cwd=ROOT, env=environment(home), capture_output=True, check=True
    )
    listed = json.loads(done.stdout)
    assert {asset["asset_key"] for asset in listed["assets"]} >= {"expiries", "contracts", "candles"}
    assert {job["name"] for job in listed["jobs"]} >= {"expiry_fetch", "historical_data_fetch", "data_validation"}
    assert not home.exists()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[IO[str]]:
    """Return a file for what a server prints."""
    with (tmp_path / "log").open("w+", encoding="utf-8") as file:
        yield file


@pytest.mark.skipif(sys.platform == "win32", reason="process groups are ended in another way there")
@pytest.mark.parametrize(("program", "own"), [("dagster", True), ("dagster", False), ("dg", True)])
def test_dev_serves_the_project(home: Path, log: IO[str], program: str, own: bool) -> None:  # noqa: FBT001
    """`dagster dev` and `dg dev` serve it; with DAGSTER_HOME, what is tracked is there, without it they warn."""
    sandbox_less = {"EXPIRYTRACK_API_URL": "http://127.0.0.1:9"}
    track = [*this_program(), "track", "NIFTY", "--key", "NSE_INDEX|Nifty 50"]
    subprocess.run(track, env=environment(home, **sandbox_less), check=True)
    kept = {"DAGSTER_HOME": str(load_settings().dagster_home)} if own else {}
    port = free_port()
    with subprocess.Popen(
        [script(program), "dev", "--port", str(port)],
        cwd=ROOT,
        env=environment(home, **sandbox_less, **kept),
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:
        family: list[psutil.Process] = []
        try:
            seen = asked(f"http://127.0.0.1:{port}", process)
            family = psutil.Process(process.pid).children(recursive=True)
        finally:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(timeout=60)
            for member in psutil.wait_procs(family, timeout=20)[1]:
                member.kill()
    (location,) = seen["workspaceOrError"]["locationEntries"]
    assert location["name"] == LOCATION
    assert len(location["locationOrLoadError"]["repositories"][0]["assetNodes"]) >= 3
    assert seen["instance"]["runLauncher"]["name"] == "WatchedRunLauncher"
    assert seen["assetNodeOrError"]["partitionKeys"] == (["NIFTY"] if own else [])
    log.seek(0)
    assert ("This UI has an instance of its own" in log.read()) is not own
    assert not list(ROOT.glob(".tmp_dagster_home_*"))


def asked(url: str, process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Return what the served project says of itself, once it answers."""
    deadline = time.monotonic() + WITHIN
    while True:
        assert process.poll() is None, "it ended by itself"
        try:
            answer = httpx.post(f"{url}/graphql", json={"query": SEEN}, timeout=30)
        except httpx.HTTPError:
            assert time.monotonic() < deadline, "it did not answer"
            time.sleep(0.3)
        else:
            return dict(answer.json()["data"])
