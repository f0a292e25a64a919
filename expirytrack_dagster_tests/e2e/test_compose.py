"""The commands of deploy/compose.yaml, started for real on a real PostgreSQL: a run goes through all of them."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest
import yaml

from expirytrack_dagster.servers import free_port
from expirytrack_dagster_tests.bench.desk import Desk, desk
from expirytrack_dagster_tests.e2e.served import Ui, answers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from expirytrack_dagster_tests.postgres import PostgresServer

DEPLOY = Path(__file__).parents[2] / "deploy"
CELL = date(2025, 8, 28)


@pytest.fixture
def office(postgres_server: PostgresServer, tmp_path: Path) -> Iterator[Desk]:
    """Yield the services that the compose file starts beside ours."""
    with desk(postgres_server, tmp_path / "homes", [CELL], strikes=1, name="composed") as made:
        yield made


@pytest.fixture
def records(postgres_server: PostgresServer) -> Iterator[str]:
    """Yield the address of an empty database for Dagster's records."""
    yield postgres_server.create("records")
    postgres_server.drop("records")


def test_a_run_goes_through_the_services_of_the_compose_file(office: Desk, records: str) -> None:
    """Set up once, which makes Dagster's tables; then webserver, daemon and code server, each by its own command.

    They carry a cell into the archive.
    """
    services: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]
    ports = {"3000": str(free_port()), "4000": str(free_port())}
    here = {"0.0.0.0": "127.0.0.1", "code": "127.0.0.1", **ports}  # noqa: S104 -- what is replaced
    home = office.folder / "composed"
    shutil.copytree(office.folder / "first", home)
    shutil.copy(DEPLOY / "dagster.yaml", home / "dagster" / "dagster.yaml")
    environment = office.environment("composed") | {
        "DAGSTER_HOME": str(home / "dagster"),
        "EXPIRYTRACK_DAGSTER": records.replace("postgresql:", "postgresql+psycopg2:"),
        "PATH": sysconfig.get_path("scripts"),
    }

    def command(words: list[str]) -> list[str]:
        return [shutil.which(words[0], path=environment["PATH"]) or "", *(here.get(word, word) for word in words[1:])]

    def is_healthy(name: str) -> bool:
        words = command(services[name]["healthcheck"]["test"][1:])
        return not subprocess.run(words, env=environment, check=False, capture_output=True).returncode

    subprocess.run(command(services["setup"]["command"]), env=environment, check=True, capture_output=True, timeout=120)
    with psycopg2.connect(records) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM runs")
    connection.close()
    subprocess.run(command(["expirytrack", "track", "NIFTY"]), env=environment, check=True, capture_output=True)
    with ExitStack() as running:
        for name in ("code", "webserver", "daemon"):
            log = running.enter_context((home / f"{name}.log").open("wb"))
            process = subprocess.Popen(command(services[name]["command"]), env=environment, stdout=log, stderr=log)
            running.callback(process.wait, 30)
            running.callback(process.terminate)
            if name == "code":
                office.wait_until(lambda: is_healthy("code"))
        ui = Ui(f"http://127.0.0.1:{ports['3000']}", home, process, f"grpc:127.0.0.1:{ports['4000']}")
        office.wait_until(lambda: answers(ui.url))
        for job, partition in (("expiry_fetch", "NIFTY"), ("historical_data_fetch", f"{CELL}|NIFTY")):
            run = ui.launch(job, [], partition)
            assert ui.status(run) == "SUCCESS", (home / "code.log").read_text(encoding="utf-8")[-2000:]
        assert is_healthy("daemon")
    assert office.content().tables["cell_seals"][0] == 1
