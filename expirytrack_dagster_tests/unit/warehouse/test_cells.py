"""Writing a cell: whole or not at all, by name, only the contracts concerned, counts proved before the commit."""

from __future__ import annotations

from datetime import UTC, date, datetime
from itertools import groupby
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pytest

from expirytrack_dagster.errors import CellLost, StorageError
from expirytrack_dagster.warehouse.cells import (
    CellWrite,
    ExpiryWrite,
    write_candles,
    write_contracts,
    write_expiries,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from expirytrack_dagster.warehouse.connection import Warehouse
    from expirytrack_dagster_tests.unit.warehouse.conftest import Cell

    Rows = Callable[[str], list[dict[str, Any]]]

PLACES = ("plain", "encrypted", "sqlite")
MORE_PLACES = dict.fromkeys(
    (
        "test_expiries_are_counted_and_kept",
        "test_contracts_are_replaced_within_their_cell",
        "test_rows_go_where_their_rule_sends_them",
        "test_only_the_named_contracts_are_replaced",
        "test_values_come_back_as_they_went",
        "test_what_is_refused_at_last_is_not_written",
    ),
    ("lake", "lake on a server"),
)
EXPIRY = date(2025, 8, 28)
COUNTS = "SELECT instrument_key AS key, count(*) AS n, min(open) AS open FROM candles GROUP BY ALL ORDER BY ALL"
HOSTILE = [
    "'; DROP TABLE candles; --",
    '"',
    "$expiry",
    "?",
    "%s{}",
    "NIFTY\n",
    "निफ्टी",
    "N" * 10_000,
    " ",
    "\\",
    "a\0b",
]


def listing(*days: date, seen: datetime | None = None) -> pd.DataFrame:
    """Return expiries as the API lists them."""
    frame = pd.DataFrame({"expiry": list(days), "underlying_key": "NSE_INDEX|Nifty 50"})
    return frame if seen is None else frame.assign(discovered_at=seen)


def chain(*keys: str, **columns: Any) -> pd.DataFrame:
    """Return a contract list."""
    frame = pd.DataFrame({"instrument_key": pd.Series(keys, dtype="str"), "instrument_type": "CE", "strike_price": 1.5})
    return frame.assign(**columns)


def test_expiries_are_counted_and_kept(warehouse: Warehouse, rows: Rows) -> None:
    """New, known and withdrawn dates; the first discovery stays, a withdrawn date too, the key is refreshed."""
    first, later = datetime(2025, 9, 1, tzinfo=UTC), datetime(2025, 9, 8, tzinfo=UTC)
    a, b, c = date(2025, 8, 14), date(2025, 8, 21), EXPIRY
    assert write_expiries(warehouse, "NIFTY", listing(a, b, seen=first)) == ExpiryWrite(new=2, known=0, withdrawn=0)
    assert write_expiries(warehouse, "SENSEX", listing(a, seen=first)) == ExpiryWrite(new=1, known=0, withdrawn=0)
    renamed = listing(b, c, seen=later).assign(underlying_key="renamed")
    assert write_expiries(warehouse, "NIFTY", renamed) == ExpiryWrite(new=1, known=1, withdrawn=1)
    found = rows("SELECT expiry, underlying_key AS k, discovered_at AS d FROM expiries WHERE underlying = 'NIFTY'")
    assert sorted((row["expiry"], row["k"], row["d"]) for row in found) == [
        (a, "NSE_INDEX|Nifty 50", first),
        (b, "renamed", first),
        (c, "renamed", later),
    ]


def test_expiries_without_a_time_were_discovered_now(warehouse: Warehouse, rows: Rows) -> None:
    """The database fills in its own clock."""
    write_expiries(warehouse, "NIFTY", listing(EXPIRY))
    assert rows("SELECT abs(epoch(now()) - epoch(discovered_at)) < 60 AS fresh FROM expiries") == [{"fresh": True}]


def test_contracts_are_replaced_within_their_cell(warehouse: Warehouse, rows: Rows) -> None:
    """The same key can be deleted and inserted in one transaction; other cells stay."""
    other = date(2025, 9, 2)
    assert write_contracts(warehouse, "NIFTY", EXPIRY, chain("a", "b")) == 2
    assert write_contracts(warehouse, "NIFTY", other, chain("c")) == 1
    assert write_contracts(warehouse, "NIFTY", EXPIRY, chain("b", "d", lot_size=75)) == 2
    found = rows("SELECT instrument_key AS k, expiry, lot_size AS lot FROM contracts ORDER BY k")
    assert [(row["k"], row["expiry"], row["lot"]) for row in found] == [
        ("b", EXPIRY, 75),
        ("c", other, None),
        ("d", EXPIRY, 75),
    ]
    assert write_contracts(warehouse, "NIFTY", EXPIRY, chain()) == 0
    assert [row["k"] for row in rows("SELECT instrument_key AS k FROM contracts")] == ["c"]


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(chain("new", "new"), id="a key twice"),
        pytest.param(chain("new", "elsewhere"), id="a key of another cell"),
        pytest.param(chain("new", instrument_type="XX"), id="an unknown type"),
        pytest.param(chain("new", surprise=1), id="a column that the table lacks"),
        pytest.param(chain("new", lot_size="many"), id="a text for a number"),
        pytest.param(
            chain("new", "newer", lot_size=pd.Series(["many", 75], dtype=object)), id="texts and numbers mixed"
        ),
        pytest.param(chain("new").drop(columns="instrument_type"), id="a type missing"),
    ],
)
def test_a_bad_contract_list_leaves_the_old_one(warehouse: Warehouse, rows: Rows, frame: pd.DataFrame) -> None:
    """Whatever is wrong with it, the error is one of storage and the cell keeps its rows."""
    write_contracts(warehouse, "NIFTY", date(2025, 9, 2), chain("elsewhere"))
    write_contracts(warehouse, "NIFTY", EXPIRY, chain("old"))
    with pytest.raises(StorageError):
        write_contracts(warehouse, "NIFTY", EXPIRY, frame)
    assert {row["k"] for row in rows("SELECT instrument_key AS k FROM contracts")} == {"elsewhere", "old"}


