"""The published copy of the archive: immutable Parquet files that readers use and nobody locks.

DuckDB lets one process write a file or several read it, so whoever reads the archive itself stops the collector, and
is stopped by it. Instead, whoever has committed something calls `publish`, which writes what is new into files of their
own and then replaces the manifest in one step. A reader takes the manifest, and with it the last committed state of
everything; the files that it names are never changed. Measurements and alternatives are in
docs/decisions/0082-published-files-for-readers.md.

A file holds a table's rows of a cell, or of an underlying where they are few. A file of candles that a later version
has replaced is kept if its cell was finished, so that a backtest can name what it used; other replaced files are
removed when no reader can be in the middle of them any more. Everything but these old versions can be made again.

Where the archive is encrypted, so are these files, with a key that follows from the archive's. When that changes, what
was written with the old one, or plainly, is removed and published anew.
"""

from __future__ import annotations

import base64
import hmac
import os
import secrets
import time
from contextlib import suppress
from datetime import UTC, date, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import duckdb
import msgspec
from filelock import FileLock
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_random

from expirytrack_dagster.errors import StorageError
from expirytrack_dagster.warehouse.encryption import load_extension
from expirytrack_dagster.warehouse.migrate import migrations
from expirytrack_dagster.warehouse.room import ORDER
from expirytrack_dagster.warehouse.spilling import spilling, spilling_safely
from expirytrack_dagster.warehouse.versions import Change, candles_version, difference

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from expirytrack_dagster.warehouse.connection import Warehouse

BY_CELL = ("candles", "option_chain", "implied_volatility", "chain_metrics")
"""Tables of which a file holds a cell."""
BY_UNDERLYING = ("expiries", "contracts", "contract_status", "derived_cells", "daily_bars", "continuous_futures")
"""Tables of which a file holds an underlying."""
TABLES = (*BY_CELL, *BY_UNDERLYING)
READ_ENCRYPTED = ", encryption_config = {footer_key: 'published'}"
"""What `read_parquet` is told after `accept_key`."""

_GRACE = 600.0  # seconds for which a reader may still be busy with files of an older manifest
# Small enough that few rows are unpacked for a question, large enough that few groups have to be looked at: a chain at
# a minute takes 2.9 ms of 300,000 rows, and 3.5 to 6 ms in groups of 4,096 or 122,880.
_ROW_GROUP = 16_384

# It happens in the process that has just collected: after a cell of 4,600,000 candles that stood at 810 MB with two
# threads and the limit of 256 MB, and stands at 560 MB with these.
_MODEST = ("SET threads = 1", "SET memory_limit = '96MB'")

# Candles stand as they were staged: a contract's rows side by side; sorting them would hold a cell in memory.
_ORDER = {table: order for table, order in ORDER.items() if table != "candles"}

_CANDLES = """
SELECT underlying, expiry, sealed_at IS NOT NULL AS sealed, format('{:016x}', checksum) AS version
FROM (SELECT underlying, expiry FROM contract_status UNION SELECT underlying, expiry FROM cell_seals)
LEFT JOIN cell_seals USING (underlying, expiry)
WHERE ($underlying IS NULL OR underlying = $underlying) AND ($expiry::DATE IS NULL OR expiry = $expiry)
ORDER BY ALL
"""

_DERIVED = """
SELECT underlying, expiry, source_version, source_version || epoch_us(derived_at)::TEXT AS stamp FROM derived_cells
WHERE asset = $table AND ($underlying IS NULL OR underlying = $underlying)
AND ($expiry::DATE IS NULL OR expiry = $expiry)
ORDER BY ALL
"""


class File(msgspec.Struct, frozen=True):
    """A published file: which rows it holds, and what tells them from earlier ones.

    `expiry` is None for the tables of an underlying. `version` is that of the candles that the rows are or come from,
    `size` is in bytes, `stamp` changes whenever the rows may have changed, and `published_at` is in UTC.
    """

    table: str
    underlying: str
    expiry: date | None
    path: str
    rows: int
    size: int
    stamp: str
    version: str | None
    sealed: bool
    published_at: datetime

    @property
    def place(self) -> tuple[str, str, date | None]:
        """What a file of a newer manifest replaces."""
        return self.table, self.underlying, self.expiry


class Manifest(msgspec.Struct, frozen=True):
    """What is published now, and the replaced files of candles that are kept.

    `schema` is the archive's version, `key_id` tells keys apart and is None where files are plain.
    """

    schema: int
    key_id: str | None = None
    files: tuple[File, ...] = ()
    kept: tuple[File, ...] = ()


def parquet_key(archive_key: bytes) -> bytes:
    """Return the key of the published files of an archive that is encrypted with this key."""
    return hmac.digest(archive_key, b"published files", "sha256")


def accept_key(connection: duckdb.DuckDBPyConnection, archive_key: bytes) -> None:
    """Let a connection read and write encrypted files: their key is called `published` in it.

    Raises:
        ConfigurationError: the extension for encryption is not installed.
    """
    load_extension(connection)
    connection.execute(f"PRAGMA add_parquet_key('published', '{base64.b64encode(parquet_key(archive_key)).decode()}')")


