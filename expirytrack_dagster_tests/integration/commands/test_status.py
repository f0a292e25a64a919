"""`expirytrack status` beside a collection: in a terminal, as JSON, and where there is no terminal."""

from __future__ import annotations

import io
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console
from rich.text import Text

from expirytrack_dagster.sandbox.running import running
from expirytrack_dagster.sandbox.switches import Fault, Switches
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket
from expirytrack_dagster.servers import this_program

if TYPE_CHECKING:
    from collections.abc import Iterator

IMAGES = os.environ.get("UI_IMAGES", "")
MARKET = SyntheticMarket(strikes=8, days=1, today=date(2025, 9, 10))
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
SHOW, HIDE, ENTER, LEAVE = "\x1b[?25h", "\x1b[?25l", "\x1b[?1049h", "\x1b[?1049l"


def environment(home: Path, **settings: str) -> dict[str, str]:
    """Return the environment of a process with these settings and no others of ours."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("EXPIRYTRACK_", "DAGSTER_"))}
    ours = {"home": str(home), "access_token": "x", **settings}
    return kept | {f"EXPIRYTRACK_{name.upper()}": value for name, value in ours.items()} | {"TERM": "xterm-256color"}


@dataclass
class Terminal:
    """A program in a terminal, and all that it wrote."""

    process: subprocess.Popen[bytes]
    screen: int
    raw: bytes = b""

    @property
    def written(self) -> str:
        """Everything that it wrote."""
        return self.raw.decode(errors="ignore")  # the last character may have come in half

    def read_until(self, pattern: str, seconds: float = 60.0) -> re.Match[str]:
        """Return the first match in what is written from now on."""
        begin, deadline = len(self.written), time.monotonic() + seconds
        while True:
            found = re.search(pattern, ESCAPE.sub("", self.written[begin:]))
            if found:
                return found
            ready, _, _ = select.select([self.screen], [], [], max(0.0, deadline - time.monotonic()))
            late = not ready or time.monotonic() > deadline
            assert not late, f"{pattern} was not written; the last was:\n{ESCAPE.sub('', self.written)[-3000:]}"
            self.raw += os.read(self.screen, 65_536)

    def frame(self) -> str:
        """Return the last whole picture, with its colours."""
        return self.written.split("\x1b[H")[-2]

    def end(self) -> int:
        """Send what Ctrl-C sends, read the rest and return the exit code."""
        self.process.send_signal(signal.SIGINT)
        while True:
            try:
                rest = os.read(self.screen, 65_536)
            except OSError:  # the other end is closed
                break
            if not rest:
                break
            self.raw += rest
        return self.process.wait(timeout=30)


@pytest.fixture
def in_terminal() -> Iterator[Any]:
    """Return a function that starts `expirytrack WORDS` in a terminal of its own."""
    if sys.platform == "win32":
        pytest.skip("Windows has no pseudo-terminals of this kind")
    import fcntl  # noqa: PLC0415 -- as above
    import pty  # noqa: PLC0415
    import struct  # noqa: PLC0415
    import termios  # noqa: PLC0415

    started: list[Terminal] = []

    def start(env: dict[str, str], *words: str, columns: int = 80, rows: int = 24) -> Terminal:
        screen, inside = pty.openpty()
        fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        process = subprocess.Popen(
            [*this_program(), *words],
            env=env,
            stdin=inside,
            stdout=inside,
            stderr=inside,
        )
        os.close(inside)
        started.append(Terminal(process, screen))
        return started[-1]

    yield start
    for terminal in started:
        if terminal.process.poll() is None:
            terminal.process.kill()
            terminal.process.wait()
        os.close(terminal.screen)


def quietly(env: dict[str, str], *words: str) -> subprocess.Popen[bytes]:
    """Start `expirytrack WORDS` without anybody who reads what it says."""
    return subprocess.Popen([*this_program(), *words], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_watching_a_collection(in_terminal: Any, home: Path) -> None:
    """The cell of another process is seen, moves, and ends; Ctrl-C ends the watching with 0, the screen as before."""
    with running(MARKET, switches=Switches(delay_after=(0.3, 0.3))) as upstox:
        env = environment(home, api_url=upstox.url, workers="1")
        words = ("collect", "NIFTY", "--expiry", "2025-08-28")
        with quietly(env, *words) as collecting:
            terminal = in_terminal(env | {"NO_COLOR": "1"}, "status", "--watch")
            first = int(terminal.read_until(r"NIFTY 2025-08-28 +[━─]+ +(\d+)/\d+")[1])
            cell = terminal.read_until(rf"NIFTY 2025-08-28 +[━─]+ +(?!{first}/)(\d+)/\d+ .*left")
            assert int(cell[1]) > first
            upstox.switch(delay_after=(0.0, 0.0))
            terminal.read_until(r"NIFTY +50 +1 ")
            terminal.read_until("nothing just now")
            assert collecting.wait(timeout=60) == 0
    assert terminal.end() == 0
    assert "Traceback" not in terminal.written
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", terminal.written), "NO_COLOR"
    assert terminal.written.index(ENTER) < terminal.written.rindex(LEAVE)
    assert terminal.written.rindex(HIDE) < terminal.written.rindex(SHOW)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot send Ctrl-C to one process")
def test_watching_as_json(home: Path) -> None:
    """One document a line, each second, with the keys of `status --json`; Ctrl-C ends it with 0."""
    process = subprocess.Popen(
        [*this_program(), "status", "--watch", "--json"],
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    first, second = (json.loads(process.stdout.readline()) for _ in range(2))
    assert first.keys() == second.keys()
    assert first["at"] < second["at"]
    assert first["running"] == []
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")


def test_no_terminal(home: Path) -> None:
    """Where nothing can be drawn, the sentence says what can be done instead; exit code 2."""
    done = subprocess.run(
        [*this_program(), "status", "--watch"], env=environment(home), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "--json" in done.stderr


@pytest.mark.skipif(not IMAGES, reason="only `make images` renews the picture of the docs")
def test_the_picture_of_the_docs(in_terminal: Any) -> None:
    """Two processes collect from an API that fails now and then; the picture is what the terminal shows."""
    market = SyntheticMarket(strikes=60, days=2, today=date(2025, 9, 10))
    columns, rows = 92, 28
    home = Path(tempfile.mkdtemp())
    with running(market, switches=Switches(delay_after=(0.05, 0.3))) as upstox:
        env = environment(home, api_url=upstox.url, workers="5") | {"COLORTERM": "truecolor"}
        token = {name: value for name, value in env.items() if name != "EXPIRYTRACK_ACCESS_TOKEN"}
        login = [*this_program(), "login", "--paste"]
        subprocess.run(login, env=token, input="token-of-the-day", text=True, check=True, capture_output=True)
        first = [*this_program(), "collect", "NIFTY", "--expiry", "2025-09-02"]
        subprocess.run(first, env=token, check=True, capture_output=True)
        upstox.switch(faults=(Fault(503, endpoints=("candles",), times=3),))
        terminal = in_terminal(token, "status", "--watch", columns=columns, rows=rows)
        with (
            quietly(token, "collect", "NIFTY", "--expiry", "2025-08-28") as nifty,
            quietly(token, "collect", "SENSEX", "--expiry", "2025-09-04") as sensex,
        ):
            terminal.read_until(r"SENSEX 2025-09-04 +[━─]+ +[6-9]\d/")
            terminal.read_until("ExpiryTrack")
            frame = terminal.frame()
            for process in (nifty, sensex):
                process.send_signal(signal.SIGINT)
    assert terminal.end() == 0
    shown = Console(record=True, width=columns, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    text = Text.from_ansi(frame.replace("\r", ""))
    text.plain = text.plain.replace(str(home).ljust(20), "~/expirytrack".ljust(max(20, len(str(home)))))
    shown.print(text, end="", no_wrap=True, crop=False)
    drawn = shown.export_svg(title="expirytrack status --watch")
    local = re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL)  # a picture that asks no other host for fonts
    (Path(IMAGES) / "dashboard.svg").write_text(local, encoding="utf-8")
