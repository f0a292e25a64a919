"""Processes that `expirytrack ui` and `expirytrack demo` start, and their certain end.

A child is started in a session of its own, so that Ctrl-C reaches this process alone, which then ends every child and
grandchild. Which programs are started is decided in `cli.py`.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

import httpx
import psutil

from expirytrack_dagster.errors import ConfigurationError, ExpiryTrackError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

LOCATION = "expirytrack_dagster.definitions"
LOOPBACK = "127.0.0.1"
_EVERYWHERE = {"0.0.0.0", "::"}  # noqa: S104 -- to recognise them, not to listen there
_PATIENCE = 10.0
"""Seconds that a child gets to end by itself before it is killed."""


class Children:
    """Child processes with their logs; leaving the `with` block ends them and all that they started."""

    def __init__(self, logs: Path) -> None:
        """Write each child's output to `<logs>/<name>.log`."""
        self._logs = logs
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._files: list[IO[bytes]] = []

    def __enter__(self) -> Self:
        """Return the empty set of children."""
        self._logs.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *exc_info: object) -> None:
        """End every child and grandchild, politely first."""
        del exc_info
        family: list[psutil.Process] = []
        for child in self._running.values():
            try:
                parent = psutil.Process(child.pid)
                family += [*parent.children(recursive=True), parent]
            except psutil.NoSuchProcess:
                continue
        for process in family:
            _quietly(process.terminate)
        _, alive = psutil.wait_procs(family, timeout=_PATIENCE)
        for process in alive:
            _quietly(process.kill)
        psutil.wait_procs(alive, timeout=_PATIENCE)
        for child in self._running.values():
            with suppress(subprocess.TimeoutExpired):
                child.wait(timeout=_PATIENCE)
        for file in self._files:
            file.close()

    def start(self, name: str, *command: str) -> None:
        """Start a program with this process's environment."""
        log = (self._logs / f"{name}.log").open("wb")
        self._files.append(log)
        self._running[name] = subprocess.Popen(  # noqa: S603 -- the commands are this project's own
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )

    def wait_for(self, name: str, url: str, seconds: float = 120.0) -> None:
        """Return when the child answers at this address.

        Raises:
            ExpiryTrackError: it ended or did not answer in time; the sentence names its log.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.check()
            try:
                httpx.get(url, timeout=2.0, trust_env=False)
            except httpx.HTTPError:
                time.sleep(0.2)
            else:
                return
        raise ExpiryTrackError(f"The {name} did not answer within {seconds:.0f} s: see {self._logs / name}.log.")

    def check(self) -> None:
        """Raise when a child has ended by itself.

        Raises:
            ExpiryTrackError: the sentence names the child and its log.
        """
        for name, child in self._running.items():
            if child.poll() is not None:
                raise ExpiryTrackError(f"The {name} ended with code {child.returncode}: see {self._logs / name}.log.")


@contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, and both end it without a traceback.

    Ctrl-C is claimed too, because a shell without job control starts a program in the background with it ignored.
    """

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def require_free(port: int) -> None:
    """Refuse a port on which another program listens.

    Raises:
        ConfigurationError: the port is taken.
    """
    if not is_free(port):
        raise ConfigurationError(f"Port {port} is taken: choose another one with --port (or PORT=3001 for make).")


def start_ui(children: Children, port: int, host: str = LOOPBACK) -> str:
    """Start Dagster's webserver and daemon on the instance of DAGSTER_HOME; return the address when it answers.

    Args:
        children: who ends them.
        port: where the webserver listens.
        host: the address on which it does; Dagster asks nobody who they are.

    Raises:
        ConfigurationError: the port is taken.
        ExpiryTrackError: one of them ended or did not answer.
    """
    require_free(port)
    url = f"http://{LOOPBACK if host in _EVERYWHERE else f'[{host}]' if ':' in host else host}:{port}"
    children.start(
        "webserver", script("dagster-webserver"), "--host", host, "--port", str(port), "--module-name", LOCATION
    )
    children.start("daemon", sys.executable, "-m", "expirytrack_dagster.daemon", "run", "--module-name", LOCATION)
    children.wait_for("webserver", f"{url}/server_info")
    return url


def script(name: str) -> str:
    """Return the path of a program that is installed beside this Python."""
    suffix = ".exe" if os.name == "nt" else ""
    return str(Path(sysconfig.get_path("scripts")) / f"{name}{suffix}")


def this_program() -> tuple[str, ...]:
    """Return the command that runs `expirytrack` again."""
    return (sys.executable, "-m", "expirytrack_dagster")


def is_free(port: int) -> bool:
    """Say whether a server could listen on this port of the loopback address."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def free_port() -> int:
    """Return a port of the loopback address on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _quietly(end: Callable[[], None]) -> None:
    with suppress(psutil.NoSuchProcess):
        end()
