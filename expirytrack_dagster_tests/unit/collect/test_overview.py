"""Coverage counts cells that exist, by what is left to do."""

from __future__ import annotations

from datetime import date

from expirytrack_dagster.collect.due import Cell
from expirytrack_dagster.collect.overview import overview


def test_every_cell_is_counted_once() -> None:
    """Complete, begun, not begun, waiting and lost add up to the cells; percentages are of what is listed."""
    day = date(2025, 8, 28)
    cells = [
        Cell("NIFTY", day, 4, 4, 0, sealed=True, listed=True, leaves=None),
        Cell("NIFTY", day, 4, 1, 0, sealed=False, listed=True, leaves=None),
        Cell("NIFTY", day, 0, 0, 0, sealed=False, listed=True, leaves=None),
        Cell("SENSEX", day, 4, 3, 1, sealed=False, listed=True, leaves=None),
        Cell("SENSEX", day, 0, 0, 0, sealed=False, listed=False, leaves=None),
        Cell("SENSEX", day, 2, 2, 0, sealed=True, listed=False, leaves=None),
    ]
    found = overview(cells)
    names = ("complete", "begun", "not_begun", "waiting", "lost")
    assert [found.numbers[name] for name in names] == [2, 1, 1, 1, 1]
    assert sum(found.numbers[name] for name in names) == found.numbers["cells"] == len(cells)
    assert found.numbers["completeness_percent"] == 33.33
    assert found.numbers["contracts_percent"] == round(100 * 10 / 14, 2)
    assert list(found.table["underlying"]) == ["NIFTY", "SENSEX"]
    assert list(found.table["lost"]) == [0, 1]


def test_an_empty_archive_lacks_nothing() -> None:
    """Nothing listed, nothing missing."""
    found = overview([])
    assert found.numbers["cells"] == 0
    assert found.numbers["completeness_percent"] == 100.0
    assert len(found.table) == 0