def load(folder: Path) -> Manifest | None:
    """Return what is published in a folder; None where nothing is.

    Raises:
        StorageError: the manifest cannot be read.
    """
    try:
        return _read(folder / "manifest.json")
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise StorageError(
            f"{folder / 'manifest.json'} cannot be read ({error}): remove the folder {folder}; it is made again "
            "from the archive."
        ) from error


def publish(
    warehouse: Warehouse, underlying: str | None = None, expiry: date | None = None
) -> dict[tuple[str, date], Change]:
    """Publish what differs from what is published, of everything or of an underlying or a cell.

    To be called after each commit; a second call does nothing. Whatever a killed process left unpublished is made up
    for by the next call that covers it. Of a lake nothing is published, because its readers use the lake itself.

    Returns:
        What became of candles, for each cell whose candles have a new version.

    Raises:
        StorageError: also DatabaseLocked; what was published stays.
    """
    if warehouse.store.file is None:
        return {}
    try:
        return _publish(warehouse, underlying, expiry)
    except OSError as error:
        raise StorageError(f"{warehouse.published} cannot be written ({error}): see that the disk has room.") from error


def _publish(warehouse: Warehouse, underlying: str | None, expiry: date | None) -> dict[tuple[str, date], Change]:
    folder = warehouse.published
    changes: dict[tuple[str, date], Change] = {}
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with FileLock(folder / "lock"), warehouse.reading() as connection:
        for setting in _MODEST:
            connection.execute(setting)
        schema, key_id = migrations()[-1].version, None
        if warehouse.key is not None:
            accept_key(connection, warehouse.key)
            key_id = hmac.digest(warehouse.key, b"name of the key", "sha256").hex()[:16]
        known = load(folder)
        if known is not None and known.key_id != key_id:
            forget(folder)
            known = None
        anew = known is None or known.schema != schema
        if known is None or anew:
            known = Manifest(schema, key_id, kept=known.kept if known else ())
            _write_empty(connection, folder, key_id)
            underlying = expiry = None
        files = {file.place: file for file in known.files}
        kept = {(*file.place, file.version): file for file in known.kept}
        for new in _new(connection, folder, known, underlying, expiry):
            old = files.get(new.place)
            if new.table == "candles" and new.expiry and (old is None or old.version != new.version):
                changes[new.underlying, new.expiry] = _change(folder, old, new, warehouse.key)
                kept.pop((*new.place, new.version), None)
                if old is not None and old.sealed:
                    kept[*old.place, old.version] = old
            files[new.place] = new
        if anew or changes or tuple(files.values()) != known.files:
            current = Manifest(schema, key_id, tuple(files.values()), tuple(kept.values()))
            _replace(folder, current)
            _sweep(folder, current)
    return changes


def publish_candles(
    warehouse: Warehouse, underlying: str, expiry: date, counted: Change | None
) -> tuple[str | None, Change | None]:
    """Publish a cell whose candles were written, and return their version and what became of them.

    The version is None for a cell without a state, the change where the candles are those that there were. `counted` is
    what the write itself has told of a lake, where nothing is published. Raises like `publish`.
    """
    if warehouse.store.file is None:
        if counted is not None:
            return counted.version, None if counted.previous == counted.version else counted
        with warehouse.reading() as connection:
            return candles_version(connection, {"underlying": underlying, "expiry": expiry}), None
    change = publish(warehouse, underlying, expiry).get((underlying, expiry))
    manifest, place = load(warehouse.published), ("candles", underlying, expiry)
    version = next((file.version for file in manifest.files if file.place == place), None) if manifest else None
    return version, change


def forget(folder: Path) -> None:
    """Remove everything that is published in a folder, old versions too."""
    for path in (folder / "manifest.json", *folder.rglob("*.parquet")):
        with suppress(OSError):  # one that is open on Windows is removed by a later publication
            path.unlink()


def physical_columns(connection: duckdb.DuckDBPyConnection, table: str) -> tuple[list[str], dict[str, str]]:
    """Return the stored columns of a table of `BY_CELL`, and its generated ones with their expressions."""
    found = connection.execute(
        "SELECT column_name, column_default FROM duckdb_columns() "
        "WHERE schema_name = 'main' AND table_name = ? ORDER BY column_index",
        [table],
    ).fetchall()
    stored = [name for name, expression in found if expression is None]
    return stored, {name: expression for name, expression in found if expression is not None}


