"""Processes that the commands `ui` and `demo` start: they serve, they end, and nothing of them stays behind."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest

from expirytrack_dagster import servers
from expirytrack_dagster.cli import main
from expirytrack_dagster.errors import ConfigurationError, ExpiryTrackError
from expirytrack_dagster.servers import Children, free_port, is_free, require_free, start_ui, stoppable, this_program
from expirytrack_dagster.warehouse.connection import Warehouse
from expirytrack_dagster.warehouse.derived import CELL_TABLES, CONTINUOUS

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE = 90.0
SLEEPER = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "


def environment(home: Path) -> dict[str, str]:
    """Return an environment with this home and no other setting of ours."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("EXPIRYTRACK_", "DAGSTER_"))}
    return kept | {"EXPIRYTRACK_HOME": str(home), "COLUMNS": "80"}


def family_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return the children and grandchildren of a process."""
    return psutil.Process(process.pid).children(recursive=True)


def gone(family: list[psutil.Process], seconds: float = 10.0) -> bool:
    """Say whether all of them have ended."""
    return not psutil.wait_procs(family, timeout=seconds)[1]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot send these signals to one process")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_the_ui_serves_and_ends_with_all_its_children(home: Path, number: signal.Signals) -> None:
    """The address that is printed answers; the signal ends it with code 0, and no process of its family lives on."""
    port = free_port()
    process = subprocess.Popen(
        [*this_program(), "ui", "--port", str(port)],
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    family: list[psutil.Process] = []
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        lines = [process.stdout.readline(), process.stdout.readline()]
        assert lines[1], process.stderr.read()
        assert lines[1] == f"Dagster UI: http://127.0.0.1:{port}  (Ctrl-C ends it)\n"
        assert "dagster_version" in httpx.get(f"http://127.0.0.1:{port}/server_info", timeout=10).json()
        family = family_of(process)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (0, "", "")
        assert len(family) >= 3
        assert gone(family)
        assert is_free(port)
    finally:
        killed(process, family)


def killed(process: subprocess.Popen[str], family: list[psutil.Process]) -> None:
    """Leave nothing running, whatever a test has found."""
    if process.poll() is None:
        family = [*family, *family_of(process)]
        process.kill()
        process.communicate()
    for member in family:
        if member.is_running():
            member.kill()


def test_the_demo_collects_once(home: Path) -> None:
    """The first run ends with four complete cells, one of them derived; the second asks and makes nothing anew."""
    counts, cells, derived = [], [], []
    for _ in range(2):
        done = subprocess.run(
            [*this_program(), "demo", "--no-ui"],
            env=environment(home),
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "4 of 4 cells complete" in done.stdout
        assert "FAIL" not in done.stdout
        assert max(map(len, done.stdout.splitlines()[1:])) <= 80
        with closing(sqlite3.connect(home / "state.sqlite")) as state:
            counts += state.execute("SELECT count(*) FROM requests").fetchone()
        with Warehouse(home / "expirytrack.duckdb").reading() as connection:
            cells.append(connection.execute("SELECT underlying, expiry, count(*) FROM candles GROUP BY ALL").fetchall())
            derived.append(connection.execute("SELECT asset, derived_at FROM derived_cells ORDER BY ALL").fetchall())
    assert counts[0] > 0
    assert counts[1] == counts[0]
    assert len(cells[0]) == 4
    assert sorted(cells[0]) == sorted(cells[1])
    assert [asset for asset, _ in derived[0]] == sorted([*CELL_TABLES, CONTINUOUS])
    assert derived[1] == derived[0]
    assert not [process for process in psutil.process_iter(["environ"]) if _lives_in(process, home)]


def _lives_in(process: psutil.Process, home: Path) -> bool:
    environ = process.info["environ"] or {}
    return bool(environ.get("EXPIRYTRACK_HOME") == str(home)) and process.pid != os.getpid()


class Noted(Children):
    """Starts nothing, and keeps what would have been."""

    def start(self, name: str, *command: str) -> None:
        """Keep the command."""
        self.commands = {**getattr(self, "commands", {}), name: command}

    def wait_for(self, name: str, url: str, seconds: float = 120.0) -> None:
        """Keep the address."""
        del name, seconds
        self.url = url


@pytest.mark.parametrize(
    ("host", "address"),
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::", "127.0.0.1"), ("::1", "[::1]"), ("10.0.0.5",) * 2],  # noqa: S104 -- nothing listens
)
def test_the_ui_listens_where_it_is_told(tmp_path: Path, host: str, address: str) -> None:
    """On the loopback address unless told; the address that is asked is one that a person can open."""
    children = Noted(tmp_path / "logs")
    port = free_port()
    assert start_ui(children, port, host) == f"http://{address}:{port}"
    command = children.commands["webserver"]
    assert command[command.index("--host") + 1] == host
    assert children.url == f"http://{address}:{port}/server_info"
    start_ui(children, port)
    assert "127.0.0.1" in children.commands["webserver"]


@pytest.mark.parametrize(
    ("host", "warned"),
    [("127.0.0.1", False), ("localhost", False), ("::1", False), ("0.0.0.0", True), ("10.0.0.5", True), ("box", True)],  # noqa: S104 -- nothing listens
)
def test_an_open_ui_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], host: str, *, warned: bool
) -> None:
    """Before it starts: there is no authentication, and what to do about it."""

    def enough(*_: object) -> str:
        raise ExpiryTrackError("enough")

    monkeypatch.setattr(servers, "start_ui", enough)
    monkeypatch.setattr(sys, "argv", ["expirytrack", "ui", "--host", host, "--port", str(free_port())])
    with pytest.raises(SystemExit):
        main()
    assert ("Dagster's UI asks nobody who they are" in capsys.readouterr().err) is warned


def test_children_end_with_the_block(tmp_path: Path) -> None:
    """Leaving the block ends a child and what it started, and the log holds what it printed."""
    others = set(psutil.Process().children(recursive=True))  # servers that other tests share
    with Children(tmp_path / "logs") as children:
        children.start("sleeper", sys.executable, "-c", f"{SLEEPER}print('up', flush=True); time.sleep(600)")
        log = tmp_path / "logs" / "sleeper.log"
        deadline = time.monotonic() + 30
        while log.read_text() != "up\n":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        children.check()
        family = [child for child in psutil.Process().children(recursive=True) if child not in others]
        assert len(family) >= 2
    assert gone(family)


def test_a_child_that_ends_by_itself_is_told(tmp_path: Path) -> None:
    """A program that cannot start is named with its code and its log, at once instead of after the patience."""
    with Children(tmp_path / "logs") as children:
        children.start("webserver", sys.executable, "-c", "raise SystemExit(7)")
        with pytest.raises(ExpiryTrackError, match=r"The webserver ended with code 7: see .*webserver\.log\.$"):
            children.wait_for("webserver", f"http://127.0.0.1:{free_port()}", seconds=PATIENCE)


def test_a_child_that_never_answers_is_told(tmp_path: Path) -> None:
    """After the patience the sentence names the log."""
    with Children(tmp_path / "logs") as children:
        children.start("webserver", sys.executable, "-c", "import time; time.sleep(600)")
        with pytest.raises(ExpiryTrackError, match=r"The webserver did not answer within 1 s: see .*webserver\.log\.$"):
            children.wait_for("webserver", f"http://127.0.0.1:{free_port()}", seconds=1.0)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot send these signals to one process")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_the_block_quietly(number: signal.Signals) -> None:
    """Either signal ends the block without an error, also where Ctrl-C was ignored; the handlers are put back."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    survived = []
    try:
        with stoppable():
            os.kill(os.getpid(), number)
            time.sleep(5)
            survived.append(number)
        assert not survived
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_free_port_can_be_had_and_a_taken_one_not() -> None:
    """A port that nobody listens on passes; one with a listener is refused with its number."""
    port = free_port()
    assert is_free(port)
    require_free(port)
    with socket.create_server(("127.0.0.1", port)), pytest.raises(ConfigurationError, match=f"Port {port} is taken"):
        require_free(port)
