"""Every question of the proof: an archive as it was written answers none of them, each damage exactly its own."""
# ruff: noqa: S608 -- statements are put together from constants of this file

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from expirytrack_dagster.warehouse.verify import Snapshot, underlyings

if TYPE_CHECKING:
    from expirytrack_dagster_tests.unit.conftest import SmallArchive

A = "instrument_key = 'NSE_FO|40001|21-08-2025'"
B = "instrument_key = 'NSE_FO|40002|21-08-2025'"
NEW, EMPTY = "'NSE_FO|40004|21-08-2025'", "status = 'empty_proven'"
COPY = "INSERT INTO main.candles SELECT * EXCLUDE (ts) FROM candles"
FIRST = "ts = TIMESTAMPTZ '2025-08-21 03:45:00+00'"

# Seals stand against any change of candles; where the damage is something else, the cell is sealed anew after it.
RESEAL = """
UPDATE main.cell_seals SET candles = now.candles, checksum = now.checksum FROM (
    SELECT count(*) AS candles, (sum(hash(instrument_key, ts, open, high, low, close, volume, open_interest))
        % 18446744073709551616)::UBIGINT AS checksum FROM candles WHERE expiry = DATE '2025-08-21') AS now
WHERE expiry = DATE '2025-08-21'
"""
BREAK = "DELETE FROM main.cell_seals WHERE expiry = DATE '2025-08-21'"
RECOUNT = f"""
UPDATE main.contract_status SET candles = now.rows, received = now.rows + 2,
    first_ts = now.first_ts, last_ts = now.last_ts
FROM (SELECT count(*) AS rows, min(ts) AS first_ts, max(ts) AS last_ts FROM candles WHERE {A}) AS now WHERE {A}
"""

DAMAGES = {
    "unasked": (
        f"DELETE FROM main.contract_status WHERE {A}",
        f"DELETE FROM main.candles WHERE {A}",
        "DELETE FROM main.quarantine",
        BREAK,
    ),
    "unfinished": (f"UPDATE main.contract_status SET status = 'failed', message = 'HTTP 500' WHERE {A}", BREAK),
    "counts": (f"DELETE FROM main.candles WHERE {A} AND ts = TIMESTAMPTZ '2025-08-21 03:50:00+00'", RESEAL),
    "counts of the first minute": (f"DELETE FROM main.candles WHERE {A} AND {FIRST}", RESEAL),
    "counts without a state": (f"DELETE FROM main.contract_status WHERE {B}", BREAK),
    "quarantine_counts": ("DELETE FROM main.quarantine WHERE close IS NULL",),
    "received": (f"UPDATE main.contract_status SET received = 99 WHERE {A}",),
    "duplicates": (f"{COPY} WHERE {A} AND {FIRST}", RECOUNT, RESEAL),
    "duplicates of another price": (
        f"INSERT INTO main.candles SELECT * EXCLUDE (ts) REPLACE (1.5 AS low) FROM candles WHERE {A} AND {FIRST}",
        RECOUNT,
        RESEAL,
    ),
    "order": (
        f"CREATE TEMP TABLE moved AS SELECT * EXCLUDE (ts) FROM candles WHERE {A} AND {FIRST}",
        f"DELETE FROM main.candles WHERE {A} AND {FIRST}",
        "INSERT INTO main.candles SELECT * FROM moved",
    ),
    "after_expiry": (
        f"UPDATE main.candles SET minute = minute + 24 * 60 WHERE {A} AND ts = TIMESTAMPTZ '2025-08-21 04:44:00+00'",
        RECOUNT,
        RESEAL,
    ),
    "orphan_rows": ("UPDATE main.quarantine SET instrument_key = 'NSE_FO|9|21-08-2025' WHERE close IS NULL",),
    "orphan_rows of no expiry": (
        "INSERT INTO main.candles SELECT * EXCLUDE (ts) REPLACE (DATE '2025-08-22' AS expiry) FROM candles LIMIT 1",
    ),
    "withdrawn": (
        f"DELETE FROM main.contracts WHERE {B}",
        "UPDATE main.cell_seals SET contracts = 2 WHERE contracts = 3",
    ),
    "no_expiry": ("DELETE FROM main.expiries WHERE expiry = DATE '2025-08-21'",),
    "unsealed": (BREAK,),
    "seal": (f"UPDATE main.candles SET close = close + 0.05 WHERE {A} AND {FIRST}",),
    "seal of another list": (
        f"INSERT INTO main.contracts SELECT * REPLACE ({NEW} AS instrument_key) FROM contracts WHERE {A}",
        (
            f"INSERT INTO main.contract_status SELECT * REPLACE ({NEW} AS instrument_key) FROM contract_status "
            f"WHERE {EMPTY}"
        ),
    ),
    "seal of an unfinished cell": (f"UPDATE main.contract_status SET status = 'partial' WHERE {A}",),
}
ALSO = {
    # What follows from the damage itself.
    "counts without a state": {"unasked"},
    "orphan_rows": {"quarantine_counts"},
    "seal of an unfinished cell": {"unfinished"},
}


