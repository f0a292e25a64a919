"""The Dagster instance of a new home, in files and in PostgreSQL, opened by several programs at the same moment."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
import yaml
from filelock import FileLock

from expirytrack_dagster.errors import ConfigurationError, StorageError
from expirytrack_dagster.instance import _alone_in_server, open_instance, prepare, shipped
from expirytrack_dagster.instance_health import instance_lines
from expirytrack_dagster.servers import free_port
from expirytrack_dagster.settings import load_settings

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def same_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away again what an opened instance tells its children."""
    for name in ("DAGSTER_HOME", "EXPIRYTRACK_DAGSTER"):
        monkeypatch.setenv(name, "")


OPEN = """
import sys
from expirytrack_dagster.instance import open_instance
from expirytrack_dagster.settings import load_settings
settings = load_settings()
print("ready", flush=True)
sys.stdin.readline()
with open_instance(settings) as instance:
    print(instance.get_runs_count())
"""


def opened_together(*environments: dict[str, str]) -> list[tuple[str, str]]:
    """Let a program open the instance in each environment, all at once; return what they print and complain of."""
    with ExitStack() as stack:
        programs = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", OPEN],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    env={**os.environ, **environment},
                )
            )
            for environment in environments
        ]
        for program in programs:
            assert program.stdout is not None
            assert program.stdout.readline() == "ready\n"
        for program in programs:
            assert program.stdin is not None
            program.stdin.write("go\n")
            program.stdin.flush()
        return [program.communicate(timeout=60) for program in programs]


def test_programs_that_come_first_together_all_open_it() -> None:
    """None finds tables half made by another: Dagster itself looks and makes in two steps."""
    endings = opened_together(*[{}] * 4)
    assert [output for output, _ in endings] == ["0\n"] * 4, endings


def test_machines_that_come_first_together_all_open_it(postgres: str, tmp_path: Path) -> None:
    """Nor in a server, where no file keeps two machines apart: each home here is one of them."""
    homes = [{"EXPIRYTRACK_HOME": str(tmp_path / name), "EXPIRYTRACK_DAGSTER": postgres} for name in "abcdef"]
    endings = opened_together(*homes)
    assert [output for output, _ in endings] == ["0\n"] * len(homes), endings


def test_machines_see_the_same_runs_and_partitions(postgres: str, tmp_path: Path) -> None:
    """What one machine tells Dagster is there for the other."""
    for name in ("one", "other"):
        with open_instance(load_settings(home=tmp_path / name, dagster=postgres)) as instance:
            known = instance.get_dynamic_partitions("underlying")
            instance.add_dynamic_partitions("underlying", ["NIFTY"])
    assert known == ["NIFTY"]
    assert not list(tmp_path.rglob("*.db"))


def test_the_address_stands_in_the_environment_alone(postgres: str) -> None:
    """The file is the shipped one and says where the address is; nothing of it is in the file."""
    settings = load_settings(dagster=postgres)
    written = (prepare(settings) / "dagster.yaml").read_text()
    assert written.startswith(shipped("dagster.yaml").read_text())
    assert yaml.safe_load(written)["storage"] == {"postgres": {"postgres_url": {"env": "EXPIRYTRACK_DAGSTER"}}}
    assert "127.0.0.1" not in written


def test_the_setting_decides_as_long_as_nobody_changed_the_file(postgres: str) -> None:
    """To the server and back, as often as is wished."""
    kept = []
    for address in (None, postgres, postgres, None):
        configuration = prepare(load_settings(dagster=address)) / "dagster.yaml"
        kept.append("storage" in yaml.safe_load(configuration.read_text()))
    assert kept == [False, True, True, False]


def test_a_changed_file_is_not_talked_over(postgres: str) -> None:
    """Two machines would otherwise each believe to see all runs."""
    configuration = prepare(load_settings()) / "dagster.yaml"
    configuration.write_text(configuration.read_text() + "\n# mine\n")
    with pytest.raises(ConfigurationError, match="keeps runs in files, but the settings name postgresql"):
        prepare(load_settings(dagster=postgres))
    assert configuration.read_text().endswith("# mine\n")
    configuration.write_text(
        configuration.read_text() + "storage: {postgres: {postgres_url: {env: EXPIRYTRACK_DAGSTER}}}"
    )
    with open_instance(load_settings(dagster=postgres)) as instance:
        assert instance.get_runs_count() == 0


def test_a_server_that_is_away_is_said_in_a_sentence() -> None:
    """With what to look at, and at once."""
    settings = load_settings(dagster=f"postgresql://nobody@127.0.0.1:{free_port()}/none")
    with (
        pytest.raises(StorageError, match=r"none cannot be used .*refused.*: see that the server runs"),
        open_instance(settings),
    ):
        pass
    (line, *_) = instance_lines(settings, 0.0)
    assert (line.verdict, line.name) == ("fail", "dagster")
    assert "see that the server runs" in line.found


def test_doctor_says_where_the_records_are(postgres: str) -> None:
    """In the server, once something was recorded there; before, that they will be."""
    with open_instance(load_settings()):
        pass
    there = load_settings(dagster=postgres)
    assert instance_lines(there, 0.0)[0].verdict == "warn"
    with open_instance(there):
        pass
    line = instance_lines(there, 0.0)[0]
    assert (line.verdict, line.found) == ("ok", f"The instance in {postgres} opens; 0 runs are recorded.")


def test_a_machine_that_never_gets_on_is_said(postgres: str) -> None:
    """A program that hangs while it opens the records holds others up for so long and no longer."""
    settings = load_settings(dagster=postgres, lock_timeout=0.2)
    with (
        _alone_in_server(settings),
        pytest.raises(StorageError, match=f"Another program has been opening Dagster's records in {postgres}"),
        open_instance(settings),
    ):
        pass


def test_a_program_that_never_gets_on_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait has an end, and a sentence."""
    monkeypatch.setenv("DAGSTER_HOME", "")
    settings = load_settings(lock_timeout=0.1)
    with (
        FileLock(prepare(settings) / "opening.lock"),
        pytest.raises(StorageError, match="Another program has been opening"),
        open_instance(settings),
    ):
        pass
