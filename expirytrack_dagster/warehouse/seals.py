"""The seal of a finished cell: what its rows were when its last contract became final.

A cell is sealed when it was asked for its contracts and every one of them is complete or proven empty; a list that was
asked and is empty counts too. A sealed cell is never asked again, and its checksum lets `verify.py` prove that its
candles are those that were written. All functions run inside the caller's transaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from expirytrack_dagster.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import date

    import duckdb

FINAL = "('complete', 'empty_proven')"
"""States that are final, as a list in SQL."""

# A sum does not depend on the order of rows, and unlike a bitwise XOR it sees a row that stands there twice.
HASHES = "coalesce(sum(hash(instrument_key, ts, open, high, low, close, volume, open_interest)), 0)"
WIDTH = "18446744073709551616"

_OF_CELL = "underlying = $underlying AND expiry = $expiry"

_UNFINISHED = f"""
SELECT 1 FROM contracts LEFT JOIN contract_status USING (underlying, expiry, instrument_key)
WHERE {_OF_CELL} AND coalesce(status NOT IN {FINAL}, true)
"""  # noqa: S608 -- our own constants

_BREAK = f"DELETE FROM main.cell_seals WHERE {_OF_CELL}"  # noqa: S608 -- a constant condition

_RECOUNT = f"""
UPDATE main.cell_seals SET contracts = (SELECT count(*) FROM contracts WHERE {_OF_CELL}) WHERE {_OF_CELL}
"""  # noqa: S608 -- a constant condition

_SEAL = f"""
INSERT INTO main.cell_seals BY NAME
SELECT $underlying AS underlying, $expiry AS expiry, (SELECT count(*) FROM contracts WHERE {_OF_CELL}) AS contracts,
    count(*) AS candles, ({HASHES} % {WIDTH})::UBIGINT AS checksum, now() AS sealed_at
FROM candles WHERE {_OF_CELL}
HAVING EXISTS (SELECT 1 FROM expiries WHERE {_OF_CELL})
AND NOT EXISTS (SELECT 1 FROM cell_seals WHERE {_OF_CELL})
AND NOT EXISTS ({_UNFINISHED})
"""  # noqa: S608 -- our own constants

_CHANGED = f"""
SELECT 1 FROM cell_seals WHERE {_OF_CELL}
AND (candles, checksum) IS DISTINCT FROM
    (SELECT (count(*), ({HASHES} % {WIDTH})::UBIGINT) FROM candles WHERE {_OF_CELL})
"""  # noqa: S608 -- our own constants


def reseal(connection: duckdb.DuckDBPyConnection, cell: Mapping[str, str | date]) -> None:
    """Seal the cell as it is now, when it is finished; its candles have just been rewritten."""
    connection.execute(_BREAK, cell)
    connection.execute(_SEAL, cell)


def keep_seal(connection: duckdb.DuckDBPyConnection, cell: Mapping[str, str | date]) -> None:
    """Fit the seal to a new contract list: its checksum stays, so that a change of candles does not go unseen."""
    connection.execute(f"{_BREAK} AND EXISTS ({_UNFINISHED})", cell)
    connection.execute(_RECOUNT, cell)
    seal_if_finished(connection, cell)


def seal_if_finished(connection: duckdb.DuckDBPyConnection, cell: Mapping[str, str | date]) -> None:
    """Seal a finished cell that has no seal; one that has a seal keeps it, even if it does not fit any more."""
    connection.execute(_SEAL, cell)


def require_intact(connection: duckdb.DuckDBPyConnection, cell: Mapping[str, str | date]) -> None:
    """Refuse to change a sealed cell whose candles are not those that were sealed.

    Raises:
        StorageError: a new seal would hide the difference.
    """
    if connection.execute(_CHANGED, cell).fetchone():
        name = f"{cell['underlying']} {cell['expiry']}"
        raise StorageError(
            f"The candles of {name} are not those that were sealed, so nothing was changed: run "
            f"'expirytrack verify {cell['underlying']}', then collect the cell again with --refetch."
        )
