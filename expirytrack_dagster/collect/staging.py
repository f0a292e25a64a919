"""Answered batches of one cell on disk, between the API and the database.

A batch is one Parquet file: its rows (valid ones, and bad ones with the rule that they broke) and, in the file's own
metadata, the states of the contracts that it settles, so that rows and states cannot part. It is written under
another name, flushed to disk and renamed: a file of the final name is whole. What a killed run has staged is used by
the next one. With a key, files are encrypted (`security/parquet.py`). Loading into DuckDB is `warehouse/`'s business;
that only one run at a time uses the folder, `leases.py`'s.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from expirytrack_dagster.collect.states import ContractStatus
from expirytrack_dagster.errors import DiskFull, EncryptionMismatch, StorageError
from expirytrack_dagster.security.parquet import decrypting, encrypting, is_encrypted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    import pandas as pd

_STATUSES = b"expirytrack.statuses"
_CHECKSUM = b"expirytrack.checksum"

ROW_GROUP = 122_880
"""Rows that are packed, and read back, together: as many as DuckDB's own row groups have.

Measured on 2,400,000 rows, one core: with zstd and the whole batch in one group 0.35 s to write, 1.14 s to load, 29 MB;
with LZ4 and these groups 0.27 s, 0.96 s and 30 MB.
"""

SCHEMA = pa.schema(
    [
        ("instrument_key", pa.string()),
        ("ts", pa.timestamp("us", tz="UTC")),
        ("open", pa.float64()),
        ("high", pa.float64()),
        ("low", pa.float64()),
        ("close", pa.float64()),
        ("volume", pa.int64()),
        ("open_interest", pa.int64()),
        ("rule", pa.string()),
        ("detail", pa.string()),
    ]
)


_DAMAGE = (pa.ArrowException, OSError, KeyError, TypeError, msgspec.MsgspecError)
"""What reading a damaged or cut-off file may raise."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A whole staged file, the contracts that it settles, and the key that opens it."""

    path: Path
    statuses: list[ContractStatus]
    key: bytes | None = field(default=None, repr=False)


