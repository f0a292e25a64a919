"""How every listed cell stands, from what is published: the same counts as `reader.cells`, without opening the archive.

For whoever looks often, beside a collection that must not be held up by it. What is published is at most a commit
behind (`published.py`); `reader.cells` is what holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import duckdb

from expirytrack_dagster.errors import StorageError
from expirytrack_dagster.warehouse.published import READ_ENCRYPTED, accept_key
from expirytrack_dagster.warehouse.reader import CELLS
from expirytrack_dagster.warehouse.spilling import spilling

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from expirytrack_dagster.warehouse.published import Manifest

_COUNTED = ("expiries", "contracts", "contract_status")


def published_cells(folder: Path, manifest: Manifest, archive_key: bytes | None) -> pd.DataFrame:
    """Return the columns of `reader.cells`, one row a listed cell, as of this manifest.

    Raises:
        StorageError: a published file cannot be read, for one because it is encrypted with another key.
    """
    try:
        with duckdb.connect(config=spilling(folder)) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            connection.execute("SET threads = 1")
            if manifest.key_id is not None and archive_key is not None:
                accept_key(connection, archive_key)
            option = READ_ENCRYPTED if manifest.key_id is not None else ""
            for table in _COUNTED:
                paths = [file.path for file in manifest.files if file.table == table] or [f"empty/{table}.parquet"]
                listed = ", ".join("'" + str(folder / path).replace("'", "''") + "'" for path in paths)
                connection.execute(f"CREATE VIEW {table} AS FROM read_parquet([{listed}]{option})")
            connection.execute("CREATE TABLE cell_seals (underlying TEXT, expiry DATE, sealed_at TIMESTAMPTZ)")
            seals = [
                (file.underlying, file.expiry, file.published_at)
                for file in manifest.files
                if file.table == "candles" and file.sealed
            ]
            if seals:
                connection.executemany("INSERT INTO cell_seals VALUES (?, ?, ?)", seals)
            table = connection.execute(CELLS).to_arrow_table()
    except duckdb.Error as error:
        raise StorageError(f"What is published in {folder} cannot be read: {error}.") from error
    frame: pd.DataFrame = table.to_pandas()
    return frame
