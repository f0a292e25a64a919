"""Whether the archive opens and adds up, found out in a moment and without changing anything.

That every row is right is `verify.py`'s to prove, which reads them all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import duckdb

from expirytrack_dagster.warehouse.faults import is_locked, locked, storage_error

if TYPE_CHECKING:
    from expirytrack_dagster.warehouse.connection import Warehouse

_COUNTED = """
SELECT (SELECT count(*) FROM main.candles), (SELECT coalesce(sum(candles), 0)::BIGINT FROM main.contract_status)
"""


@dataclass(frozen=True, slots=True)
class Soundness:
    """Candles that are stored, and candles that the contracts' states record."""

    stored: int
    recorded: int


def soundness(warehouse: Warehouse) -> Soundness:
    """Open the archive as it is, an older schema included, and count.

    Raises:
        DatabaseLocked: another program has it open.
        StorageError: also DatabaseCorrupt, EncryptionMismatch and WrongKey.
    """
    with warehouse.alone():
        try:
            opened, failed = warehouse.store.connect(read_only=True, config={"threads": 1}), True
            try:
                counted = opened.execute(_COUNTED).fetchone()
                failed = False
            finally:
                warehouse.store.close(opened, failed=failed)
        except duckdb.Error as error:
            if is_locked(error):
                raise locked(warehouse.store.place, error) from error
            raise storage_error(error, warehouse.store.place) from error
    if counted is None:
        raise AssertionError("a query without FROM has a row")
    return Soundness(*counted)
