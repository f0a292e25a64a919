"""No secret leaves the vault and the request: everything that is written, printed or listed is searched for them.

A login, good runs, runs at debug level and by Dagster's own command line, runs that fail in every way, a backup: then
each file of the home (raw, and what its tables hold, unpacked), each output, and each command line of our processes.
"""

from __future__ import annotations

import base64
import os
import re
import sqlite3
import subprocess
import sys
import threading
import time
import zlib
from contextlib import closing, suppress
from datetime import date
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, parse_qsl, quote, urlsplit

import httpx
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from expirytrack_dagster.cli import app
from expirytrack_dagster.sandbox.running import running
from expirytrack_dagster.sandbox.switches import App as SandboxApp
from expirytrack_dagster.sandbox.switches import Fault
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket
from expirytrack_dagster.security.access import OURS
from expirytrack_dagster.servers import free_port, script
from expirytrack_dagster.settings import load_settings
from expirytrack_dagster.upstox.auth import get_valid_token
from expirytrack_dagster.warehouse.connection import open_warehouse

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from expirytrack_dagster.sandbox.running import Running

MARKET = SyntheticMarket(strikes=2, days=1, today=date(2025, 9, 1))
PASTED = "eyJ0eXAiOiJKV1QifQ.pasted-token-of-the-day.Zm9v"
CLIENT_SECRET = "client-secret-5f1e77"
PASSPHRASE = "passphrase-correct-horse-91"
CELL = ("collect", "NIFTY", "--expiry", "2025-08-21")
# An error that nobody foresaw, in the midst of a request: what Dagster keeps of it is everything that it can get.
UNFORESEEN = """
import httpx, sys
async def send(self, request, **options):
    raise RuntimeError(f"unforeseen, at {request!r} {request.headers!r} {self!r}")
httpx.AsyncClient.send = send
from expirytrack_dagster.cli import main
main()
"""


