"""What a lake was before: its snapshots, each with the commit that made it, and how the candles of a cell changed.

A snapshot is there for as long as `snapshot_days` says; then `maintenance.py` lets it go. Reading the archive as it was
at one is `Warehouse.at`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date  # noqa: TC003 -- msgspec reads the annotations
from typing import TYPE_CHECKING

import msgspec

from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.warehouse.schema import CATALOGUE
from expirytrack_dagster.warehouse.versions import Change, change_between

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    import duckdb

    from expirytrack_dagster.warehouse.connection import Warehouse

# DuckLake's own function reads all snapshots whatever is asked: of 100,000 it takes 5 s, and this a third of one.
_SNAPSHOTS = f"""
SELECT snapshot_id, snapshot_time::TIMESTAMPTZ, author, commit_message, commit_extra_info
FROM {CATALOGUE}.ducklake_snapshot LEFT JOIN {CATALOGUE}.ducklake_snapshot_changes USING (snapshot_id)
WHERE contains(coalesce(commit_extra_info, ''), $cell) OR contains(commit_extra_info, $all)
ORDER BY snapshot_id DESC LIMIT $limit
"""  # noqa: S608 -- our own name


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The archive after a commit: its number, when that was (UTC), what it was about, and for which run.

    A cell without an expiry is all of an underlying's. `run_id` is None where no run has written. `versions` are those
    of the candles of the cells, in their order, None where one was not finished; empty if the commit is not of candles.
    """

    number: int
    at: datetime
    what: str
    cells: tuple[tuple[str, date | None], ...]
    run_id: str | None
    versions: tuple[str | None, ...] = ()

    def version(self, underlying: str, expiry: date) -> str | None:
        """Return the version of a cell that was written, None where it was not finished or has none."""
        return dict(zip(self.cells, self.versions, strict=False)).get((underlying, expiry))


class _Told(msgspec.Struct):
    what: str
    cells: tuple[tuple[str, date | None], ...] = ()
    run_id: str | None = None
    versions: tuple[str | None, ...] = ()


def snapshots(
    warehouse: Warehouse, underlying: str | None = None, expiry: date | None = None, limit: int | None = None
) -> list[Snapshot]:
    """Return what is kept, the newest first: all, or those that wrote an underlying's cells or one cell.

    What was written of an underlying as a whole was written of each of its cells.

    Raises:
        ConfigurationError: the archive is no lake.
    """
    require_lake(warehouse)
    with warehouse.reading() as connection:
        return listed(connection, underlying, expiry, limit)


def require_lake(warehouse: Warehouse) -> None:
    """Refuse an archive that has no past.

    Raises:
        ConfigurationError: it is in one file.
    """
    if warehouse.store.file is not None:
        raise ConfigurationError(
            f"The archive {warehouse.store.place} is one file, which has no snapshots: only a lake does (a ducklake: "
            "address in EXPIRYTRACK_WAREHOUSE)."
        )


def listed(
    connection: duckdb.DuckDBPyConnection,
    underlying: str | None = None,
    expiry: date | None = None,
    limit: int | None = None,
) -> list[Snapshot]:
    """Return the same, asked over an open connection."""
    found = []
    for number, at, author, message, told in connection.execute(
        _SNAPSHOTS, {**_parts(underlying, expiry), "limit": limit}
    ).fetchall():
        known = _read(told)
        if known is None:
            known = _Told(message or ("written by another program" if number else "made"), (), author)
        found.append(Snapshot(number, at, known.what, known.cells, known.run_id, known.versions))
    return found


def change_in_lake(
    warehouse: Warehouse, writing: duckdb.DuckDBPyConnection, cell: Mapping[str, str | date]
) -> Change | None:
    """Compare the candles of a cell that a transaction has written with those that it found; None in a file.

    The transaction has the cell's turn, so that what all others see of it, until the commit, is what it found.
    """
    if warehouse.store.file is not None:
        return None
    with warehouse.reading() as beside:
        return change_between(beside, writing, cell)


def _parts(underlying: str | None, expiry: date | None) -> dict[str, str]:
    """Return how a cell, and all of its underlying, stand in what a commit tells; what is not given fits all."""
    if underlying is None:
        return dict.fromkeys(("cell", "all"), "")
    if expiry is None:
        return dict.fromkeys(("cell", "all"), _json((underlying,)).rstrip("]"))
    return {"cell": _json((underlying, expiry)), "all": _json((underlying, None))}


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _read(told: str | None) -> _Told | None:
    try:
        return msgspec.json.decode(told, type=_Told) if told else None
    except msgspec.MsgspecError:
        return None
