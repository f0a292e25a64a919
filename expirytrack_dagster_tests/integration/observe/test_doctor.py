"""Each line of `doctor`, made to fail for real; and what it costs, changes and holds up: a request, nothing, nobody."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from dagster._daemon.types import DaemonHeartbeat
from typer.testing import CliRunner

from expirytrack_dagster.cli import app
from expirytrack_dagster.collect import tracking
from expirytrack_dagster.instance import open_instance
from expirytrack_dagster.instance_health import instance_lines
from expirytrack_dagster.observe import doctor
from expirytrack_dagster.observe.doctor_api import visit
from expirytrack_dagster.sandbox.running import running
from expirytrack_dagster.sandbox.switches import Fault
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket
from expirytrack_dagster.security.vault import open_vault
from expirytrack_dagster.settings import load_settings
from expirytrack_dagster.state import open_state
from expirytrack_dagster.upstox.calls import Call, Receipt
from expirytrack_dagster.upstox.ledger import open_ledger
from expirytrack_dagster.warehouse.connection import Warehouse
from expirytrack_dagster_tests.integration.observe.conftest import closed_port
from expirytrack_dagster_tests.statements import sql

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from expirytrack_dagster.observe.doctor import Line
    from expirytrack_dagster.sandbox.running import Running

NOW = datetime(2025, 9, 1, 6, 30, tzinfo=UTC)


def verdicts(lines: Iterable[Line]) -> dict[str, str]:
    """Return the verdict of each line by its name."""
    return {line.name: line.verdict for line in lines}


def only(lines: Iterable[Line], verdict: str, words: str = "") -> Line:
    """Return the one line, which has this verdict and says this; what is not well says how to mend it."""
    (line,) = lines
    assert line.verdict == verdict, line
    assert words in line.found
    assert (line.mend is None) == (verdict == "ok")
    return line


@pytest.fixture
def upstox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """Serve a local Upstox and hold a token for it."""
    with running(SyntheticMarket(strikes=1, days=1), limits=()) as served:
        monkeypatch.setenv("EXPIRYTRACK_API_URL", served.url)
        monkeypatch.setenv("EXPIRYTRACK_ACCESS_TOKEN", "a-token")
        yield served


@contextmanager
def answering(status: int, body: bytes, **headers: str) -> Iterator[str]:
    """Serve one answer to everything."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Be quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_python_and_versions() -> None:
    """An old interpreter, a missing package and one of another version are failures."""
    only(doctor.python(), "ok")
    only(doctor.python((3, 10, 4)), "fail", "Python 3.10.4")
    only(doctor.python((3, 14, 0)), "fail")
    only(doctor.versions(), "ok", "duckdb")
    line = only(doctor.versions(["no-such-package", "duckdb==1.0", "pandas>=2", "x; extra == 'dev'"]), "fail")
    assert "no-such-package is missing, duckdb 1.5.5 is not ==1.0." in line.found


def test_extensions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the wheel, an encrypted archive fails and a plain one is warned."""
    only(doctor.extensions(load_settings()), "ok")
    monkeypatch.setitem(sys.modules, "duckdb_extension_httpfs", None)
    only(doctor.extensions(load_settings()), "warn", "does not load")
    only(doctor.extensions(load_settings(encryption=True)), "fail")


def test_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little room is a warning, next to none a failure."""
    settings = load_settings()
    only(doctor.disk(settings, 6_000_000_000), "ok", "6.0 GB")
    only(doctor.disk(settings, 4_000_000_000), "warn", "Alerts begin below 5 GB")
    only(doctor.disk(settings, 100_000_000), "fail")
    monkeypatch.setenv("EXPIRYTRACK_ALERT_DISK_GB", "1000000")
    only(doctor.disk(load_settings()), "warn")


