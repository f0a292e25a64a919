"""Real processes beside the test: each says when it has come to the point, and then stays there until it is ended."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Start(Protocol):
    """Starts a program of Python with arguments."""

    def __call__(self, code: str, *arguments: str | Path, ready: bool = True) -> subprocess.Popen[str]:
        """Start it and, if `ready`, wait for its first line; closing its standard input may tell it to go on."""


@pytest.fixture
def start() -> Iterator[Start]:
    """Return a function that starts a process; what still runs at the end of the test is killed."""
    started: list[subprocess.Popen[str]] = []

    def run(code: str, *arguments: str | Path, ready: bool = True) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code, *map(str, arguments)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        if ready:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
