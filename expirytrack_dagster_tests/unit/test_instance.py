"""The dagster.yaml of a home: put there, renewed where it is ours and old, kept where it was changed."""

from __future__ import annotations

import hashlib
import logging
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy

from expirytrack_dagster import instance
from expirytrack_dagster.instance import connected, name_server, prepare
from expirytrack_dagster.servers import free_port
from expirytrack_dagster.settings import load_settings

SHIPPED = Path(instance.__file__).parents[1] / "dagster.yaml"
CURRENT = "d8e55226a5e75384c365f8755edd73018f5cb664e6c4e33b04dc6a53de54c492"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget afterwards which home was prepared."""
    monkeypatch.setenv("DAGSTER_HOME", "")


@pytest.fixture
def configuration() -> Path:
    """Return where the file of this test's home lies, in a folder that exists."""
    path = load_settings().dagster_home / "dagster.yaml"
    path.parent.mkdir(parents=True)
    return path


def test_whoever_changes_the_file_adds_what_it_was() -> None:
    """The shipped file's own sum: when it changes, the old one belongs into the list of earlier ones, the new one here.

    Left out, every home made until then would keep its old file.
    """
    assert hashlib.sha256(SHIPPED.read_bytes().replace(b"\r\n", b"\n")).hexdigest() == CURRENT
    assert CURRENT not in instance._EARLIER  # noqa: SLF001 -- what the test is about


def test_a_new_home_gets_the_file_that_is_shipped() -> None:
    """Whole, and silently."""
    assert (prepare(load_settings()) / "dagster.yaml").read_bytes() == SHIPPED.read_bytes()


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_an_earlier_one_of_ours_is_renewed(
    configuration: Path, monkeypatch: pytest.MonkeyPatch, newline: bytes
) -> None:
    """A home that an earlier version made gets today's file."""
    earlier = b"telemetry:\n  enabled: true\n"
    monkeypatch.setattr(instance, "_EARLIER", {hashlib.sha256(earlier).hexdigest()})
    configuration.write_bytes(earlier.replace(b"\n", newline))
    prepare(load_settings())
    assert configuration.read_bytes() == SHIPPED.read_bytes()


def test_a_changed_one_is_kept(configuration: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One that still watches runs is nobody's business."""
    changed = SHIPPED.read_bytes().replace(b"max_concurrent_runs: 4", b"max_concurrent_runs: 2")
    configuration.write_bytes(changed)
    with caplog.at_level(logging.WARNING, logger="dagster.expirytrack"):
        prepare(load_settings())
    assert configuration.read_bytes() == changed
    assert caplog.messages == []


def test_a_changed_one_that_does_not_watch_runs_is_told(configuration: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is kept all the same; the sentence names the file and what to do."""
    configuration.write_text("telemetry:\n  enabled: false\n", encoding="utf-8")
    with caplog.at_level(logging.WARNING, logger="dagster.expirytrack"):
        prepare(load_settings())
    assert configuration.read_text(encoding="utf-8") == "telemetry:\n  enabled: false\n"
    (sentence,) = caplog.messages
    assert str(configuration) in sentence
    assert "remove the file" in sentence


def test_a_server_of_several_hosts_is_one_for_dagster_too(postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several, libpq takes the first that answers; SQLAlchemy, which Dagster uses, looks for them elsewhere."""
    several = postgres.replace("@127.0.0.1", f"@127.0.0.1:{free_port()},127.0.0.1") + "?application_name=desk"
    monkeypatch.setenv("EXPIRYTRACK_DAGSTER", several)
    name_server(load_settings())
    told = str(load_settings().dagster_server)
    with sqlalchemy.create_engine(told).connect() as session:
        assert session.exec_driver_sql("SHOW application_name").scalar_one() == "desk"
    with closing(connected(load_settings())) as beside:
        assert beside.info.dbname == postgres.rpartition("/")[2]
