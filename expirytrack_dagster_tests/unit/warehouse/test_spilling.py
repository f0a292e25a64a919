"""What does not fit into memory: a folder for each open database, gone when it is closed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING

import duckdb

from expirytrack_dagster.warehouse.encryption import connect
from expirytrack_dagster.warehouse.spilling import spilling, spilling_of_file

if TYPE_CHECKING:
    from pathlib import Path

SORTED = (
    "SELECT count(*), count(DISTINCT text) FROM (SELECT md5(n::TEXT) AS text FROM range(1500000) r(n) ORDER BY text)"
)
LITTLE: dict[str, str | int] = {"memory_limit": "60MB", "threads": 1}
READER = f"""
import sys
from pathlib import Path
from expirytrack_dagster.warehouse.encryption import connect
print(connect(Path(sys.argv[1]), None, read_only=True, config={LITTLE}).execute("{SORTED}").fetchone())
"""


def test_readers_of_one_file_spill_beside_each_other(tmp_path: Path) -> None:
    """In one folder DuckDB's processes overwrite each other's files, and crash."""
    file = tmp_path / "archive.duckdb"
    duckdb.connect(str(file)).close()
    readers = [
        subprocess.Popen([sys.executable, "-c", READER, file], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    told = [reader.communicate(timeout=120)[0].splitlines()[-1] for reader in readers]
    assert told == ["(1500000, 1500000)"] * 2
    assert [path.name for path in tmp_path.iterdir()] == ["archive.duckdb"]


def test_a_process_opens_a_file_as_often_as_it_likes(tmp_path: Path) -> None:
    """All of its connections share one database, which has one folder."""
    with (
        closing(connect(tmp_path / "archive.duckdb", None, read_only=False, config={})) as one,
        closing(connect(tmp_path / "archive.duckdb", None, read_only=False, config={})) as other,
    ):
        places = [each.execute("SELECT current_setting('temp_directory')").fetchone() for each in (one, other)]
    assert places[0] == places[1]
    assert spilling(tmp_path / "x") != spilling(tmp_path / "x")


def test_what_a_killed_process_left_goes_after_a_day(tmp_path: Path) -> None:
    """A folder in which something is made today stays."""
    left, young = tmp_path / "archive.duckdb.tmp-1-a", tmp_path / "archive.duckdb.tmp-2-b"
    for folder in (left, young):
        folder.mkdir()
        (folder / "duckdb_temp_storage_S32K-0.tmp").write_bytes(b"x")
    day_before = time.time() - 90_000
    os.utime(left, (day_before, day_before))
    spilling_of_file(tmp_path / "archive.duckdb")
    assert (left.exists(), young.exists()) == (False, True)
