"""The command as a process of its own."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from expirytrack_dagster.commands.sandbox import sandbox
from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.sandbox.running import listen

PROGRAM = "import typer; from expirytrack_dagster.commands.sandbox import sandbox; typer.run(sandbox)"


@contextmanager
def started(*options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start the command and yield the process and its address; it is ended in any case."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            match = re.fullmatch(r"sandbox ready at (http://127\.0\.0\.1:\d+)\n", process.stdout.readline())
            assert match
            yield process, match[1]
        finally:
            process.kill()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot send these signals to one process")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_starts_serves_and_stops(number: signal.Signals) -> None:
    """It says where it is, serves as told by its options, and ends quietly with code 0."""
    options = (
        "--strikes",
        "1",
        "--today",
        "2025-09-01",
        "--token",
        "t",
        "--rate-limits",
        "2/60",
        "--latency",
        "0.01-0.02",
    )
    with (
        started(*options, "--switches", '{"retry_after": true}') as (process, url),
        httpx.Client(base_url=url) as client,
    ):
        client.headers["Authorization"] = "Bearer t"
        query = {"instrument_key": "NSE_INDEX|Nifty 50"}
        expiries = client.get("/v2/expired-instruments/expiries", params=query)
        assert expiries.json()["data"][-1] == "2025-08-28"
        query["expiry_date"] = "2025-08-28"
        assert len(client.get("/v2/expired-instruments/option/contract", params=query).json()["data"]) == 6
        assert int(client.get("/v2/user/profile").headers["retry-after"]) > 50
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, "", "")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"rate_limits": "fast"}, "--rate-limits"),
        ({"today": "yesterday"}, "--today"),
        ({"latency": "a-b"}, "--latency"),
        ({"switches": "no-such-file"}, "--switches"),
        ({"switches": '{"pluss": true}'}, "pluss"),
        ({"market": "recorded"}, "--folder"),
        ({"market": "recorded", "folder": "no-such-folder"}, "no-such-folder"),
    ],
)
def test_wrong_options(options: dict[str, str], sentence: str) -> None:
    """An option that cannot be used is named in the error, and nothing is served."""
    given = {key: Path(value) if key == "folder" else value for key, value in options.items()}
    with pytest.raises(ConfigurationError, match=sentence):
        sandbox(**given)  # type: ignore[arg-type]  # what is tested


def test_taken_port() -> None:
    """A port that is taken is named in the error."""
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=str(port)):
            sandbox(port=port)
