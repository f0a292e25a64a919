"""How an encrypted archive is opened: DuckDB's own AES-256-GCM, with a key of the vault.

DuckDB writes encrypted files only with the cryptography of its extension httpfs, which is loaded from the installed
package `duckdb-extension-httpfs` (same version, signed by DuckDB), never from a network. A file with a key cannot be
opened by itself, only attached to a database in memory; what queries spill to disk is encrypted too. The key is bound
as a parameter: it stands in no statement, so in no error and no log. When and for how long a file is open is decided in
`connection.py`.
"""

from __future__ import annotations

import base64
from importlib.resources import files
from typing import TYPE_CHECKING

import duckdb

from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.warehouse.spilling import spilling_of_file, spilling_safely

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from expirytrack_dagster.settings import Settings


_NEEDED = {
    "httpfs": "EXPIRYTRACK_ENCRYPTION",
    "sqlite_scanner": "A sqlite: address in EXPIRYTRACK_WAREHOUSE",
}
_SCALE = ("ducklake", "postgres_scanner")


def archive_key(settings: Settings) -> bytes | None:
    """Return the key of this home's archive; None when the settings leave it plain. Raises like the vault."""
    if not settings.encryption:
        return None
    from expirytrack_dagster.security.vault import open_vault  # noqa: PLC0415  -- only who encrypts pays for it

    return open_vault(settings).data_key("database")


def connect(
    database: Path, key: bytes | None, *, read_only: bool, config: Mapping[str, str | int]
) -> duckdb.DuckDBPyConnection:
    """Open a DuckDB file, encrypted with this key or plain without one; names without a catalogue mean its tables.

    Raises:
        duckdb.Error: as DuckDB raises it; it never holds the key.
        ConfigurationError: the extension is not installed.
    """
    if key is None:
        return duckdb.connect(database, read_only=read_only, config={**spilling_of_file(database), **config})
    connection = duckdb.connect(":memory:", config={**spilling_safely(database), **config})
    try:
        attach(connection, database, key, name=database.stem, read_only=read_only)
        connection.execute(f"USE {quoted(database.stem)}")
    except BaseException:
        connection.close()
        raise
    return connection


def attach(
    connection: duckdb.DuckDBPyConnection, database: Path, key: bytes | None, *, name: str, read_only: bool
) -> None:
    """Attach a DuckDB file under this name, encrypted with this key or plain without one; raises like `connect`."""
    path = str(database).replace("'", "''")
    mode = "READ_ONLY" if read_only else "READ_WRITE"
    if key is None:
        connection.execute(f"ATTACH '{path}' AS {quoted(name)} ({mode})")
        return
    load_extension(connection)
    connection.execute(
        f"ATTACH '{path}' AS {quoted(name)} ({mode}, ENCRYPTION_KEY $key, ENCRYPTION_CIPHER 'GCM')",
        {"key": base64.b64encode(key).decode()},
    )


def load_extension(connection: duckdb.DuckDBPyConnection) -> None:
    """Give a connection the cryptography without which DuckDB writes nothing encrypted; raises like `connect`."""
    load(connection, "httpfs")


def load(connection: duckdb.DuckDBPyConnection, extension: str) -> None:
    """Load an extension of DuckDB from its installed package, never from a network.

    Raises:
        ConfigurationError: the package is not installed.
    """
    name = f"duckdb-extension-{extension.replace('_', '-')}"
    try:
        package = files(f"duckdb_extension_{extension}")
    except ModuleNotFoundError:
        if extension in _SCALE:
            raise ConfigurationError(
                "A ducklake: address in EXPIRYTRACK_WAREHOUSE needs more packages: run "
                "pip install 'expirytrack-dagster[scale]'."
            ) from None
        raise ConfigurationError(
            f"{_NEEDED[extension]} needs the package {name} of DuckDB's own version: install "
            f"{name}=={duckdb.__version__}."
        ) from None
    path = str(package / "extensions" / f"v{duckdb.__version__}" / f"{extension}.duckdb_extension")
    connection.execute("LOAD '{}'".format(path.replace("'", "''")))


def quoted(name: str) -> str:
    """Return the name as an identifier of SQL."""
    return '"' + name.replace('"', '""') + '"'