def _new(
    connection: duckdb.DuckDBPyConnection,
    folder: Path,
    known: Manifest,
    underlying: str | None,
    expiry: date | None,
) -> Iterator[File]:
    """Yield a file for each cell and underlying whose rows are not those that are published."""
    files = {file.place: file for file in known.files if _is_whole(folder, file)}
    write = partial(_export, connection, folder, known.key_id)
    asked = {"underlying": underlying, "expiry": expiry}
    for symbol, day, sealed, seal in connection.execute(_CANDLES, asked).fetchall():
        version = seal or candles_version(connection, {"underlying": symbol, "expiry": day})
        old = files.get(("candles", symbol, day))
        if old is None or old.version != version:
            yield write("candles", symbol, day, version, version, sealed=sealed)
        elif old.sealed != sealed:
            yield msgspec.structs.replace(old, sealed=sealed)
    for table in BY_CELL[1:]:
        for symbol, day, version, stamp in connection.execute(_DERIVED, {**asked, "table": table}).fetchall():
            old = files.get((table, symbol, day))
            if old is None or old.stamp != stamp:
                yield write(table, symbol, day, stamp, version)
    for table in BY_UNDERLYING:
        content = f"""SELECT underlying, sum(hash({table}))::TEXT FROM {table}
        WHERE $underlying IS NULL OR underlying = $underlying GROUP BY ALL ORDER BY ALL"""  # noqa: S608 -- our own names
        for symbol, stamp in connection.execute(content, {"underlying": underlying}).fetchall():
            old = files.get((table, symbol, None))
            if old is None or old.stamp != stamp:
                yield write(table, symbol, None, stamp, None)


def _is_whole(folder: Path, file: File) -> bool:
    """Say whether a file is there at its full length, which a loss of power may have cost it.

    A file is not forced to the disk before it is named: that would take longer than writing it, on a busy disk.
    """
    try:
        return (folder / file.path).stat().st_size == file.size
    except FileNotFoundError:
        return False


def _export(
    connection: duckdb.DuckDBPyConnection,
    folder: Path,
    key_id: str | None,
    table: str,
    underlying: str,
    expiry: date | None,
    stamp: str,
    version: str | None,
    *,
    sealed: bool = False,
) -> File:
    name = f"{table}/{underlying}/{expiry or 'all'}-{secrets.token_hex(4)}.parquet"
    where = "underlying = $underlying" + (" AND expiry = $expiry" if expiry else "")
    bound: dict[str, Any] = {"underlying": underlying, **({"expiry": expiry} if expiry else {})}
    rows = _copy(connection, table, folder / name, key_id, where, bound)
    size = (folder / name).stat().st_size
    return File(table, underlying, expiry, name, rows, size, stamp, version, sealed, datetime.now(tz=UTC))


def _copy(
    connection: duckdb.DuckDBPyConnection, table: str, path: Path, key_id: str | None, where: str, bound: dict[str, Any]
) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = ", ".join(physical_columns(connection, table)[0]) if table in BY_CELL else "*"
    order = f"ORDER BY {_ORDER[table]}" if table in _ORDER else ""
    encrypted = ", ENCRYPTION_CONFIG {footer_key: 'published'}" if key_id else ""
    copy = f"""COPY (SELECT {columns} FROM {table} WHERE {where} {order})
    TO $path (FORMAT parquet, PARQUET_VERSION v2, COMPRESSION zstd, ROW_GROUP_SIZE {_ROW_GROUP}{encrypted})"""  # noqa: S608 -- our own names
    (rows,) = connection.execute(copy, {**bound, "path": str(path)}).fetchone() or (0,)
    return int(rows)


def _write_empty(connection: duckdb.DuckDBPyConnection, folder: Path, key_id: str | None) -> None:
    """Write a file without rows for each table, which stands in where nothing is published."""
    for table in TABLES:
        _copy(connection, table, folder / "empty" / f"{table}.parquet", key_id, "false", {})


def _change(folder: Path, old: File | None, new: File, archive_key: bytes | None) -> Change:
    if old is None:
        return Change(str(new.version), None, new.rows, added=new.rows, removed=0, changed=0)
    with duckdb.connect(config=(spilling if archive_key is None else spilling_safely)(folder)) as connection:
        if archive_key is not None:
            accept_key(connection, archive_key)
        before, later = (
            f"read_parquet(${name}{READ_ENCRYPTED if archive_key else ''})" for name in ("before", "later")
        )
        paths = {"before": str(folder / old.path), "later": str(folder / new.path)}
        counts = connection.execute(difference(before, later), paths).fetchone()
    added, removed, changed = counts or (0, 0, 0)
    return Change(str(new.version), old.version, new.rows, added, removed, changed)


# Windows refuses to replace, or to open, a file that another program has just opened.
_patient = retry(
    retry=retry_if_exception_type(PermissionError), wait=wait_random(0.01, 0.1), stop=stop_after_delay(5), reraise=True
)


@_patient
def _read(path: Path) -> Manifest:
    return msgspec.json.decode(path.read_bytes(), type=Manifest)


def _replace(folder: Path, manifest: Manifest) -> None:
    path = folder / "manifest.json"
    fresh = path.with_suffix(".new")
    with fresh.open("wb") as written:
        written.write(msgspec.json.encode(manifest))
        written.flush()
        os.fsync(written.fileno())
    _patient(os.replace)(fresh, path)


def _sweep(folder: Path, manifest: Manifest) -> None:
    """Remove files that no manifest has named for a while; one that is still open stays until a later time."""
    named = {file.path for file in (*manifest.files, *manifest.kept)}
    for path in folder.glob("*/*/*.parquet"):
        if path.relative_to(folder).as_posix() not in named:
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _GRACE:
                    path.unlink()
