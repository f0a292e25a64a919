"""The archive between processes: waiting for others, naming them, two writers at once, a writer that is killed."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TYPE_CHECKING

import duckdb
import pytest

from expirytrack_dagster.errors import DatabaseLocked, StorageError
from expirytrack_dagster.warehouse.connection import Warehouse

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from expirytrack_dagster_tests.integration.warehouse.conftest import Start

# A program that knows nothing of our lock file, such as DuckDB's shell or a notebook. All take the key as last word.
STRANGER = """
import sys
from pathlib import Path
from expirytrack_dagster.warehouse.encryption import connect
key = bytes.fromhex(sys.argv[-1]) or None
with connect(Path(sys.argv[1]), key, read_only=sys.argv[2] == "reads", config={}):
    print("ready", flush=True)
    sys.stdin.read()
"""
# Another part of this program, which holds the lock file too.
OURS = """
import sys
from pathlib import Path
from expirytrack_dagster.warehouse.connection import Warehouse
warehouse = Warehouse(Path(sys.argv[1]), key=bytes.fromhex(sys.argv[-1]) or None)
with warehouse.reading() if sys.argv[2] == "reads" else warehouse.writing():
    print("ready", flush=True)
    sys.stdin.read()
"""
FIRST = """
import sys
from pathlib import Path
from expirytrack_dagster.warehouse.connection import Warehouse
print("ready", flush=True)
sys.stdin.read()
for _ in range(3):
    with Warehouse(Path(sys.argv[1]), key=bytes.fromhex(sys.argv[-1]) or None).reading() as connection:
        print(connection.execute("SELECT count(*) FROM schema_version").fetchone()[0])
"""
KILLED = """
import sys
from pathlib import Path
from expirytrack_dagster.warehouse.connection import Warehouse
with Warehouse(Path(sys.argv[1]), key=bytes.fromhex(sys.argv[-1]) or None).writing() as connection:
    connection.execute("DELETE FROM main.expiries")
    connection.execute(
        "INSERT INTO main.expiries SELECT 'new' || i, DATE '2025-08-28', 'k', now() FROM range(400000) t(i)"
    )
    if sys.argv[2] == "committed":
        connection.commit()
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(params=[None, bytes(range(32))], ids=["plain", "encrypted"])
def key(request: pytest.FixtureRequest) -> bytes | None:
    """Give no key and a key: what holds for a plain archive holds for an encrypted one."""
    key: bytes | None = request.param
    return key


@pytest.fixture
def start(start: Start, key: bytes | None) -> Start:
    """Return a function that starts a process and gives it the key as its last word."""

    def with_key(code: str, *arguments: str | Path, ready: bool = True) -> subprocess.Popen[str]:
        return start(code, *arguments, (key or b"").hex(), ready=ready)

    return with_key


@pytest.fixture
def database(tmp_path: Path, key: bytes | None) -> Path:
    """Give an archive with three rows."""
    path = tmp_path / "a.duckdb"
    with Warehouse(path, key=key).writing() as connection:
        connection.execute(
            "INSERT INTO main.expiries SELECT 'old' || i, DATE '2025-08-28', 'k', now() FROM range(3) t(i)"
        )
    return path


def stored(database: Path, key: bytes | None) -> int:
    """Return the number of rows."""
    with Warehouse(database, lock_timeout=10.0, key=key).reading() as connection:
        return int((connection.execute("SELECT count(underlying) FROM expiries").fetchone() or (-1,))[0])


@pytest.mark.parametrize("mode", ["reads", "writes"])
def test_a_stranger_is_named_with_its_pid(database: Path, start: Start, mode: str, key: bytes | None) -> None:
    """An open handle, also a reader's, keeps a writer out: after the wait the error says who it is."""
    holder = start(STRANGER, database, mode)
    began = time.monotonic()
    with pytest.raises(DatabaseLocked, match=rf"held open by .*PID {holder.pid}\)?: close it"):
        _write(database, key, 0.5)
    assert 0.2 <= time.monotonic() - began < 5


@pytest.mark.parametrize("mode", ["reads", "writes"])
def test_one_of_us_is_named_with_its_pid(database: Path, start: Start, mode: str, key: bytes | None) -> None:
    """Our own lock file was in the way, and DuckDB still knows the program."""
    holder = start(OURS, database, mode)
    with pytest.raises(DatabaseLocked, match=rf"held open by .*PID {holder.pid}\)?: close it"):
        _write(database, key, 0.3)


