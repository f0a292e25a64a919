"""The archive under another key: equal in every row and every definition, or as it was."""

from __future__ import annotations

import shutil
import threading
from collections import namedtuple
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from expirytrack_dagster.errors import DatabaseLocked, DiskFull, EncryptionMismatch, StorageError
from expirytrack_dagster.warehouse import convert as converting
from expirytrack_dagster.warehouse.connection import Warehouse
from expirytrack_dagster.warehouse.convert import convert
from expirytrack_dagster.warehouse.encryption import connect

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from expirytrack_dagster_tests.unit.warehouse.conftest import Cell

OTHER = bytes(reversed(range(32)))
TABLES = "SELECT table_name FROM duckdb_tables() WHERE database_name = current_database() ORDER BY ALL"
DEFINITIONS = {
    "tables": "sql, comment",
    "columns": "table_name, column_name, data_type, comment",
    "constraints": "table_name, constraint_text",
    "views": "view_name, sql",
    # DuckDB writes the name of a type with quotes or without, by the version of the file's format.
    "functions": """function_name, replace(macro_definition, '"', '')""",
}


@pytest.fixture
def full(warehouse: Warehouse, cell: Cell) -> Warehouse:
    """Return an archive with candles, bad rows, states, a seal, and a view and a macro of the user's own."""
    with warehouse.writing() as connection:
        connection.execute("INSERT INTO main.expiries VALUES ('NIFTY', DATE '2025-08-28', 'NSE_INDEX|Nifty 50', now())")
        connection.execute("CREATE VIEW mine AS SELECT max(ts) AS latest FROM candles")
        connection.execute("CREATE MACRO twice(x) AS 2 * x")
    cell.add("NSE_FO|1|28-08-2025", good=300, bad=3).add("NSE_FO|2|28-08-2025", good=0).write(warehouse)
    return warehouse


def everything(warehouse: Warehouse) -> dict[str, Any]:
    """Return all rows of all tables, and all definitions."""
    with warehouse.reading() as connection:
        found: dict[str, Any] = {}
        for kind, columns in DEFINITIONS.items():
            ours = f"SELECT {columns} FROM duckdb_{kind}() WHERE database_name = current_database() ORDER BY ALL"  # noqa: S608
            found[f"definitions of {kind}"] = connection.execute(ours).fetchall()
        for (table,) in connection.execute(TABLES).fetchall():
            found[table] = connection.execute(f"FROM {table} ORDER BY ALL").fetchall()
        found["latest"] = connection.execute("SELECT latest, twice(2) FROM mine").fetchone()
    return found


def test_every_row_and_definition_is_there_under_the_new_key(full: Warehouse, key: bytes | None) -> None:
    """From plain to encrypted, from encrypted to plain, and from one key to another."""
    before = everything(full)
    assert before["candles"]
    now = full
    for new in (OTHER, None if key else bytes(range(32)), key):
        convert(now, new)
        with pytest.raises(StorageError), now.reading():
            pass
        now = Warehouse(full.database, lock_timeout=5.0, key=new)
        assert everything(now) == before
    names = {path.name for path in full.database.parent.iterdir()}
    assert names == {"expirytrack.duckdb", "expirytrack.duckdb.lock"}


def test_leftovers_of_a_killed_conversion_are_no_obstacle(full: Warehouse) -> None:
    """A half written copy is removed, and everything begins anew."""
    before = everything(full)
    for name in ("expirytrack.duckdb.converting", "expirytrack.duckdb.converting.wal"):
        full.database.with_name(name).write_bytes(b"half")
    convert(full, OTHER)
    assert everything(Warehouse(full.database, key=OTHER)) == before
    assert list(full.database.parent.glob("*.converting*")) == []


@pytest.mark.parametrize("step", ["_copy", "_put_in_place"])
def test_a_copy_that_is_not_equal_changes_nothing(full: Warehouse, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that is lost on the way, or a fault of the disk at the last step: the archive stays as it was."""
    before, copied = everything(full), converting._copy  # noqa: SLF001  -- the step at which it is disturbed

    def lose(archive: Warehouse, new: Path, key: bytes) -> None:
        copied(archive, new, key)
        with closing(connect(new, key, read_only=False, config={})) as connection:
            connection.execute("DELETE FROM main.candles WHERE minute = (SELECT min(minute) FROM candles)")

    def fail(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        if step == "_copy":
            patch.setattr(converting, "_copy", lose)
        else:
            patch.setattr(converting, "_put_in_place", fail)
        with pytest.raises(StorageError, match="nothing was changed"):
            convert(full, OTHER)
    assert everything(full) == before
    assert list(full.database.parent.glob("*.converting*")) == []


def test_without_room_nothing_is_begun(full: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence says how much is needed and how much there is."""
    usage = namedtuple("usage", "total used free")  # noqa: PYI024  -- as shutil's own
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 1000, 1000))
    monkeypatch.setattr(converting, "_copy", lambda *_: pytest.fail("it was begun"))
    with pytest.raises(DiskFull, match=r"needs \d+ MB, and 0 MB are free"):
        convert(full, OTHER)


def test_who_reads_keeps_it_waiting(full: Warehouse, key: bytes | None) -> None:
    """An archive that somebody has open is not taken from under their hands."""
    impatient = Warehouse(full.database, lock_timeout=0.2, key=key)
    reading = connect(full.database, key, read_only=True, config={})
    with pytest.raises(DatabaseLocked):
        convert(impatient, OTHER)
    reading.close()
    convert(impatient, OTHER)


def test_a_wrong_key_converts_nothing(full: Warehouse, key: bytes | None) -> None:
    """Not even when it is the one that is wanted."""
    wrong = Warehouse(full.database, key=OTHER)
    with pytest.raises(EncryptionMismatch if key is None else StorageError):
        convert(wrong, OTHER)
    assert everything(full)["candles"]


def test_progress_is_told_in_megabytes(full: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """It never passes the end, which is there even for a tiny archive."""
    told: list[tuple[int, int]] = []
    slow: Callable[..., None] = converting._require_equal  # noqa: SLF001  -- made slow enough to be watched

    def wait(*words: Any) -> None:
        threading.Event().wait(0.8)
        slow(*words)

    monkeypatch.setattr(converting, "_require_equal", wait)
    convert(full, OTHER, lambda done, total: told.append((done, total)))
    assert told
    assert all(0 <= done <= total >= 1 for done, total in told)
