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
from expirytrack_dagster.warehouse.schema import STORE
from expirytrack_dagster.warehouse.versions import Change, candles_version, difference

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    import duckdb

    from expirytrack_dagster.warehouse.connection import Warehouse

_SNAPSHOTS = f"""
SELECT snapshot_id, snapshot_time, author, commit_message, commit_extra_info FROM ducklake_snapshots('{STORE}')
WHERE $underlying IS NULL OR contains(commit_extra_info, to_json($underlying::TEXT)::TEXT)
ORDER BY snapshot_id DESC
"""  # noqa: S608 -- our own name

_NOW = f"{STORE}.main.candles"
_OF_CELL = " WHERE underlying = $underlying AND expiry = $expiry"
_WRITES_CANDLES = {"candles", "release"}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The archive after a commit: its number, when that was (UTC), what it was about, and for which run.

    A cell without an expiry is all of an underlying's. `run_id` is None where no run has written. `version` is that of
    the candles of the one cell that was written, where it was finished.
    """

    number: int
    at: datetime
    what: str
    cells: tuple[tuple[str, date | None], ...]
    run_id: str | None
    version: str | None = None


class _Told(msgspec.Struct):
    what: str
    cells: tuple[tuple[str, date | None], ...] = ()
    run_id: str | None = None
    version: str | None = None


def snapshots(
    warehouse: Warehouse, underlying: str | None = None, expiry: date | None = None, limit: int | None = None
) -> list[Snapshot]:
    """Return what is kept, the newest first: all, or those that wrote an underlying's cells or one cell.

    Raises:
        ConfigurationError: the archive is no lake.
    """
    require_lake(warehouse)
    with warehouse.reading() as connection:
        return listed(connection, underlying, expiry)[:limit]


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
    connection: duckdb.DuckDBPyConnection, underlying: str | None = None, expiry: date | None = None
) -> list[Snapshot]:
    """Return the same, asked over an open connection."""
    found = []
    for number, at, author, message, told in connection.execute(_SNAPSHOTS, {"underlying": underlying}).fetchall():
        known = _read(told)
        if known is None:
            known = _Told(message or ("written by another program" if number else "made"), (), author)
        mine = any(name == underlying and expiry in {None, day} for name, day in known.cells)
        if underlying is None or mine:
            found.append(Snapshot(number, at, known.what, known.cells, known.run_id, known.version))
    return found


def last_change(warehouse: Warehouse, underlying: str, expiry: date) -> Change:
    """Compare the candles of a cell with those before the commit that wrote them last."""
    cell: dict[str, str | date] = {"underlying": underlying, "expiry": expiry}
    with warehouse.reading() as connection:
        version, rows = candles_version(connection, cell), _rows(connection, cell, _NOW)
        written = next((one for one in listed(connection, underlying, expiry) if one.what in _WRITES_CANDLES), None)
        before = _NOW if written is None else f"{STORE}.main.candles AT (VERSION => {written.number - 1:d})"
        if written is None or not _rows(connection, cell, before):
            return Change(version, None, rows, added=rows, removed=0, changed=0)
        counts = connection.execute(difference(before + _OF_CELL, _NOW + _OF_CELL), cell).fetchone()
    added, removed, changed = counts or (0, 0, 0)
    with warehouse.at(written.number - 1).reading() as connection:
        previous = candles_version(connection, cell)
    return Change(version, previous, rows, added, removed, changed)


def _rows(connection: duckdb.DuckDBPyConnection, cell: Mapping[str, str | date], source: str) -> int:
    (rows,) = connection.execute(f"SELECT count(*) FROM {source}{_OF_CELL}", cell).fetchone() or (0,)  # noqa: S608 -- our own names
    return int(rows)


def _read(told: str | None) -> _Told | None:
    try:
        return msgspec.json.decode(told, type=_Told) if told else None
    except msgspec.MsgspecError:
        return None