class CellStaging:
    """The staging folder of one cell."""

    def __init__(self, folder: Path, key: bytes | None = None) -> None:
        """Use this folder, which is made when the first batch is written; files are encrypted if there is a key."""
        self.folder = folder
        self.key = key
        self._naming = threading.Lock()
        self._whole: set[Path] = set()  # files that were written or read in full here, and need not be read again

    def write(self, good: pd.DataFrame, bad: pd.DataFrame, statuses: Sequence[ContractStatus]) -> Batch:
        """Put a batch on disk, whole or not at all.

        Raises:
            DiskFull: there is no room.
            StorageError: the folder cannot be written.
        """
        parts = [_to_arrow(frame) for frame in (good, bad) if len(frame)]
        table = pa.concat_tables(parts) if parts else SCHEMA.empty_table()
        with self._naming:
            number = max((int(path.stem.split("-")[1]) for path in self._files()), default=0) + 1
            path = self.folder / f"batch-{number:05d}.parquet"
            self._put(path, table, statuses)
        return Batch(path, list(statuses), self.key)

    def batches(self) -> list[Batch]:
        """Return what is staged and whole, oldest first; a damaged file is removed, its contracts are asked again.

        Of several states of a contract the last one counts: a proof may come after the answer that it is about.

        Raises:
            EncryptionMismatch: a file was staged when the settings were plain and now say encrypted, or the other way.
        """
        found: list[Batch] = []
        for path in self._files():
            try:
                if is_encrypted(path) is (self.key is None):
                    raise _staged_otherwise(path)
                if path in self._whole:
                    schema = pq.read_schema(path, decryption_properties=decrypting(self.key, path))
                else:
                    schema = self._table(path).schema
                    self._whole.add(path)
                statuses = _unsealed(schema)
            except _DAMAGE:
                path.unlink(missing_ok=True)
                continue
            found.append(Batch(path, statuses, self.key))
        seen: set[str] = set()
        for batch in reversed(found):
            batch.statuses[:] = [status for status in batch.statuses if status.instrument_key not in seen]
            seen.update(status.instrument_key for status in batch.statuses)
        return found

    def peek(self) -> list[ContractStatus]:
        """Return the staged states as `batches` does, from the files' footers alone; a run may be at work here."""
        found: dict[str, ContractStatus] = {}
        for path in self._files():
            with suppress(*_DAMAGE):  # replaced or taken over at this moment, or not opened by this key
                schema = pq.read_schema(path, decryption_properties=decrypting(self.key, path))
                found |= {status.instrument_key: status for status in _unsealed(schema)}
        return list(found.values())

    def forget(self, keys: set[str]) -> None:
        """Take these contracts out of what is staged, because they are asked again."""
        for batch in self.batches():
            kept = [status for status in batch.statuses if status.instrument_key not in keys]
            if len(kept) == len(batch.statuses):
                continue
            if not kept:
                batch.path.unlink()
                continue
            table = self._table(batch.path)
            gone = pc.is_in(table.column("instrument_key"), value_set=pa.array(sorted(keys), pa.string()))
            self._put(batch.path, table.filter(pc.invert(gone)), kept)

    def forget_older_than(self, archived: Mapping[str, datetime]) -> None:
        """Take out contracts that the archive knows as well or better; `archived` has when it learned of each (UTC).

        That is what a run left that was killed just after it stored the cell, or whose cell another host went on with.
        """
        stored = {
            one.instrument_key
            for one in self.peek()
            if (known := archived.get(one.instrument_key)) is not None and one.checked_at <= known
        }
        if stored:
            self.forget(stored)

    def change_key(self, key: bytes | None) -> int:
        """Write files that this key does not open anew, so that it does, and return how many they were.

        A damaged one is removed. A process that dies on the way leaves some of each kind, and the next call goes on.
        """
        target, changed = CellStaging(self.folder, key), 0
        for path in self._files():
            if is_encrypted(path) is not (key is None):
                continue
            try:
                table = self._table(path)
                statuses = _unsealed(table.schema)
            except _DAMAGE:
                path.unlink(missing_ok=True)
                continue
            target._put(path, table, statuses)
            changed += 1
        return changed

    def clear(self) -> None:
        """Remove the cell's staged files."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _put(self, path: Path, table: pa.Table, statuses: Sequence[ContractStatus]) -> None:
        unfinished = path.with_suffix(".part")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with unfinished.open("wb") as file:
                pq.write_table(
                    _sealed(table, statuses),
                    file,
                    compression="lz4",
                    row_group_size=ROW_GROUP,
                    write_page_checksum=True,
                    encryption_properties=encrypting(self.key, path),
                )
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
            self._whole.add(path)
        except OSError as error:
            with suppress(OSError):
                unfinished.unlink()
            if error.errno == errno.ENOSPC:
                raise DiskFull(
                    f"No room is left for {path}: free some space and run again, nothing is lost."
                ) from error
            raise StorageError(f"Cannot write {path}: {error.strerror or error}.") from error

    def _table(self, path: Path) -> pa.Table:
        properties = decrypting(self.key, path)
        return pq.read_table(path, page_checksum_verification=True, decryption_properties=properties)

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("batch-*.parquet"))


def rows_of(batches: Sequence[Batch], columns: Sequence[str]) -> Iterator[pd.DataFrame]:
    """Yield some columns of all batches, at most `ROW_GROUP` rows at a time, so that a whole cell is never in memory.

    Contracts and rules are categories; a contract may go on in the next frame.
    """
    for batch in batches:
        properties = decrypting(batch.key, batch.path)
        texts = ["instrument_key", "rule"]
        with pq.ParquetFile(batch.path, read_dictionary=texts, decryption_properties=properties) as file:
            for rows in file.iter_batches(ROW_GROUP, columns=list(columns)):
                yield rows.to_pandas()


def _staged_otherwise(path: Path) -> EncryptionMismatch:
    kind, command = ("encrypted", "decrypt") if is_encrypted(path) else ("not encrypted", "encrypt")
    return EncryptionMismatch(
        f"The staged file {path} is {kind}, and EXPIRYTRACK_ENCRYPTION says otherwise: run 'expirytrack {command}', or "
        "change the setting back; nothing is lost."
    )


def _sealed(table: pa.Table, statuses: Sequence[ContractStatus]) -> pa.Table:
    encoded = msgspec.json.encode(statuses)
    return table.replace_schema_metadata({_STATUSES: encoded, _CHECKSUM: b"%08x" % zlib.crc32(encoded)})


def _unsealed(schema: pa.Schema) -> list[ContractStatus]:
    """Return the states of a file; the checksums of Parquet cover its pages, but neither these nor the columns."""
    if not schema.equals(SCHEMA) or schema.metadata[_CHECKSUM] != b"%08x" % zlib.crc32(schema.metadata[_STATUSES]):
        raise pa.ArrowInvalid("The file's footer is damaged.")
    return msgspec.json.decode(schema.metadata[_STATUSES], type=list[ContractStatus])


def _to_arrow(frame: pd.DataFrame) -> pa.Table:
    columns = []
    for column in SCHEMA:
        if column.name in frame.columns:
            array = pa.Array.from_pandas(frame[column.name], type=None)
            columns.append(array.cast(column.type))
        else:
            columns.append(pa.nulls(len(frame), column.type))
    return pa.table(columns, schema=SCHEMA)