def test_permissions(home: Path) -> None:
    """No home, an open file, and a home that cannot be written."""
    settings = load_settings()
    only(doctor.permissions(settings), "warn", "There is no home")
    home.mkdir(mode=0o700)
    only(doctor.permissions(settings), "ok")
    if sys.platform != "win32":
        (home / "state.sqlite").touch()
        (home / "state.sqlite").chmod(0o644)
        only(doctor.permissions(settings), "warn", "Other users may read state.sqlite")
    if Path("/proc/self").exists():  # where nobody may make a file, not even root
        only(doctor.permissions(settings.model_copy(update={"home": Path("/proc/self")})), "fail", "cannot be written")


def test_the_vault(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """No keyring, old keys, a wrong passphrase, and a damaged file."""
    only(doctor.vault(load_settings(), NOW), "warn", "no keyring")
    monkeypatch.setenv("EXPIRYTRACK_PASSPHRASE", "the right one")
    only(doctor.vault(load_settings(), NOW), "ok", "from the passphrase")
    open_vault(load_settings()).put("name", b"value")
    only(doctor.vault(load_settings(), datetime.now(tz=UTC)), "ok", "opens")
    later = datetime.now(tz=UTC) + timedelta(days=91)
    only(doctor.vault(load_settings(), later), "warn", "91 days old")
    monkeypatch.setenv("EXPIRYTRACK_PASSPHRASE", "another one")
    only(doctor.isolated("keyring", lambda: doctor.vault(load_settings(), NOW)), "fail", "does not open")
    (home / "vault.bin").write_bytes(b"nothing")
    only(doctor.isolated("keyring", lambda: doctor.vault(load_settings(), NOW)), "fail", "not a vault")


def test_a_damaged_state_database_is_told_and_not_touched(home: Path, upstox: Running) -> None:
    """Nothing opens it for writing, which would replace it; and nothing is asked, because nobody could count that."""
    settings = load_settings()
    only(doctor.state_database(settings), "ok", "no state.sqlite")
    tracking.track(open_state(settings), "NIFTY", "NSE_INDEX|Nifty 50")
    only(doctor.state_database(settings), "ok", "sound")
    open_state(settings).close()
    with sqlite3.connect(settings.state_address.path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    content = settings.state_address.path.read_bytes()
    damaged = content[:4096] + b"\xff" * (len(content) - 4096)
    settings.state_address.path.write_bytes(damaged)
    only(doctor.state_database(settings), "fail", "is damaged")
    lines = [line for found in doctor.look_around(settings) for line in found]
    assert verdicts(lines)["limits"] == "fail"
    visited = visit(settings)
    assert verdicts(visited.lines)["reachability"] == "fail"
    assert visited.requests == 0
    assert upstox.requests() == []
    assert settings.state_address.path.read_bytes() == damaged
    assert not list(home.glob("*.damaged-*"))


def test_the_archive(pristine_archive: Path) -> None:
    """Sound, with rows missing, no database at all, and held by another process: that is a line within two seconds."""
    settings = load_settings()
    only(doctor.archive(settings), "ok", "no expirytrack.duckdb")
    settings.home.mkdir()
    shutil.copy(pristine_archive, settings.database)
    only(doctor.archive(settings), "ok", "120 candles")
    holder = (
        "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read(); c.close()"
    )
    command = [sys.executable, "-c", holder, str(settings.database)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        began = time.monotonic()
        only(doctor.isolated("archive", lambda: doctor.archive(settings)), "warn", "In use just now")
        assert time.monotonic() - began < 2
        process.communicate(b"")
    with Warehouse(settings.database).writing() as connection:
        connection.execute("DELETE FROM candles WHERE ts = (SELECT min(ts) FROM candles)")
    only(doctor.archive(settings), "fail", "holds 118 candles and records 120")
    settings.database.write_bytes(b"x" * 100_000)
    only(doctor.isolated("archive", lambda: doctor.archive(settings)), "fail", "damaged")


def test_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full window, a pause, and an open breaker hold requests back."""
    only(doctor.rate_ledger(load_settings()), "ok", "Nothing was asked")
    monkeypatch.setenv("EXPIRYTRACK_RATE_LIMITS", "2/1800")
    ledger = open_ledger(load_settings())
    taken = ledger.acquire(Call("profile"))
    assert isinstance(taken, int)
    only(doctor.rate_ledger(load_settings()), "ok", "1 requests are left")
    ledger.settle(taken, Receipt("ok", time.time(), 200))
    ledger.acquire(Call("profile"))
    only(doctor.rate_ledger(load_settings()), "warn", "full")
    ledger.cool_down("account", 60, "Upstox answered 429")
    only(doctor.rate_ledger(load_settings()), "warn", "Upstox answered 429")
    monkeypatch.setenv("EXPIRYTRACK_BREAKER_FAILURES", "1")
    ledger = open_ledger(load_settings())
    ledger.settle(taken, Receipt("http_error", time.time(), 503))
    only(doctor.rate_ledger(load_settings()), "warn", "keep failing")


def test_all_is_well_for_one_request(upstox: Running) -> None:
    """Token, plan, clock and reachability are told by one request, which is in the ledger."""
    visited = visit(load_settings())
    assert set(verdicts(visited.lines).values()) == {"ok"}
    assert visited.requests == 1
    assert len(upstox.requests()) == 1
    ((endpoint, outcome),) = open_state(load_settings()).query(sql("SELECT endpoint, outcome FROM requests"))
    assert (endpoint, outcome) == ("expiries", "ok")


def test_without_a_token_the_time_is_told_all_the_same(upstox: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal of nobody is no refused token: automation does not rest for it; the exit code is 4."""
    monkeypatch.delenv("EXPIRYTRACK_ACCESS_TOKEN")
    visited = visit(load_settings())
    assert verdicts(visited.lines) == {"reachability": "ok", "clock": "ok", "token": "fail", "plan": "warn"}
    assert doctor.exit_code(visited.lines) == 4
    assert len(upstox.requests()) == 1
    assert open_ledger(load_settings()).refused_at() is None


def test_token_plan_and_outage(upstox: Running) -> None:
    """What the API refuses is told as what it is: 4 for token and plan, 1 for an outage."""
    upstox.switch(faults=(Fault(401),))
    refused = visit(load_settings()).lines
    assert verdicts(refused) == {"reachability": "ok", "clock": "ok", "token": "fail", "plan": "warn"}
    upstox.switch(faults=(), plus=False)
    unpaid = visit(load_settings()).lines
    assert verdicts(unpaid) == {"reachability": "ok", "clock": "ok", "token": "ok", "plan": "fail"}
    assert doctor.exit_code(refused) == doctor.exit_code(unpaid) == 4
    upstox.switch(plus=True, faults=(Fault(503),))
    down = visit(load_settings()).lines
    assert verdicts(down)["reachability"] == "fail"
    assert doctor.exit_code(down) == 1


@pytest.mark.parametrize(("seconds", "verdict"), [(2, "ok"), (30, "warn"), (-30, "warn"), (3600, "fail")])
def test_a_clock_that_is_wrong(monkeypatch: pytest.MonkeyPatch, seconds: int, verdict: str) -> None:
    """Held against the Date of the API's answer, on both sides."""
    date = format_datetime(datetime.now(tz=UTC) + timedelta(seconds=seconds), usegmt=True)
    with answering(200, b'{"status": "success", "data": []}', Date=date) as url:
        monkeypatch.setenv("EXPIRYTRACK_API_URL", url)
        monkeypatch.setenv("EXPIRYTRACK_ACCESS_TOKEN", "a-token")
        line = next(line for line in visit(load_settings()).lines if line.name == "clock")
    assert line.verdict == verdict
    assert verdict == "ok" or ("behind" if seconds > 0 else "ahead of") in line.found


def test_an_api_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody there, a page instead of an answer, and an answer without a Date; nothing is tried twice."""
    monkeypatch.setenv("EXPIRYTRACK_ACCESS_TOKEN", "a-token")
    monkeypatch.setenv("EXPIRYTRACK_API_URL", f"http://127.0.0.1:{closed_port()}")
    away = visit(load_settings())
    assert verdicts(away.lines) == {"reachability": "fail", "clock": "warn", "token": "ok", "plan": "warn"}
    assert away.requests == 1
    for body in (b"<html>Sign in to this network</html>", b'{"status": "success", "data": 7}'):
        with answering(200, body) as url:
            monkeypatch.setenv("EXPIRYTRACK_API_URL", url)
            assert verdicts(visit(load_settings()).lines)["reachability"] == "fail"
    with answering(200, b'{"status": "success", "data": []}') as url:
        monkeypatch.setenv("EXPIRYTRACK_API_URL", url)
        assert verdicts(visit(load_settings()).lines) == {
            "reachability": "ok",
            "clock": "warn",
            "token": "ok",
            "plan": "ok",
        }


def test_full_limits_are_not_waited_for(upstox: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no slot, nothing is sent, and that is a line."""
    monkeypatch.setenv("EXPIRYTRACK_RATE_LIMITS", "1/1800")
    open_ledger(load_settings()).acquire(Call("profile"))
    visited = visit(load_settings())
    assert verdicts(visited.lines) == {"reachability": "warn", "clock": "warn", "token": "ok", "plan": "warn"}
    assert visited.requests == 0
    assert upstox.requests() == []


def test_dagster_and_its_daemon(home: Path) -> None:
    """No instance, no daemon, one that has ended, one at work, and records that cannot be read."""
    settings = load_settings()
    assert verdicts(instance_lines(settings, 0)) == {"dagster": "ok", "daemon": "warn"}
    assert not home.exists()
    with open_instance(settings) as instance:
        assert verdicts(instance_lines(settings, 0)) == {"dagster": "ok", "daemon": "warn"}
        now = time.time()
        instance.add_daemon_heartbeat(DaemonHeartbeat(now - 3600, "SENSOR", "an-id", []))
        gone = {line.name: line for line in instance_lines(settings, now)}["daemon"]
        assert "60 minutes ago" in gone.found
        assert gone.verdict == "warn"
        wanted = settings.model_copy(update={"automatic": True})
        assert verdicts(instance_lines(wanted, now))["daemon"] == "fail"
        instance.add_daemon_heartbeat(DaemonHeartbeat(now - 20, "SENSOR", "an-id", []))
        assert verdicts(instance_lines(wanted, now)) == {"dagster": "ok", "daemon": "ok"}
    (settings.dagster_home / "dagster.yaml").write_text("storage: [", encoding="utf-8")
    assert verdicts(instance_lines(settings, now)) == {"dagster": "fail"}


def test_a_check_that_throws_is_a_line() -> None:
    """The others go on, and no traceback is shown."""

    def broken() -> list[Line]:
        raise ZeroDivisionError("not\nthis")

    line = only(doctor.isolated("disk", broken), "fail", "The check itself failed: ZeroDivisionError: not this")
    assert line.name == "disk"


def test_the_command(upstox: Running, home: Path) -> None:
    """Lines for people, the same as JSON, with the number of requests and the exit code."""
    shown = CliRunner().invoke(app, ["doctor"])
    assert shown.exit_code == 0, shown.output
    assert "ok   reachability:" in shown.output
    assert "warn permissions:  There is no home" in shown.output
    assert "Run: expirytrack init" in shown.output
    assert shown.output.endswith("0 fail. Requests to the API: 1.\n")
    report = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).output)
    assert (report["healthy"], report["requests"]) == (True, 1)
    assert [check["name"] for check in report["checks"]] == [
        *("python", "versions", "extensions", "disk", "permissions", "keyring", "state", "archive", "limits"),
        *("reachability", "clock", "token", "plan", "dagster", "daemon"),
    ]
    upstox.switch(plus=False)
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 4
    made = {path.name for path in home.iterdir() if not path.name.startswith("state")}
    assert made == {"logs"}  # the line of each request
