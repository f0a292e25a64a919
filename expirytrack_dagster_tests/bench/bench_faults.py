"""A market with a fault of every kind, collected as users do: how many are found, and what else is called a fault.

The sandbox lists exactly what it planted. A fault is found when the rule that is meant for it names the very row or
minute; whatever a rule names beyond that is false. `hunt` is also what the integration test looks at.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

# The only way to ask for one partition's check results: Dagster 1.13 has no public name for the filter.
from dagster._core.event_api import PartitionKeyFilter

from expirytrack_dagster.checks.specs import candles_checks, chain_checks
from expirytrack_dagster.instance import open_instance
from expirytrack_dagster.partitions import cell_key
from expirytrack_dagster.sandbox.planting import ROW_KINDS, Plant, Planted
from expirytrack_dagster.sandbox.running import running
from expirytrack_dagster.sandbox.switches import Switches
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket
from expirytrack_dagster.settings import load_settings
from expirytrack_dagster.warehouse.connection import Warehouse
from expirytrack_dagster_tests.bench.figures import Figure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from expirytrack_dagster.settings import Settings

EXPIRY = date(2025, 8, 28)
_UNDERLYING = "NSE_INDEX|Nifty 50"
_LEAST_KINDS = 12
_QUARANTINE = {
    "high_below_low": "ohlc",
    "low_above_open": "ohlc",
    "zero_price": "ohlc",
    "null_price": "ohlc",
    "negative_volume": "volume_and_open_interest",
    "negative_open_interest": "volume_and_open_interest",
    "after_expiry": "timestamp_continuity",
    "off_the_minute": "timestamp_continuity",
    "conflicting_duplicate": "duplicates",
}
_PRICES = frozenset({"monotonic_strikes", "intrinsic_value", "put_call_parity"})
_MEANT = {"far_off_price": "put_call_parity", "swapped_strikes": "monotonic_strikes"}

Place = tuple[str, str]
"""A contract (or `every contract`) and a minute in IST, `YYYY-MM-DD HH:MM`."""


@dataclass(slots=True)
class Hunt:
    """What came of a hunt: faults by kind, what was called a fault and was none, seconds of the collection.

    `errors` are checks that failed as errors; the planted faults are all of a kind that warns.
    """

    planted: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    false: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def line(self) -> str:
        """Found and planted by kind, in one line."""
        return ", ".join(f"{kind} {self.found[kind]}/{number}" for kind, number in self.planted.items())


def run(*, quick: bool) -> Iterator[Figure]:
    """Yield the share of the planted faults that is found, and the number of false ones."""
    with tempfile.TemporaryDirectory() as folder:
        result = hunt(Path(folder), strikes=8 if quick else 40)
    planted, found = result.planted.total(), result.found.total()
    yield Figure(
        name="planted faults found",
        value=found,
        unit="faults",
        beside=f"{planted} planted, {len(result.planted)} kinds",
        ratio=found / planted,
        bar=f"all, of at least {_LEAST_KINDS} kinds",
        passed=found == planted and len(result.planted) >= _LEAST_KINDS,
        note=f"{result.line}; collected in {result.seconds:.1f} s",
    )
    false = len(result.false) + len(result.errors)
    yield Figure(
        name="planted faults, false findings",
        value=false,
        unit="findings",
        bar="0",
        passed=false == 0,
        note="; ".join([*result.false, *result.errors][:5]),
    )


def hunt(home: Path, strikes: int = 8) -> Hunt:
    """Plant a fault of every kind, collect the cell with the command line, and compare."""
    market = SyntheticMarket(strikes=strikes, days=2, today=date(2025, 9, 15))
    with running(market, limits=(), switches=Switches(planted=_plants(market))) as upstox:
        given = {"HOME": str(home), "API_URL": upstox.url, "ACCESS_TOKEN": "bench"}
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "expirytrack_dagster", "collect", "NIFTY", "--expiry", str(EXPIRY), "--json"],
            env=os.environ | {f"EXPIRYTRACK_{name}": value for name, value in given.items()},
            check=True,
            capture_output=True,
        )
        result = Hunt(seconds=time.perf_counter() - began)
        planted = upstox.planted()
    settings = load_settings(home=home)
    _rows(settings, planted, result)
    _minutes(_checks(settings), planted, result)
    return result


def _plants(market: SyntheticMarket) -> tuple[Plant, ...]:
    """Choose contracts near the middle for each fault, two for most, and the whole chain for the missing minute.

    The prices that are far off are not those of a call and a put of one strike: in the same minute these would cancel.
    """
    listed = [str(row["instrument_key"]) for row in market.option_contracts(_UNDERLYING, EXPIRY) or []]
    listed += [str(row["instrument_key"]) for row in market.future_contracts(_UNDERLYING, EXPIRY) or []]
    middle = market.strikes * 2  # puts stand at even places
    return (
        Plant(tuple(listed[middle - 4 : middle - 2]), ROW_KINDS),
        Plant((listed[middle], listed[middle - 6]), ("far_off_price", "open_interest_jump")),
        Plant((listed[middle + 2], listed[middle + 4], listed[middle + 3], listed[middle + 5]), ("swapped_strikes",)),
        # The future comes first: the minute is one of its own.
        Plant(tuple(key for key in reversed(listed) if len(market.minutes(key) or ()) > 1), ("missing_minute",)),
    )


def _rows(settings: Settings, planted: list[Planted], result: Hunt) -> None:
    """Compare the quarantine, and the duplicates that were dropped, with what the rows were to show."""
    sql = "SELECT instrument_key, ts + INTERVAL 330 MINUTE, rule FROM quarantine"
    with Warehouse(settings.database).reading() as connection:
        quarantine = Counter(
            (key, f"{ts:%Y-%m-%d %H:%M:%S}", rule) for key, ts, rule in connection.execute(sql).fetchall()
        )
        dropped = dict(connection.execute("SELECT instrument_key, duplicates FROM contract_status").fetchall())
    for row in planted:
        if row.kind in _QUARANTINE:
            place = (row.instrument_key, str(row.candle[0])[:19].replace("T", " "), _QUARANTINE[row.kind])
            result.planted[row.kind] += 1
            if quarantine[place]:
                quarantine[place] -= 1
                result.found[row.kind] += 1
    for key in {row.instrument_key for row in planted if row.kind == "exact_duplicate"}:
        result.planted["exact_duplicate"] += 1
        result.found["exact_duplicate"] += dropped[key] == 1
        dropped[key] -= 1
    result.false += [f"quarantined: {place}" for place in quarantine.elements()]
    result.false += [f"duplicates dropped: {key}" for key, number in dropped.items() if number]


def _minutes(checks: dict[str, dg.AssetCheckEvaluation], planted: list[Planted], result: Hunt) -> None:
    """Compare what the checks of the chain name, and the missing minutes, with what was planted there."""
    named = {name: _named(evaluation) for name, evaluation in checks.items()}
    result.errors += [
        name for name, each in checks.items() if not each.passed and each.severity == dg.AssetCheckSeverity.ERROR
    ]
    jumps: set[Place] = set()
    prices: set[str] = set()
    missing: set[str] = set()
    for row in planted:
        minute = str(row.candle[0])[:16].replace("T", " ")
        place = (row.instrument_key, minute)
        if row.kind == "missing_minute":
            missing.add(minute)
        elif row.kind == "open_interest_jump":
            after = datetime.fromisoformat(minute) + timedelta(minutes=1)  # and back again
            jumps |= {place, (row.instrument_key, f"{after:%Y-%m-%d %H:%M}")}
            result.planted[row.kind] += 1
            result.found[row.kind] += place in named["open_interest_jumps"]
        elif row.kind in _MEANT:
            prices.add(minute)
            result.planted[row.kind] += 1
            result.found[row.kind] += minute in {at for _, at in named[_MEANT[row.kind]]}
    gaps = {at for key, at in named["timestamp_continuity"] if key == "every contract"}
    result.planted["missing_minute"] += len(missing)
    result.found["missing_minute"] += len(missing & gaps)
    result.false += [f"missing minute: {at}" for at in gaps - missing]
    result.false += [f"open_interest_jumps: {place}" for place in named["open_interest_jumps"] - jumps]
    result.false += [f"{name}: {place}" for name in _PRICES for place in named[name] if place[1] not in prices]


def _named(evaluation: dg.AssetCheckEvaluation) -> set[Place]:
    """Return the contracts and minutes in a check's table."""
    table: Any = evaluation.metadata.get("failing_rows")
    records = [record.data for record in table.records] if table else []
    return {(str(record["instrument_key"]), str(record["time"])[:16]) for record in records}


def _checks(settings: Settings) -> dict[str, dg.AssetCheckEvaluation]:
    """Return the last result of each check of the candles, by name."""
    keys = [spec.key for spec in (*candles_checks, *chain_checks)]
    with open_instance(settings) as instance:
        records = instance.event_log_storage.get_latest_asset_check_execution_by_key(
            keys, PartitionKeyFilter(key=cell_key("NIFTY", EXPIRY.isoformat()))
        )
    found = {key.name: record.evaluation for key, record in records.items()}
    return {name: evaluation for name, evaluation in found.items() if evaluation is not None}