def test_rows_go_where_their_rule_sends_them(warehouse: Warehouse, rows: Rows, cell: Cell) -> None:
    """Valid rows become candles, the others are kept in quarantine with rule, detail and run; states are stored."""
    cell.add("a", good=3, bad=1).add("b", good=2, duplicates=4, received=6).add("c", good=0)
    assert cell.write(warehouse, run_id="run-7") == CellWrite(candles=5, quarantined=1)
    assert rows(COUNTS) == [{"key": "a", "n": 3, "open": 100.0}, {"key": "b", "n": 2, "open": 100.0}]
    held = rows("SELECT underlying, expiry, instrument_key AS k, rule, detail, run_id, volume FROM quarantine")
    assert [tuple(row.values()) for row in held] == [
        ("NIFTY", EXPIRY, "a", "low_above_high", "low 5 is above high 4", "run-7", 3)
    ]
    states = rows("SELECT instrument_key AS k, status, candles, duplicates FROM contract_status ORDER BY k")
    assert [tuple(row.values()) for row in states] == [
        ("a", "complete", 3, 0),
        ("b", "complete", 2, 4),
        ("c", "empty_proven", 0, 0),
    ]


def test_a_cell_without_staged_files_can_be_written(warehouse: Warehouse, rows: Rows, cell: Cell) -> None:
    """Contracts that never traded have states and no rows, and they replace rows of before."""
    cell.add("a").write(warehouse)
    cell.staged.clear()
    cell.states.clear()
    assert cell.add("a", good=0).write(warehouse) == CellWrite(0, 0)
    assert rows(COUNTS) == []


def test_only_the_named_contracts_are_replaced(warehouse: Warehouse, rows: Rows, new_cell: Callable[[], Cell]) -> None:
    """A contract that is asked again loses its old candles and bad rows; its neighbours and other cells keep theirs."""
    new_cell().add("a", good=3, bad=2).add("b", good=3, bad=1).write(warehouse)
    new_cell().add("a", good=4).write(warehouse, underlying="SENSEX")
    new_cell().add("a", good=2, price=200.0).write(warehouse)
    assert rows(COUNTS.replace("GROUP", "WHERE underlying = 'NIFTY' GROUP")) == [
        {"key": "a", "n": 2, "open": 200.0},
        {"key": "b", "n": 3, "open": 100.0},
    ]
    assert rows("SELECT instrument_key AS k, count(*) AS n FROM quarantine GROUP BY ALL") == [{"k": "b", "n": 1}]
    assert rows("SELECT count(*) AS n FROM candles WHERE underlying = 'SENSEX'") == [{"n": 4}]


def test_writing_twice_is_writing_once(warehouse: Warehouse, rows: Rows, cell: Cell) -> None:
    """A run that is repeated leaves the same rows."""
    cell.add("a", good=5, bad=1).add("b")
    first = cell.write(warehouse)
    before = rows("SELECT * FROM candles ORDER BY ALL")
    assert cell.write(warehouse) == first
    assert rows("SELECT * FROM candles ORDER BY ALL") == before
    assert rows("SELECT count(*) AS n FROM quarantine") == [{"n": 1}]


