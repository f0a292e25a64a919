"""A real PostgreSQL of the tests' own: made in a folder of its own, on a free port, ended and taken away again.

The programs are Debian's or whatever stands on the path. A server refuses to run as root, so that root hands it to an
unprivileged user. Nothing of the product is known here; tests take the fixtures `postgres_server` and `postgres`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2

from expirytrack_dagster.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

USER = "expirytrack"
"""The role that owns everything; it needs no password from this machine."""

_SETTINGS = {
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "log_min_messages": "fatal",
    "autovacuum_naptime": "10s",
}
_PATIENCE = 30.0


def programs() -> Path | None:
    """Return the folder of the newest server's programs, None where none is installed."""
    if found := shutil.which("postgres"):
        return Path(found).resolve().parent
    versions = Path("/usr/lib/postgresql").glob("*/bin/postgres")
    return max((path.parent for path in versions), key=lambda path: float(path.parent.name), default=None)


class PostgresServer:
    """A server that can be stopped, killed and started again; its data last until `postgres_server` ends."""

    def __init__(self, folder: Path, host: str = "127.0.0.1", trusted: str = "127.0.0.1/32") -> None:
        """Make the files of a server.

        Args:
            folder: an empty one that everybody may pass through.
            host: the address on which it listens.
            trusted: from where it believes whoever says to be `USER`.
        """
        self.host, self.port = host, 0  # chosen at the first start, and then kept
        self._data = folder / "data"
        self._bin = programs() or Path()
        self._as: dict[str, Any] = {}
        if hasattr(os, "getuid") and os.getuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
            self._as = {"user": "postgres", "group": "postgres", "extra_groups": []}
        self._process: subprocess.Popen[bytes] | None = None
        self._run("initdb", "--username", USER, "--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--no-sync")
        with (self._data / "pg_hba.conf").open("a", encoding="utf-8") as file:
            file.write(f"host all all {trusted} trust\n")

    def start(self) -> None:
        """Start it and wait until it answers; at the first start, at another port if somebody was faster."""
        if self.port:
            self._start()
            return
        for _ in range(5):
            self.port = free_port()
            with suppress(psycopg2.OperationalError):
                self._start()
                return
        raise RuntimeError((self._data.parent / "server.log").read_text(encoding="utf-8"))

    def _start(self) -> None:
        given = {"listen_addresses": self.host, "port": str(self.port), **_SETTINGS}
        words = [word for name, value in given.items() for word in ("-c", f"{name}={value}")]
        command = [str(self._bin / "postgres"), "-D", str(self._data), *words]
        with (self._data.parent / "server.log").open("ab") as log:
            process = self._process = subprocess.Popen(
                command, cwd=self._data, stdin=subprocess.DEVNULL, stderr=log, **self._as
            )
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                psycopg2.connect(self.url("postgres")).close()
            except psycopg2.OperationalError:
                if process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    raise
                time.sleep(0.05)
            else:
                return

    def stop(self, *, at_once: bool = False) -> None:
        """End it in good order, its connections cut; or without a word to anybody, as a crash would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT if at_once else signal.SIGINT)
            self._process.wait(_PATIENCE)
            self._process = None

    def url(self, database: str) -> str:
        """Return the address of a database, as SQLAlchemy and libpq take it."""
        return f"postgresql://{USER}@{self.host}:{self.port}/{database}"

    def create(self, database: str) -> str:
        """Make an empty database and return its address."""
        self._execute(f'CREATE DATABASE "{database}"')
        return self.url(database)

    def drop(self, database: str) -> None:
        """Take a database away, whoever still uses it."""
        self._execute(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')

    def _execute(self, statement: str) -> None:
        connection = psycopg2.connect(self.url("postgres"))
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
        finally:
            connection.close()

    def _run(self, program: str, *words: str) -> None:
        done = subprocess.run(
            [self._bin / program, "-D", self._data, *words],
            cwd=self._data.parent,
            capture_output=True,
            text=True,
            check=False,
            **self._as,
        )
        if done.returncode:
            raise RuntimeError(done.stderr)


@contextmanager
def postgres_server(host: str = "127.0.0.1", trusted: str = "127.0.0.1/32") -> Iterator[PostgresServer]:
    """Yield a running server, and leave nothing of it behind; arguments as those of `PostgresServer`."""
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))  # pytest's folders let no other user pass
    folder.chmod(0o755)
    try:
        server = PostgresServer(folder, host, trusted)
        server.start()
        try:
            yield server
        finally:
            with suppress(ProcessLookupError):
                server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def ended_by_the_server(connection: Connection) -> None:
    """Let the server end the connection, as a restart or a broken line would."""
    number = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
    driver: Any = connection.connection.driver_connection
    with closing(psycopg2.connect(driver.dsn)) as other, other, other.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s)", (number,))
