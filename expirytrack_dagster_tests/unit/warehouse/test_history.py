"""The history of a lake: which commits wrote a cell, what it was after each, and what each changed."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from expirytrack_dagster.errors import StorageError
from expirytrack_dagster.warehouse.cells import write_candles, write_contracts, write_expiries
from expirytrack_dagster.warehouse.history import snapshots
from expirytrack_dagster.warehouse.lake_room import LakeRoom
from expirytrack_dagster.warehouse.maintenance import maintain
from expirytrack_dagster.warehouse.published import publish_candles
from expirytrack_dagster.warehouse.review import Selection, review

if TYPE_CHECKING:
    from collections.abc import Callable

    from expirytrack_dagster.warehouse.connection import Warehouse
    from expirytrack_dagster.warehouse.versions import Change
    from expirytrack_dagster_tests.unit.warehouse.conftest import Cell

PLACES = ("lake", "lake on a server")
EXPIRY = date(2025, 8, 28)


def write(warehouse: Warehouse, cell: Cell, run_id: str) -> Change:
    """Write a cell and return what that changed."""
    change = write_candles(warehouse, "NIFTY", cell.expiry, cell.staged, cell.status, run_id, cell.key).change
    assert change is not None
    return change


def told(change: Change) -> tuple[int, int, int, int]:
    """Return the figures of a change: rows, and rows added, removed and changed."""
    return change.rows, change.added, change.removed, change.changed


def test_it_names_cells_and_versions(warehouse: Warehouse, new_cell: Callable[[], Cell]) -> None:
    """Which run wrote what, and what the candles of a cell were."""
    write_expiries(warehouse, "NIFTY", pd.DataFrame({"expiry": [EXPIRY], "underlying_key": "x"}), "run-0")
    chain = pd.DataFrame({"instrument_key": ["a", "b"], "instrument_type": "CE"})
    write_contracts(warehouse, "NIFTY", EXPIRY, chain, "run-1")
    first = write(warehouse, new_cell().add("a", good=3).add("b", good=2), "run-2")
    second = write(warehouse, new_cell().add("a", good=2, price=101.0), "run-3")
    history = snapshots(warehouse, "NIFTY", EXPIRY)
    assert [(one.what, one.run_id, one.versions) for one in history] == [
        ("candles", "run-3", (second.version,)),
        ("candles", "run-2", (first.version,)),
        ("contracts", "run-1", (None,)),
        ("expiries", "run-0", ()),
    ]
    assert snapshots(warehouse, limit=2) == snapshots(warehouse, "NIFTY", limit=2) == history[:2]
    assert history[-1].cells == (("NIFTY", None),)
    assert [one.what for one in snapshots(warehouse)[-2:]] == ["schema", "made"]
    assert snapshots(warehouse, "NIFT") == []
    for past in (warehouse.at(history[1].number), warehouse.at(history[0].at - timedelta(microseconds=1))):
        with past.reading() as connection:
            assert connection.execute("SELECT count(*) FROM candles").fetchone() == (5,)
    with pytest.raises(StorageError, match=r"read-only|read only"):
        write(warehouse.at(history[1].number), new_cell().add("a"), "run-4")


def test_a_write_tells_what_it_changed(warehouse: Warehouse, new_cell: Callable[[], Cell]) -> None:
    """Not what an earlier one did, and also where what was there before is not kept any more."""
    first = write(warehouse, new_cell().add("a", good=3).add("b", good=2), "run-1")
    assert (first.previous, told(first)) == (None, (5, 5, 0, 0))
    nothing = new_cell().add("a").status.iloc[:0]
    for kept in (True, False):
        if not kept:
            assert maintain(warehouse, timedelta(0)).snapshots_expired > 1
        written = write_candles(warehouse, "NIFTY", EXPIRY, [], nothing, "run-2")
        assert written.change is None
        assert publish_candles(warehouse, "NIFTY", EXPIRY, written.change) == (first.version, None)
    second = write(warehouse, new_cell().add("a", good=2, price=101.0), "run-3")
    assert (second.previous, told(second)) == (first.version, (4, 0, 1, 2))
    assert publish_candles(warehouse, "NIFTY", EXPIRY, second) == (second.version, second)
    third = write(warehouse, new_cell().add("a", good=2, price=101.0), "run-4")
    assert (third.previous, told(third)) == (third.version, (4, 0, 0, 0))
    assert publish_candles(warehouse, "NIFTY", EXPIRY, third) == (second.version, None)


def test_what_a_review_or_a_list_made_of_cells_is_found_again(
    warehouse: Warehouse, new_cell: Callable[[], Cell]
) -> None:
    """A commit names each cell that it touched with its version; who asks for that later gets those candles."""
    days = [EXPIRY, date(2025, 9, 2)]
    write_expiries(warehouse, "NIFTY", pd.DataFrame({"expiry": days, "underlying_key": "x"}))
    for day in days:
        cell = new_cell()
        cell.expiry = day
        cell.add(f"k{day}", good=3, bad=1).write(warehouse)
        write_contracts(warehouse, "NIFTY", day, pd.DataFrame({"instrument_key": [f"k{day}"], "instrument_type": "CE"}))
    assert len(review(warehouse, Selection("NIFTY", instrument_key="none"), "release", "me")) == 0
    assert len(review(warehouse, Selection(), "release", "me")) == 2
    new_cell().add(f"k{EXPIRY}", good=2).write(warehouse)
    history = snapshots(warehouse, "NIFTY", EXPIRY)
    assert [one.what for one in history] == ["candles", "release", "contracts", "candles", "expiries"]
    assert history[1].cells == tuple(("NIFTY", day) for day in days)
    rewritten, released, listed = (one.version("NIFTY", EXPIRY) for one in history[:3])
    room = LakeRoom(warehouse)
    versions = list(room.versions("NIFTY", EXPIRY))
    assert [(one.version, one.rows, one.current) for one in versions] == [
        (rewritten, 2, True),
        (released, 4, False),
        (listed, 3, False),
    ]
    assert [len(room.candles(one)) for one in versions] == [2, 4, 3]
