"""What the writers of all formats share: how rows are counted, and what it means when a file cannot be written."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa

from expirytrack_dagster.errors import DiskFull, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_FULL = ("No space left on device", "Disk quota exceeded", "not enough space")


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a cell: its bars, and the rows of each file, by its path below the folder that was given.

    A file that two cells share is named by both; its rows are the sum.
    """

    bars: int
    files: Mapping[str, int]


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Let a fault of writing leave the block as one sentence that names the file.

    Raises:
        DiskFull: there is no room left.
        StorageError: anything else; what stands at the target is unchanged.
    """
    try:
        yield
    except (duckdb.IOException, OSError, pa.ArrowException) as error:
        first_line = str(error).partition("\n")[0]
        if any(sign in first_line for sign in _FULL):
            raise DiskFull(f"There is no room left to write {path}: free some space and try again.") from error
        raise StorageError(f"{path} cannot be written, and nothing was exported: {first_line}.") from error