def kinds(archive: SmallArchive) -> dict[str, int]:
    """Return what is found, with its number, less the cell that was never collected."""
    found = {}
    with archive.warehouse.reading() as connection:
        snapshot = Snapshot(connection, "NIFTY")
        for day in snapshot.cells():
            snapshot.read(day)
        for fact in snapshot.facts():
            found[fact.kind] = fact.count
    assert found.pop("uncollected") == 1
    return found


def test_a_sound_archive_answers_nothing(archive: SmallArchive) -> None:
    """Everything is where the books say, and the totals are those of the tables."""
    assert kinds(archive) == {}
    with archive.warehouse.reading() as connection:
        snapshot = Snapshot(connection, "NIFTY")
        minutes = {day: snapshot.read(day) for day in snapshot.cells()}
        totals = snapshot.totals()
    assert (totals.cells, totals.sealed, totals.contracts, totals.candles, totals.quarantined) == (3, 2, 3, 120, 2)
    (frame,) = minutes.values()
    assert frame["contracts"].tolist() == [2] * 60
    assert underlyings(archive.warehouse) == {"NIFTY": 120}


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_damage_is_found_and_nothing_else(archive: SmallArchive, damage: str) -> None:
    """What was planted is named, together with what follows from it and no more."""
    archive.run(*DAMAGES[damage])
    assert set(kinds(archive)) == {damage.partition(" ")[0]} | ALSO.get(damage, set())


def test_duplicates_are_counted_once_each(archive: SmallArchive) -> None:
    """A minute stored three times is two rows too many, wherever they stand."""
    for _ in range(2):
        archive.run(f"{COPY} WHERE {A} AND {FIRST} LIMIT 1")
    archive.run(RECOUNT, RESEAL)
    assert kinds(archive) == {"duplicates": 2}


def test_one_cell_is_proved_alone(archive: SmallArchive) -> None:
    """With an expiry, nothing of another cell is looked at."""
    archive.run("DELETE FROM main.quarantine", "INSERT INTO main.expiries VALUES ('NIFTY', '2025-10-30', 'k', now())")
    with archive.warehouse.reading() as connection:
        (empty,) = connection.execute("SELECT expiry FROM expiries ORDER BY expiry DESC LIMIT 1").fetchall()[0]
        snapshot = Snapshot(connection, "NIFTY", empty)
        assert snapshot.cells() == {}
        assert [fact.kind for fact in snapshot.facts()] == ["uncollected"]


def test_rows_of_an_unknown_underlying_are_met(archive: SmallArchive) -> None:
    """An underlying that only the candles name is one of those to be proved."""
    archive.run("INSERT INTO main.candles SELECT * EXCLUDE (ts) REPLACE ('LOST' AS underlying) FROM candles LIMIT 3")
    assert underlyings(archive.warehouse) == {"LOST": 3, "NIFTY": 120}
