"""A NautilusTrader catalog, opened by NautilusTrader itself.

It needs an older pandas than this project, so it lives in an environment of its own, which `make nautilus` builds.
"""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.export.selection import Interval, Selection
from expirytrack_dagster.warehouse.connection import Warehouse
from expirytrack_dagster_tests.unit.export.conftest import MONTHLY

if TYPE_CHECKING:
    from expirytrack_dagster_tests.unit.export.conftest import Shop

ENVIRONMENT = Path(__file__).parents[3] / ".venv-nautilus"
PYTHON = ENVIRONMENT / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def opened(catalog: Path) -> dict[str, Any]:
    """Return what NautilusTrader finds in a catalog."""
    if not PYTHON.exists():
        pytest.skip("NautilusTrader is not installed: 'make nautilus' builds its environment")
    told = subprocess.run(
        [PYTHON, Path(__file__).with_name("read_nautilus.py"), catalog], capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    found: dict[str, Any] = json.loads(told.stdout)
    return found


def test_the_catalog_is_opened_by_its_own_reader(shop: Shop) -> None:
    """Every bar and every instrument, prices to the paisa, times at the end of the minute."""
    found = opened(shop.export("nautilus").target)
    bars = {(name.partition("-1-MINUTE-LAST")[0], ts): values for name, ts, *values in found["bars"]}
    expected = {}
    for symbol, ts, *values in shop.rows(
        "SELECT trading_symbol, ts + INTERVAL 1 MINUTE, open, high, low, close, volume "
        "FROM candles JOIN contracts USING (underlying, expiry, instrument_key)"
    ):
        underlying, *what, day, month, year = symbol.split()
        identity = f"{underlying.replace('&', '_')}{day}{month}{year}{''.join(what)}.NSE"
        expected[identity, round(ts.timestamp()) * 10**9] = [
            *(f"{value:.2f}" for value in values[:-1]),
            str(values[-1]),
        ]
    assert bars == expected
    instruments = {each["id"]: each for each in found["instruments"]}
    assert set(instruments) == {identity for identity, _ in expected}
    option, future = instruments["NIFTY02SEP2524300PE.NSE"], instruments["NIFTY28AUG25FUT.NSE"]
    assert (option["type"], option["kind"], option["strike"], option["lot_size"]) == (
        "OptionContract",
        "PUT",
        24300.0,
        "75",
    )
    assert (option["increment"], option["asset_class"]) == ("0.05", "INDEX")
    assert option["info"]["instrument_key"] == "NSE_FO|50001|02-09-2025"
    assert option["expiration_ns"] == round(datetime(2025, 9, 2, 10, tzinfo=UTC).timestamp()) * 10**9
    assert (future["type"], future["raw_symbol"]) == ("FuturesContract", "NIFTY FUT 28 AUG 25")
    assert instruments["M_M28AUG2524487.5CE.NSE"]["asset_class"] == "EQUITY"


def test_wider_bars_are_named_as_nautilus_names_them(shop: Shop) -> None:
    """Hours are hours and days are days; times are the ends of bars."""
    for interval, name in ((Interval.HOUR, "1-HOUR"), (Interval.DAY, "1-DAY"), (Interval.FIVE, "5-MINUTE")):
        made = shop.export("nautilus", to=name, underlyings=["M&M"], selection=Selection(interval=interval))
        found = opened(made.target)
        assert {bar[0].split(".NSE-")[1] for bar in found["bars"]} == {f"{name}-LAST-EXTERNAL"}
        assert len(found["bars"]) == made.bars


def test_the_schema_is_that_of_the_catalog(shop: Shop) -> None:
    """What every version of the reader relies on, also where it is not installed."""
    made = shop.export("nautilus", underlyings=["NIFTY"])
    folder = made.target / "data" / "bar" / "NIFTY28AUG25FUT.NSE-1-MINUTE-LAST-EXTERNAL"
    (path,) = folder.iterdir()
    assert path.name == "2025-08-26T03-46-00-000000000Z_2025-08-28T03-57-00-000000000Z.parquet"
    table = pq.read_table(path)
    width, scale = (8, 9) if sys.platform == "win32" else (16, 16)
    assert [(field.name, str(field.type)) for field in table.schema] == [
        *((name, f"fixed_size_binary[{width}]") for name in ("open", "high", "low", "close", "volume")),
        ("ts_event", "uint64"), ("ts_init", "uint64"),
    ]  # fmt: skip
    assert table.schema.metadata[b"price_precision"] == b"2"
    assert int.from_bytes(table["open"][0].as_py(), "little") == 24511 * 10**scale


def test_what_the_api_does_not_say_is_left_plain(shop: Shop, stocked: Path, tmp_path: Path) -> None:
    """Without a lot, a tick and a segment: one unit, a paisa, NSE."""
    copy = tmp_path / "copy.duckdb"
    copy.write_bytes(stocked.read_bytes())
    changed = type(shop)(Warehouse(copy), shop.folder)
    with changed.warehouse.writing() as connection:
        connection.execute("UPDATE contracts SET lot_size = NULL, tick_size = NULL, segment = NULL")
    made = changed.export("nautilus", underlyings=["NIFTY"], expiries=[MONTHLY])
    (path,) = (made.target / "data" / "futures_contract" / "NIFTY28AUG25FUT.NSE").iterdir()
    (row,) = pq.read_table(path).to_pylist()
    assert (row["lot_size"], row["price_increment"], row["exchange"]) == ("1", "0.01", "XNSE")


def test_two_contracts_of_one_name_are_refused(shop: Shop, stocked: Path, tmp_path: Path) -> None:
    """Nothing is overwritten silently."""
    copy = tmp_path / "copy.duckdb"
    copy.write_bytes(stocked.read_bytes())
    changed = type(shop)(Warehouse(copy), shop.folder)
    with changed.warehouse.writing() as connection:
        connection.execute("UPDATE contracts SET strike_price = 24400 WHERE underlying = 'M&M'")
    with pytest.raises(ConfigurationError, match=r"M_M28AUG2524400CE\.NSE"):
        changed.export("nautilus")