def test_candles_lie_by_contract_and_time(warehouse: Warehouse, rows: Rows, cell: Cell) -> None:
    """However the batches arrived: side by side they pack best and are read by few blocks."""
    cell.add("c", good=300).add("a", good=300).add("b", good=300).write(warehouse)
    stored = [(row["instrument_key"], row["ts"]) for row in rows("SELECT instrument_key, ts FROM candles")]
    assert [key for key, _ in groupby(key for key, _ in stored)] == ["c", "a", "b"]
    assert sorted(stored) == sorted(stored, key=lambda row: row[0])


def test_columns_go_by_their_names(warehouse: Warehouse, rows: Rows, cell: Cell) -> None:
    """A staged file with its columns in another order swaps nothing, even between files of one write."""
    cell.add("a", good=1)
    cell.add("b", good=0, candles=1, received=1, status="complete")
    names = ["rule", "detail", "open_interest", "volume", "close", "low", "high", "open", "ts", "instrument_key"]
    whole = dict.fromkeys(names, pa.nulls(1, pa.string()))
    ts = pa.array([datetime(2025, 8, 1, 3, 45, tzinfo=UTC)], pa.timestamp("us", tz="UTC"))
    values: dict[str, Any] = {"open_interest": [6], "volume": [5], "close": [2.0], "low": [1.0], "high": [4.0]}
    cell.stage(**{**whole, **values, "open": [3.0], "ts": ts, "instrument_key": ["b"]})
    cell.write(warehouse)
    assert rows("SELECT open, high, low, close, volume, open_interest FROM candles WHERE instrument_key = 'b'") == [
        {"open": 3.0, "high": 4.0, "low": 1.0, "close": 2.0, "volume": 5, "open_interest": 6}
    ]
    cell.states = [dict(reversed(state.items())) for state in cell.states]
    cell.write(warehouse)
    assert rows("SELECT candles, requests FROM contract_status WHERE instrument_key = 'b'") == [
        {"candles": 1, "requests": 1}
    ]


def spoil_nothing_staged(cell: Cell) -> None:
    """The file is gone."""
    cell.staged[-1].unlink()


def spoil_cut_off(cell: Cell) -> None:
    """The file ends in the middle."""
    cell.staged[-1].write_bytes(cell.staged[-1].read_bytes()[:-20])


def spoil_null(cell: Cell) -> None:
    """A price is missing in a row that is said to be valid, after thousands that are sound."""
    ts = pa.array([datetime(2025, 8, 2, tzinfo=UTC)], pa.timestamp("us", tz="UTC"))
    gone, none = pa.nulls(1, pa.float64()), pa.nulls(1, pa.string())
    cell.stage(
        instrument_key=["z"],
        ts=ts,
        open=gone,
        high=[1.0],
        low=[1.0],
        close=[1.0],
        volume=[1],
        open_interest=[1],
        rule=none,
        detail=none,
    )
    cell.add("z", good=0, candles=1, received=1)


def spoil_column(cell: Cell) -> None:
    """A column is not there."""
    cell.stage(instrument_key=["z"], rule=pa.nulls(1, pa.string()))


def spoil_too_few(cell: Cell) -> None:
    """A state counts a candle more than was staged."""
    cell.states[0].update(candles=cell.states[0]["candles"] + 1, received=cell.states[0]["received"] + 1)


def spoil_swapped_counts(cell: Cell) -> None:
    """Two states have each other's counts: the sums agree."""
    first, second = cell.states[:2]
    for name in ("candles", "received"):
        first[name], second[name] = second[name], first[name]


def spoil_unaccounted(cell: Cell) -> None:
    """A row was received and became nothing."""
    cell.states[0]["received"] += 1


def spoil_no_state(cell: Cell) -> None:
    """Rows of a contract that no state names."""
    del cell.states[0]


def spoil_state_twice(cell: Cell) -> None:
    """Two states of one contract."""
    cell.states.append({**cell.states[0], "candles": 0, "received": 0, "quarantined": 0})


def spoil_state(cell: Cell) -> None:
    """A state outside of the closed set."""
    cell.states[0]["status"] = "done"


def spoil_mixed(cell: Cell) -> None:
    """A count that is a text."""
    cell.states[0]["requests"] = "one"


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_nothing_staged,
        spoil_cut_off,
        spoil_null,
        spoil_column,
        spoil_too_few,
        spoil_swapped_counts,
        spoil_unaccounted,
        spoil_no_state,
        spoil_state_twice,
        spoil_state,
        spoil_mixed,
    ],
)
def test_a_failed_write_keeps_the_old_rows(
    warehouse: Warehouse, rows: Rows, new_cell: Callable[[], Cell], spoil: Callable[[Cell], None]
) -> None:
    """The old rows were deleted and some new ones inserted when it failed; all of that is undone."""
    new_cell().add("a", good=3, bad=1).add("b", good=2).write(warehouse)
    tables = ("candles", "quarantine", "contract_status")
    before = [rows(f"SELECT * FROM {table} ORDER BY ALL") for table in tables]  # noqa: S608 -- names of this test
    bad = new_cell().add("a", good=3000, price=7.0).add("b", good=5, price=7.0)
    spoil(bad)
    with pytest.raises(StorageError):
        bad.write(warehouse)
    assert [rows(f"SELECT * FROM {table} ORDER BY ALL") for table in tables] == before  # noqa: S608 -- as above


