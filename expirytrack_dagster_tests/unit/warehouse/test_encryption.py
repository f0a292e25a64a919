"""An encrypted archive: only its key opens it, nothing of it can be read elsewhere, and the key is shown nowhere."""

from __future__ import annotations

import base64
import re
import shutil
import sys
from contextlib import closing
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pytest

from expirytrack_dagster.errors import ConfigurationError, EncryptionMismatch, StorageError, WrongKey
from expirytrack_dagster.settings import load_settings
from expirytrack_dagster.warehouse.connection import Warehouse, open_warehouse
from expirytrack_dagster.warehouse.encryption import connect

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = bytes(range(7, 39))
NAMES = (
    "INSERT INTO main.expiries SELECT 'PLAINTEXT' || n, DATE '2025-08-28', 'NSE_INDEX|x', now() FROM range({}) AS r(n)"
)
SUM = "SELECT count(*), sum(hash(expiries)) FROM expiries"


def made(database: Path, key: bytes | None = KEY, rows: int = 20_000) -> Warehouse:
    """Return an archive that holds rows whose text can be found."""
    warehouse = Warehouse(database, lock_timeout=5.0, key=key)
    with warehouse.writing() as connection:
        connection.execute(NAMES.format(rows))
    return warehouse


def summed(warehouse: Warehouse) -> Any:
    """Return what tells the rows from any others."""
    with warehouse.reading() as connection:
        return connection.execute(SUM).fetchone()


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an encrypted archive once, and return its file."""
    return made(tmp_path_factory.mktemp("sealed") / "archive.duckdb").database


def test_the_rows_cannot_be_read_in_any_file(tmp_path: Path) -> None:
    """Neither in the archive, nor in its log while a transaction is under way, nor in what a query spills to disk."""
    warehouse = made(tmp_path / "archive.duckdb")
    with closing(connect(warehouse.database, KEY, read_only=False, config={"memory_limit": "100MB"})) as connection:
        connection.execute("SET threads = 1")
        connection.execute("INSERT INTO main.expiries VALUES ('PLAINTEXT', DATE '2024-01-01', 'x', now())")
        asked = "SELECT 'PLAINTEXT' || n || repeat('x', 60) AS t FROM range(3000000) AS r(n) ORDER BY hash(n)"
        rows = connection.execute(asked)
        assert rows.fetchone()
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert {"archive.duckdb", "archive.duckdb.wal"} <= {path.name for path in files}
        assert any(path.parent.name.startswith("archive.duckdb.tmp-") for path in files)
        assert [path for path in files if b"PLAINTEXT" in path.read_bytes()] == []
    plain = made(tmp_path / "plain.duckdb", key=None)
    assert b"PLAINTEXT" in plain.database.read_bytes()


def test_only_its_key_opens_it(sealed: Path, tmp_path: Path) -> None:
    """Without a key, with another, and a plain file with one: one sentence each that says what to do."""
    plain = made(tmp_path / "plain.duckdb", key=None).database
    for database, key, error, words in (
        (sealed, None, EncryptionMismatch, "is encrypted and EXPIRYTRACK_ENCRYPTION is off.*expirytrack decrypt"),
        (sealed, bytes(32), WrongKey, "a key that the vault does not use.*put back the vault"),
        (plain, KEY, EncryptionMismatch, "is not encrypted and EXPIRYTRACK_ENCRYPTION is on.*expirytrack encrypt"),
    ):
        before = database.read_bytes()
        warehouse = Warehouse(database, lock_timeout=1.0, key=key)
        for use in (warehouse.reading, warehouse.writing):
            with pytest.raises(error, match=words) as refusal, use():
                pass
            assert "\n" not in str(refusal.value)
        assert database.read_bytes() == before


def altered(content: bytes, at: float) -> bytes:
    """Return the bytes with one of them changed, at a place or a share of the length."""
    place = int(at * len(content)) if isinstance(at, float) else at
    return content[:place] + bytes([content[place] ^ 0x10]) + content[place:][1:]


def cut(content: bytes, share: float) -> bytes:
    """Return the beginning of the bytes."""
    return content[: int(share * len(content))]


@pytest.mark.parametrize(
    ("spoil", "where"),
    [
        *((altered, at) for at in (0, 9, 13, 60, 4096 + 8, 8192 + 8, 12288 + 40, 0.3, 0.5, 0.7, 0.9, 0.999)),
        *((cut, share) for share in (0.001, 0.01, 0.2, 0.5, 0.9, 0.999)),
    ],
)
def test_a_spoilt_archive_gives_no_other_rows(
    sealed: Path, tmp_path: Path, spoil: Callable[[bytes, float], bytes], where: float
) -> None:
    """Wherever it is altered or cut, the rows are those that were written or there is an error; never others."""
    before = summed(Warehouse(sealed, key=KEY))
    copy = tmp_path / "archive.duckdb"
    copy.write_bytes(spoil(sealed.read_bytes(), where))
    try:
        found = summed(Warehouse(copy, lock_timeout=1.0, key=KEY))
    except StorageError as error:
        found, told = before, str(error)
        assert "is damaged" in told or "a key that the vault does not use" in told
    assert found == before


def test_the_key_is_shown_nowhere(sealed: Path, tmp_path: Path) -> None:
    """Not by the engine's own tables, nor in its errors, whatever goes wrong while the file is opened."""
    shown = [base64.b64encode(KEY).decode(), KEY.hex()]
    copy = tmp_path / "archive.duckdb"
    shutil.copy(sealed, copy)
    with closing(connect(copy, KEY, read_only=True, config={})) as connection:
        for table in ("duckdb_databases()", "duckdb_settings()", "duckdb_secrets()", "duckdb_variables()"):
            told = repr(connection.execute(f"FROM {table}").fetchall())
            assert not any(text in told for text in shown)
    for path in (tmp_path / "not" / "there.duckdb", tmp_path, tmp_path / "quote'\n.duckdb"):
        with pytest.raises(duckdb.Error) as refusal:
            connect(path, KEY, read_only=True, config={})
        assert not any(text in str(refusal.value) for text in shown)
    assert not any(text in repr(vars(refusal.value)) for text in shown)


def test_settings_take_the_key_from_the_vault(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first use makes it; off is the default and needs no vault."""
    assert open_warehouse(load_settings()).key is None
    assert not home.exists()
    monkeypatch.setenv("EXPIRYTRACK_ENCRYPTION", "on")
    first = open_warehouse(load_settings())
    assert summed(first) == (0, None)
    assert open_warehouse(load_settings()).key == first.key is not None
    (home / "vault.bin").unlink()
    with pytest.raises(StorageError, match="put back the vault"):
        summed(open_warehouse(load_settings()))


def test_without_the_extension_the_sentence_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a package of its own, which an unusual machine may lack."""
    monkeypatch.setitem(sys.modules, "duckdb_extension_httpfs", None)
    with pytest.raises(ConfigurationError, match="install duckdb-extension-httpfs=="):
        summed(Warehouse(tmp_path / "archive.duckdb", key=KEY))


def test_every_part_of_the_program_opens_it_as_the_settings_say() -> None:
    """An archive or a staging that is made of settings without their key would be plain, or could not be read."""
    package = Path(str(files("expirytrack_dagster")))
    texts = {path: path.read_text(encoding="utf-8") for path in package.rglob("*.py")}
    without = re.compile(r"Warehouse\(\s*settings\.database(?![^()]*key=)|CellStaging\(settings\.staging [^,()]*\)")
    assert [path.name for path, text in texts.items() if without.search(text)] == []
