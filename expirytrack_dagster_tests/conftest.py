"""Fixtures that every tier shares: a clean environment, a home of its own, the recorded data where they are.

Nothing here starts a server or a process but PostgreSQL, for the tests that ask for it.
"""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from expirytrack_dagster import console
from expirytrack_dagster.observe import logs
from expirytrack_dagster_tests.engines import NAMES, Engine, Files, Server
from expirytrack_dagster_tests.postgres import PostgresServer, programs
from expirytrack_dagster_tests.postgres import postgres_server as running_server

if TYPE_CHECKING:
    from collections.abc import Iterator

REALDATA = Path(__file__).parents[2] / "shared" / "realdata"
_DATABASES = count(1)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let no setting of the developer reach a test, and no test write into the developer's data or keyring."""
    for name in list(os.environ):
        if name.startswith(("EXPIRYTRACK_", "DAGSTER_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("EXPIRYTRACK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")


@pytest.fixture(autouse=True)
def same_umask() -> Iterator[None]:
    """Give back the umask that a command of this process has narrowed: the next test makes files as it always does."""
    os.umask(before := os.umask(0o022))
    yield
    os.umask(before)


@pytest.fixture(autouse=True)
def same_log() -> Iterator[None]:
    """Take away the log lines that a command of this process began to write: they belong to its home alone."""
    yield
    logs.end()


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no busy machine put a line about slow work between the lines that a test expects."""
    monkeypatch.setattr(console, "SLOW", 600.0)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return the home that this test's settings name."""
    return tmp_path / "home"


@pytest.fixture(scope="session")
def realdata() -> Path:
    """Return the folder of real recordings, or skip where it does not lie beside the project."""
    if not REALDATA.is_dir():
        pytest.skip("the recordings of ../shared/realdata are not on this machine")
    return REALDATA


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """Yield a PostgreSQL server of this test process; whoever stops it starts it again."""
    if programs() is None:
        pytest.skip("PostgreSQL is not installed on this machine")
    with running_server() as server:
        yield server


@pytest.fixture
def postgres(postgres_server: PostgresServer) -> Iterator[str]:
    """Yield the address of an empty database: postgresql://USER@HOST:PORT/DATABASE."""
    name = f"test{next(_DATABASES)}"
    yield postgres_server.create(name)
    postgres_server.drop(name)


@pytest.fixture(params=NAMES)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """Give state databases in SQLite, then in PostgreSQL."""
    if request.param == "sqlite":
        yield Files(tmp_path / "states")
        return
    server = Server(request.getfixturevalue("postgres"))
    yield server
    server.close()