def test_what_is_refused_at_last_is_not_written(warehouse: Warehouse, rows: Rows, new_cell: Callable[[], Cell]) -> None:
    """Whoever lost its cell learns it when all is written and nothing committed; the other holder's rows stay."""
    new_cell().add("a", good=3, bad=1).write(warehouse)
    write_contracts(warehouse, "NIFTY", EXPIRY, chain("a"))
    tables = ("contracts", "candles", "quarantine", "contract_status", "cell_seals")
    before = [rows(f"SELECT * FROM {table} ORDER BY ALL") for table in tables]  # noqa: S608 -- names of this test

    def lost() -> None:
        raise CellLost("taken over")

    with pytest.raises(CellLost, match="taken over"):
        write_contracts(warehouse, "NIFTY", EXPIRY, chain("a", "b"), "run-2", at_last=lost)
    late = new_cell().add("a", good=30, price=7.0)
    with pytest.raises(CellLost, match="taken over"):
        write_candles(warehouse, "NIFTY", late.expiry, late.staged, late.status, "run-2", late.key, at_last=lost)
    assert [rows(f"SELECT * FROM {table} ORDER BY ALL") for table in tables] == before  # noqa: S608 -- as above


def test_the_sentence_of_an_imbalance_names_the_contract(warehouse: Warehouse, cell: Cell) -> None:
    """Whoever reads it knows which contract to ask again."""
    cell.add("a", good=3).add("b", good=2)
    spoil_swapped_counts(cell)
    with pytest.raises(StorageError, match=r"NIFTY 2025-08-28 was not written: a has 3 candles .* counts 2 and 0"):
        cell.write(warehouse)


def test_a_missing_batch_is_not_a_damaged_database(warehouse: Warehouse, cell: Cell) -> None:
    """A cut-off Parquet file must not send the user to his backups."""
    cell.add("a")
    spoil_cut_off(cell)
    with pytest.raises(StorageError) as caught:
        cell.write(warehouse)
    assert type(caught.value) is StorageError


def test_hostile_texts_are_only_texts(warehouse: Warehouse, rows: Rows, new_cell: Callable[[], Cell]) -> None:
    """As underlying, key, run and name they are stored as they are, and touch nothing else."""
    for symbol in HOSTILE:
        write_expiries(warehouse, symbol, listing(EXPIRY))
        write_contracts(warehouse, symbol, EXPIRY, chain(symbol, name=symbol))
        new_cell().add(symbol, good=1, bad=1).write(warehouse, underlying=symbol, run_id=symbol)
    for table in ("expiries", "contracts", "candles", "quarantine", "contract_status"):
        found = rows(f"SELECT underlying FROM {table}")  # noqa: S608 -- names of this test
        assert sorted(row["underlying"] for row in found) == sorted(HOSTILE)
    odd = "SELECT * FROM quarantine WHERE instrument_key <> underlying OR run_id <> underlying"
    assert rows(odd) == []


def test_hostile_file_names_are_only_names(warehouse: Warehouse, rows: Rows, cell: Cell) -> None:
    """A quote in the home's path is no SQL."""
    cell.folder = cell.folder.with_name("o'neil; --")
    cell.add("a").write(warehouse)
    assert rows(COUNTS) == [{"key": "a", "n": 2, "open": 100.0}]


def test_values_come_back_as_they_went(warehouse: Warehouse, rows: Rows, cell: Cell) -> None:
    """Instants, prices to the last bit, counts beyond 32 bits."""
    price, many = 24350.15, 2**53 + 1
    ts = pa.array([datetime(2025, 8, 1, 18, 29, 0, tzinfo=UTC)], pa.timestamp("us", tz="UTC"))
    none = pa.nulls(1, pa.string())
    cell.stage(
        instrument_key=["a"],
        ts=ts,
        open=[price],
        high=[price + 0.05],
        low=[0.05],
        close=[0.1 + 0.2],
        volume=[many],
        open_interest=[many],
        rule=none,
        detail=none,
    )
    cell.add("a", good=0, candles=1, received=1).write(warehouse)
    assert rows("SELECT ts, open, high, low, close, volume, open_interest FROM candles") == [
        {
            "ts": datetime(2025, 8, 1, 18, 29, tzinfo=UTC),
            "open": price,
            "high": price + 0.05,
            "low": 0.05,
            "close": 0.1 + 0.2,
            "volume": many,
            "open_interest": many,
        }
    ]