@pytest.mark.parametrize("program", [STRANGER, OURS], ids=["stranger", "ours"])
@pytest.mark.parametrize("mode", ["reads", "writes"])
def test_a_holder_is_waited_for(database: Path, start: Start, program: str, mode: str, key: bytes | None) -> None:
    """As soon as it lets go, the write goes through."""
    holder = start(program, database, mode)
    assert holder.stdin is not None
    threading.Timer(0.4, holder.stdin.close).start()
    began = time.monotonic()
    _write(database, key, 20.0)
    assert time.monotonic() - began >= 0.3
    assert stored(database, key) == 4


@pytest.mark.skipif(sys.platform == "win32", reason="on Windows DuckDB lets a second process read only in part")
def test_a_stranger_who_reads_does_not_keep_readers_out(database: Path, start: Start, key: bytes | None) -> None:
    """A notebook left open costs the reports nothing."""
    start(STRANGER, database, "reads")
    with Warehouse(database, lock_timeout=0.0, key=key).reading() as connection:
        assert connection.execute("SELECT count(*) FROM expiries").fetchone() == (3,)


def test_a_killed_holder_leaves_no_lock(database: Path, start: Start, key: bytes | None) -> None:
    """A lock file without its owner is no lock."""
    holder = start(OURS, database, "writes")
    holder.kill()
    holder.wait()
    _write(database, key, 10.0)
    assert stored(database, key) == 4


@pytest.mark.parametrize(("moment", "rows"), [("in the middle", 3), ("committed", 400_000)])
def test_a_writer_killed_at_any_moment_leaves_a_whole_state(
    database: Path, start: Start, moment: str, rows: int, key: bytes | None
) -> None:
    """Before the commit the old rows are there, after it the new ones; never some of both, and writing goes on."""
    writer = start(KILLED, database, moment)
    writer.kill()
    writer.wait()
    assert stored(database, key) == rows
    _write(database, key, 10.0)
    assert stored(database, key) == rows + 1


def test_two_processes_may_both_be_the_first(tmp_path: Path, start: Start) -> None:
    """The file is made and migrated once, and both see every step of the schema."""
    database = tmp_path / "home" / "a.duckdb"
    both = [start(FIRST, database) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0].split() for process in both]  # closes their inputs one by one
    assert [process.returncode for process in both] == [0, 0]
    assert len({number for output in outputs for number in output}) == 1
    assert [len(output) for output in outputs] == [3, 3]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot limit the size of a process's files")
def test_a_full_disk_is_said_and_harms_nothing(database: Path, start: Start, key: bytes | None) -> None:
    """A file that may not grow, as on a full disk or over a quota: the old rows stay."""
    code = """
import resource, sys
from pathlib import Path
from expirytrack_dagster.errors import DiskFull
from expirytrack_dagster.warehouse.connection import Warehouse
resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, 4 << 20))
try:
    with Warehouse(Path(sys.argv[1]), key=bytes.fromhex(sys.argv[-1]) or None).writing() as connection:
        connection.execute("DELETE FROM main.expiries")
        connection.execute(
            "INSERT INTO main.expiries SELECT md5(i::TEXT), DATE '2025-08-28', 'k', now() FROM range(200000) t(i)"
        )
except DiskFull as error:
    print(error)
"""
    told = start(code, database, ready=False).communicate(timeout=60)[0]
    assert "free some space and try again" in told
    assert stored(database, key) == 3


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no modes of folders")
def test_a_read_only_folder_is_a_storage_error(database: Path, key: bytes | None) -> None:
    """Root may write everywhere, so this says nothing when run as root."""
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    database.chmod(0o400)
    with pytest.raises(StorageError, match="Permission denied"):
        _write(database, key, 0.1)


def _write(database: Path, key: bytes | None, lock_timeout: float) -> None:
    with Warehouse(database, lock_timeout=lock_timeout, key=key).writing() as connection:
        connection.execute("INSERT INTO main.expiries VALUES ('more', DATE '2025-08-28', 'k', now())")


def test_duckdb_is_the_version_whose_texts_are_known() -> None:
    """The texts of its errors were read off this version; another one needs a look at `faults.py`."""
    assert duckdb.__version__ == "1.5.5"