class Watch:
    """Runs programs, keeps what they print, and who was in the list of processes meanwhile."""

    def __init__(self, home: Path, upstox: Running) -> None:
        """Use this home and this API."""
        self.environment = os.environ | {
            "EXPIRYTRACK_HOME": str(home),
            "EXPIRYTRACK_API_URL": upstox.url,
            "EXPIRYTRACK_PASSPHRASE": PASSPHRASE,
            "EXPIRYTRACK_CLIENT_ID": SandboxApp().client_id,
            "EXPIRYTRACK_CLIENT_SECRET": CLIENT_SECRET,
            "EXPIRYTRACK_REDIRECT_URI": f"http://127.0.0.1:{free_port()}/callback",
            "EXPIRYTRACK_MAX_RETRIES": "0",
            "DAGSTER_HOME": str(home / "dagster"),
        }
        self.printed: dict[str, str] = {}
        self.last = ""
        self.listed: set[str] = set()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        """Begin to look at the list of processes."""
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """End looking."""
        self._done.set()
        self._thread.join()

    def run(self, *words: str, program: tuple[str, ...] = ("-m", "expirytrack_dagster"), **settings: str) -> int:
        """Run a command to its end; settings are named without their prefix."""
        return self._ended(" ".join(words), self._start(*program, *words, **settings))

    def dagster(self, *words: str, **settings: str) -> int:
        """Run Dagster's own command line."""
        program = subprocess.Popen(
            [script("dagster"), *words],
            env=self._with(settings),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return self._ended("dagster " + " ".join(words), program)

    def log_in(self) -> str:
        """Log in by the printed address, as a browser does, and return the code that the callback carried."""
        process = self._start("-m", "expirytrack_dagster", "login", "--no-browser")
        assert process.stdout is not None
        shown = ""
        while (address := re.search(r"http://127\.0\.0\.1\S+", shown)) is None:
            line = process.stdout.readline()
            assert line, shown
            shown += line
        page = httpx.get(address[0], follow_redirects=True)
        form = dict(parse_qsl(urlsplit(str(page.url)).query)) | {"press": "approve"}
        callback = httpx.post(str(page.url.copy_with(path="/_sandbox/login", query=None)), data=form).headers[
            "location"
        ]
        httpx.get(callback)
        assert self._ended("login", process) == 0
        self.printed["login"] += shown
        return parse_qs(urlsplit(callback).query)["code"][0]

    def _start(self, *words: str, **settings: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *words],
            env=self._with(settings),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def _with(self, settings: dict[str, str]) -> dict[str, str]:
        return self.environment | {f"EXPIRYTRACK_{name.upper()}": value for name, value in settings.items()}

    def _ended(self, name: str, process: subprocess.Popen[str]) -> int:
        printed, _ = process.communicate(timeout=200)
        self.last = f"{name}\n{printed}"
        self.printed[f"{len(self.printed)} {name}" if name != "login" else name] = printed
        return process.returncode

    def _look(self) -> None:
        me = psutil.Process()
        while not self._done.is_set():
            for process in me.children(recursive=True):
                with suppress(psutil.Error):
                    self.listed.add(" ".join(process.cmdline()))
            time.sleep(0.02)


def unpacked(value: Any) -> Iterator[bytes]:
    """Yield a value of a table as bytes, and what it holds when it is compressed."""
    raw = value.encode() if isinstance(value, str) else value
    if not isinstance(raw, bytes):
        return
    yield raw
    with suppress(zlib.error):
        yield zlib.decompress(raw)
    if raw[:4] == b"\x28\xb5\x2f\xfd":
        with pa.CompressedInputStream(pa.BufferReader(raw), "zstd") as stream:
            yield stream.read()


def held(home: Path) -> Iterator[tuple[str, bytes]]:
    """Yield all that is below a home, file by file and value by value, with its place."""
    for path in sorted(home.rglob("*")):
        if not path.is_file():
            continue
        place = str(path.relative_to(home))
        yield place, path.name.encode()
        yield place, path.read_bytes()
        if path.suffix in {".db", ".sqlite"}:
            yield from ((place, value) for value in of_sqlite(path))
        elif path.suffix == ".parquet":
            yield place, repr(pq.read_table(path).to_pydict()).encode()
    with open_warehouse(load_settings(home=home)).reading() as connection:
        for (name,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall():
            rows = connection.execute(f'SELECT DISTINCT * FROM "{name}"').fetchmany(20_000)  # noqa: S608 -- our own tables
            yield f"table {name}", repr(rows).encode()


def of_sqlite(path: Path) -> Iterator[bytes]:
    """Yield every value of every table of a database."""
    with closing(sqlite3.connect(path)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for row in connection.execute(f'SELECT * FROM "{table}"'):  # noqa: S608 -- our own tables
                for value in row:
                    yield from unpacked(value)


def forms(secret: str) -> set[bytes]:
    """Return a secret as it may have been written: plain, in an address, in base64 on its own."""
    return {secret.encode(), quote(secret, safe="").encode(), base64.b64encode(secret.encode()).rstrip(b"=")}


@pytest.mark.timeout(600)
def test_no_secret_is_written_printed_or_listed(home: Path) -> None:
    """Tokens, the login's code, the app's secret, the passphrase and the recovery key are nowhere but in the vault."""
    sandbox_app = SandboxApp(client_secret=CLIENT_SECRET)
    with running(MARKET, tokens=(PASTED,)) as upstox, Watch(home, upstox) as watch:
        upstox.switch(app=sandbox_app)
        code = watch.log_in()
        settings = load_settings(home=home, passphrase=PASSPHRASE, api_url=upstox.url)
        token = get_valid_token(settings).secret.get_secret_value()
        assert watch.run(*CELL) == 0, watch.last
        assert watch.run(*CELL, "--refetch", log_level="DEBUG", profile="development", access_token=PASTED) == 0, (
            watch.last
        )
        materialize = ("asset", "materialize", "--select", "expiries", "--partition", "NIFTY")
        where = ("-m", "expirytrack_dagster.definitions")
        assert watch.dagster(*materialize, *where, log_level="DEBUG") == 0, watch.last
        assert watch.run(*CELL, "--refetch", program=("-c", UNFORESEEN), log_level="DEBUG") != 0, watch.last
        upstox.switch(faults=(Fault(500),))
        assert watch.run(*CELL, "--refetch", log_level="DEBUG", access_token=PASTED) != 0, watch.last
        upstox.switch(faults=())
        assert watch.run(*CELL, "--refetch", log_level="DEBUG", access_token=f"{PASTED}-no") == 4, watch.last
        assert watch.dagster(*materialize, *where, access_token=f"{PASTED}-no", log_level="DEBUG") != 0, watch.last
        for words in (
            "status",
            "status --json",
            "token",
            "verify",
            "audit list",
            "keys status",
            "metrics",
            "metrics --prometheus",
        ):
            watch.run(*words.split(), log_level="DEBUG")
        if any(command.callback and command.callback.__name__ == "doctor" for command in app.registered_commands):
            watch.run("doctor", log_level="DEBUG")
        assert watch.run("backup", log_level="DEBUG") == 0, watch.last
        assert watch.run("backup", "--show-key") == 0, watch.last
        (shown,) = (name for name in watch.printed if name.endswith("backup --show-key"))
        recovery_key = watch.printed.pop(shown).strip()
        assert watch.run("logout", log_level="DEBUG") == 0, watch.last
    secrets = {
        "token of the login": token,
        "pasted token": PASTED,
        "code of the login": code,
        "secret of the app": CLIENT_SECRET,
        "passphrase": PASSPHRASE,
        "recovery key": recovery_key,
    }
    assert all(len(secret) >= 6 for secret in secrets.values()), "short ones would be found by chance"
    places = [*((f"output of {name}", text.encode()) for name, text in watch.printed.items()), *held(home)]
    places += [("list of processes", "\n".join(watch.listed).encode())]
    assert any(b"unforeseen, at" in content for _, content in places), "the search finds what is there"
    logged = (home / "logs" / "expirytrack.jsonl").read_bytes()
    for heard in (b'"level":"debug"', b'"logger":"httpx"', b'"logger":"dagster"', b"unforeseen, at", b"Stack Trace"):
        assert heard in logged, "the log is looked at while it holds what could tell most"
    assert any("collect NIFTY" in line for line in watch.listed)
    found = {
        f"{name} in {place}"
        for name, secret in secrets.items()
        for form in forms(secret)
        for place, content in places
        if form in content
    }
    assert not found
    unknown = {path.name for path in home.iterdir() if not any(path.match(name) for name in OURS)}
    assert not unknown, "security/access.py must know all that is made in a home"
    if os.name == "posix":
        opened = {
            str(path) for path in (home, *home.rglob("*")) if not path.is_symlink() and path.stat().st_mode & 0o077
        }
        assert not opened, "everything is for its owner alone"


def test_no_representation_tells_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings in a log, a traceback or a debugger show stars."""
    for name in ("ACCESS_TOKEN", "PASSPHRASE", "CLIENT_SECRET", "RECOVERY_KEY"):
        monkeypatch.setenv(f"EXPIRYTRACK_{name}", f"hidden-{name}")
    settings = load_settings()
    for text in (repr(settings), str(settings), settings.model_dump_json(), repr(settings.model_dump())):
        assert "hidden-" not in text
