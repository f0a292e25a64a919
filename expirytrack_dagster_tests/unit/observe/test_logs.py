"""Log lines: what is in them, what is struck out, who is heard, and that people see what they saw before."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from expirytrack_dagster.observe import logs
from expirytrack_dagster.settings import load_settings

if TYPE_CHECKING:
    from pathlib import Path

OURS = logging.getLogger("expirytrack_dagster.example")


@pytest.fixture
def home(home: Path) -> Path:
    """Return a home that is there."""
    home.mkdir()
    return home


def lines(home: Path) -> list[dict[str, Any]]:
    """Return what was logged."""
    path = home / "logs" / logs.FILE
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def test_a_line_says_what_it_is_about(home: Path) -> None:
    """Bound names are in the lines of the block, of its tasks and threads, and in no others."""
    logs.begin(load_settings(), "test")

    async def ask(contract: str) -> None:
        with logs.about(contract=contract):
            await asyncio.sleep(0)
            await asyncio.to_thread(OURS.info, "asked %s", contract)

    async def both() -> None:
        await asyncio.gather(ask("A"), ask("B"))

    with logs.about(run="r1", cell="NIFTY 2025-08-21"):
        asyncio.run(both())
        with logs.about(cell="other"):
            OURS.info("nested")
        OURS.warning("after", extra={"metrics": {"rows": 1}})
    OURS.info("outside")
    asked, nested, after, outside = [*lines(home)[:2]], *lines(home)[2:]
    assert {(line["contract"], line["message"]) for line in asked} == {("A", "asked A"), ("B", "asked B")}
    assert all((line["run"], line["cell"], line["level"]) == ("r1", "NIFTY 2025-08-21", "info") for line in asked)
    assert nested["cell"] == "other"
    assert (after["cell"], after["metrics"], "contract" in after) == ("NIFTY 2025-08-21", {"rows": 1}, False)
    assert list(outside) == ["timestamp", "level", "program", "pid", "logger", "message"]


def test_a_line_makes_no_home(tmp_path: Path) -> None:
    """What is not there yet stays so: a restored home takes its place, and a listing leaves nothing behind."""
    logs.begin(load_settings(home=tmp_path / "none"), "test")
    OURS.warning("something")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "message",
    [
        "header authorization: Bearer abcdef.0123456789",
        "token eyJ0eXAiOiJKV1QifQ.eyJleHAiOjE3NTV9.c2lnbmF0dXJl of somebody",
        "GET /callback?code=q1w2e3r4t5&state=1",
        'passphrase with "quotes" and \\ here',
    ],
    ids=["bearer", "jwt", "code", "setting"],
)
def test_secrets_are_struck_out(home: Path, monkeypatch: pytest.MonkeyPatch, message: str) -> None:
    """In messages, in errors with their tracebacks, and in values that came along."""
    monkeypatch.setenv("EXPIRYTRACK_PASSPHRASE", 'with "quotes" and \\ here')
    logs.begin(load_settings(), "test")
    error = ValueError(message)
    OURS.error("%s", message, exc_info=error, extra={"metrics": {"value": message}})
    written = (home / "logs" / logs.FILE).read_text(encoding="utf-8")
    for secret in ("abcdef", "eyJ0", "c2ln", "q1w2e3", "quotes"):
        assert secret not in written
    assert written.count(logs.STRUCK_OUT) >= 3
    (line,) = lines(home)
    assert "ValueError" in line["exception"]


def test_only_a_few_are_heard_below_a_warning(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of other libraries only warnings: what they say at debug level holds headers."""
    monkeypatch.setenv("EXPIRYTRACK_LOG_LEVEL", "DEBUG")
    logs.begin(load_settings(), "test")
    for name in ("hpack.hpack", "httpcore.http11", "alembic.runtime", "httpx", "dagster.daemon", OURS.name):
        logging.getLogger(name).debug("quiet")
        logging.getLogger(name).warning("loud")
    heard = {(line["logger"], line["message"]) for line in lines(home)}
    assert {name for name, message in heard if message == "quiet"} == {"httpx", "dagster.daemon", OURS.name}
    assert sum(message == "loud" for _, message in heard) == 6


def test_the_level_is_a_setting(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies below is not written; without a size, no file is."""
    monkeypatch.setenv("EXPIRYTRACK_LOG_LEVEL", "WARNING")
    logs.begin(load_settings(), "test")
    OURS.info("no")
    assert not (home / "logs").exists(), "nothing is made for nothing"
    OURS.warning("yes")
    assert [line["message"] for line in lines(home)] == ["yes"]
    monkeypatch.setenv("EXPIRYTRACK_LOG_MB", "0")
    logs.begin(load_settings(), "test")
    OURS.error("nowhere")
    assert len(lines(home)) == 1


def test_people_see_warnings_as_before(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line of text on standard error, and nothing below a warning; whoever shows its own is not shown twice."""
    logs.begin(load_settings(), "test")
    OURS.info("not for people")
    OURS.warning("the file %s is damaged", "x")
    shown = logging.getLogger("shown")
    shown.addHandler(handler := logging.NullHandler())
    shown.warning("twice")
    shown.removeHandler(handler)
    assert capsys.readouterr().err == "the file x is damaged\n"
    assert len(lines(home)) == 3


def test_a_line_that_cannot_be_written_is_lost_in_silence(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that cannot be made, or is gone, costs the line, not the caller, and shows people no traceback."""
    (home / "logs").write_text("a file in its place")
    logs.begin(load_settings(), "test")
    OURS.info("lost")
    (home / "logs").unlink()
    OURS.info("kept")
    shutil.rmtree(home / "logs")
    OURS.info("lost too")
    assert capsys.readouterr().err == ""
