"""Faults of the API and of the disk: states that tell the truth, nothing staged lost, and the next run ends the job."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections import Counter
from contextlib import contextmanager
from datetime import date
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pandas as pd
import pytest

from expirytrack_dagster.errors import DatabaseCorrupt, StorageError
from expirytrack_dagster.sandbox.running import Running, running
from expirytrack_dagster.sandbox.switches import Fault
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from expirytrack_dagster_tests.integration.assets.conftest import Archive

DAY = date(2025, 8, 28)
KEY = "NSE_INDEX|Nifty 50"
MARKET = SyntheticMarket(strikes=15, days=1, today=date(2025, 9, 15))
KEYS = [str(row["instrument_key"]) for row in (MARKET.option_contracts(KEY, DAY) or [])]
BARS = {key: len(MARKET.minutes(key) or ()) for key in KEYS}
TRADED = [key for key in KEYS if BARS[key]]
FUTURE = [str(row["instrument_key"]) for row in (MARKET.future_contracts(KEY, DAY) or [])]
ROWS = sum(BARS.values()) + sum(len(MARKET.minutes(key) or ()) for key in FUTURE)
QUICK = {"max_retries": "1", "workers": "4"}


@pytest.fixture
def upstox() -> Iterator[Running]:
    """Serve the market without limits."""
    with running(MARKET, limits=()) as served:
        yield served


def states(archive: Archive) -> dict[str, str]:
    """Return the state of each contract that has one."""
    frame = archive.table("SELECT instrument_key, status FROM contract_status")
    return dict(zip(frame["instrument_key"], frame["status"], strict=True))


def assert_whole(archive: Archive) -> None:
    """Hold the archive to the market: every contract in its state, every row there, nothing staged any more."""
    assert archive.outcome.exit_code == 0, archive.outcome.errors
    found = states(archive)
    assert {key for key in KEYS if found[key] == "empty_proven"} == {key for key in KEYS if not BARS[key]}
    assert Counter(found.values()) == {"complete": len(TRADED) + len(FUTURE), "empty_proven": len(KEYS) - len(TRADED)}
    assert archive.number("SELECT count(*) FROM candles") == ROWS
    assert archive.number("SELECT count(*) FROM (SELECT DISTINCT instrument_key, ts FROM candles)") == ROWS
    assert not list(archive.settings.staging.rglob("*.parquet"))


def asked_twice(upstox: Running) -> int:
    """Return how many candle requests repeated one that had been answered well before."""
    good = Counter(entry.path for entry in upstox.requests() if entry.endpoint == "candles" and entry.status == 200)
    return sum(number - 1 for number in good.values())


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[None]:
    """Let the folder be a disk of this size for the length of the block; skip where none may be mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("a small disk can be mounted by root on Linux only")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)  # noqa: S607 -- wherever the system has it


def test_now_and_then_a_500_or_half_an_answer(upstox: Running, collect: Callable[..., Archive]) -> None:
    """With every 7th answer a 500 and every 11th cut off, what failed says so, and the next run asks for that alone."""
    upstox.switch(faults=(Fault(500, every=7), Fault("truncate", every=11)))
    first = collect(upstox, [DAY], **QUICK)
    assert first.outcome.exit_code in {0, 3}
    found = states(first)
    assert len(found) == len(KEYS) + len(FUTURE)
    assert all(found[key] in {"complete", "failed"} for key in [*TRADED, *FUTURE])
    upstox.switch(faults=())
    before = len(upstox.requests())
    assert_whole(collect(upstox, [DAY], **QUICK))
    again = {unquote(entry.path) for entry in upstox.requests()[before:] if entry.endpoint == "candles"}
    assert not [key for key in found if found[key] != "failed" and any(key in path for path in again)]


def test_contracts_that_never_answer(upstox: Running, collect: Callable[..., Archive]) -> None:
    """Three contracts that always end in a 500 are failed, two in a 400 refused with its code, the others final."""
    failing, refused = TRADED[10:31:10], TRADED[15:26:10]
    upstox.switch(
        faults=(
            Fault(500, tokens=tuple(failing), endpoints=("candles",)),
            Fault(400, tokens=tuple(refused), endpoints=("candles",)),
        )
    )
    first = collect(upstox, [DAY], **QUICK)
    assert first.outcome.exit_code == 3
    found = states(first)
    assert {key for key in found if found[key] == "failed"} == {*failing}
    assert {key for key in found if found[key] == "refused"} == {*refused}
    assert {key for key in found if found[key] == "empty_proven"} == {key for key in KEYS if not BARS[key]}
    codes = first.table("SELECT DISTINCT error_code FROM contract_status WHERE status = 'refused'")
    assert list(codes["error_code"]) == ["UDAPI100011"]
    assert first.number("SELECT count(*) FROM candles") == ROWS - sum(BARS[key] for key in (*failing, *refused))
    upstox.switch(faults=())
    before = upstox.stats()["requests"]["candles"]
    assert_whole(collect(upstox, [DAY], **QUICK))
    assert asked_twice(upstox) == 0
    assert upstox.stats()["requests"]["candles"] - before <= 2 * len((*failing, *refused))


def test_the_token_dies(upstox: Running, collect: Callable[..., Archive]) -> None:
    """A token that dies after 60 requests stops the run with its exit code; with a new one only the rest is asked."""
    upstox.switch(token_life=60)
    first = collect(upstox, [DAY], **QUICK)
    assert first.outcome.exit_code == 4
    assert len(first.outcome.errors) == 1
    assert not states(first), "nothing is said of a cell that was not judged"
    assert list(first.settings.staging.rglob("*.parquet"))
    upstox.switch(token_life=None)
    assert_whole(collect(upstox, [DAY], **QUICK))
    assert asked_twice(upstox) <= int(QUICK["workers"])


def test_no_room_for_a_batch(upstox: Running, collect: Callable[..., Archive], home: Path) -> None:
    """When the disk fills up while batches are staged, the run says so; with room again, nothing is asked twice."""
    settings = {**QUICK, "batch_rows": "5000"}
    with small_disk(home / "staging", 160):
        first = collect(upstox, [DAY], **settings)
        assert first.outcome.exit_code == 1
        assert "No room is left" in first.outcome.errors[0]
        assert len(first.outcome.errors) == 1
        assert not states(first)
        assert list(first.settings.staging.rglob("*.parquet"))
        assert not list(first.settings.staging.rglob("*.part"))
        subprocess.run(["mount", "-o", "remount,size=8M", str(home / "staging")], check=True)  # noqa: S607 -- as above
        assert_whole(collect(upstox, [DAY], **settings))
    assert asked_twice(upstox) <= int(QUICK["workers"])


def test_no_room_for_the_archive(upstox: Running, collect: Callable[..., Archive], home: Path, tmp_path: Path) -> None:
    """When the disk fills up inside the transaction, the archive stays as it was; with room again it takes the cell."""
    disk = tmp_path / "disk"
    home.mkdir()
    with small_disk(disk, 64 * 1024):
        (home / "expirytrack.duckdb").symlink_to(disk / "archive.duckdb")
        other = collect(upstox, [date(2025, 8, 21)], **QUICK)
        rows = other.table("SELECT * FROM candles ORDER BY ALL")
        filler = disk / "filler"
        filler.write_bytes(bytes(shutil.disk_usage(disk).free - 100_000))
        first = collect(upstox, [DAY], **QUICK)
        assert first.outcome.exit_code == 1
        assert "There is no room left to write" in first.outcome.errors[0]
        assert list(first.settings.staging.rglob("*.parquet"))
        pd.testing.assert_frame_equal(first.table("SELECT * FROM candles ORDER BY ALL"), rows)
        asked = len(upstox.requests())
        filler.unlink()
        last = collect(upstox, [DAY], **QUICK)
        assert last.outcome.exit_code == 0
        assert last.number("SELECT count(*) FROM candles WHERE expiry = '2025-08-28'") == ROWS
        assert len(upstox.requests()) == asked


def test_no_room_for_anything(upstox: Running, collect: Callable[..., Archive], home: Path) -> None:
    """When the whole home is full, whoever notices first says so in one sentence, and a later run ends the job."""
    with small_disk(home, 64 * 1024):
        collect(upstox, [date(2025, 8, 21)], **QUICK)
        filler = home / "filler"
        filler.write_bytes(bytes(shutil.disk_usage(home).free - 1_000_000))
        with pytest.raises(StorageError, match="room"):
            collect(upstox, [DAY], **QUICK)
        filler.unlink()
        last = collect(upstox, [DAY], **QUICK)
        assert last.outcome.exit_code == 0
        assert last.number("SELECT count(*) FROM candles WHERE expiry = '2025-08-28'") == ROWS


def test_the_database_is_cut_off(upstox: Running, collect: Callable[..., Archive]) -> None:
    """A truncated database is named and left as it is; moved away, it is collected again from the kept answers."""
    first = collect(upstox, [DAY], **QUICK)
    database = first.settings.database
    content = database.read_bytes()
    database.write_bytes(content[: len(content) // 2])
    with pytest.raises(DatabaseCorrupt, match="is damaged and was left as it is"):
        collect(upstox, [DAY], **QUICK)
    assert database.stat().st_size == len(content) // 2
    before = upstox.stats()["requests"]["candles"]
    database.rename(database.with_name("damaged"))
    assert_whole(collect(upstox, [DAY], **QUICK))
    empty = len(KEYS) - len(TRADED)
    assert upstox.stats()["requests"]["candles"] - before <= 2 * empty


def test_the_database_is_cut_off_in_the_middle_of_a_run(upstox: Running, collect: Callable[..., Archive]) -> None:
    """Damage that comes while answers arrive ends the run in one sentence; what is staged makes the next one free."""
    first = collect(upstox, [date(2025, 8, 21)], **QUICK)
    database, staging = first.settings.database, first.settings.staging / "NIFTY" / "2025-08-28"

    def cut() -> None:
        while not list(staging.glob("batch-*.parquet")):
            staged.wait(0.001)
        with database.open("r+b") as file:
            file.truncate(database.stat().st_size // 2)

    staged = threading.Event()
    cutting = threading.Thread(target=cut, daemon=True)
    cutting.start()
    with pytest.raises(DatabaseCorrupt, match="is damaged and was left as it is"):
        collect(upstox, [DAY], **QUICK, batch_rows="5000")
    cutting.join()
    assert list(staging.glob("batch-*.parquet"))
    database.rename(database.with_name("damaged"))
    before = len(upstox.requests())
    last = collect(upstox, [DAY], **QUICK)
    assert last.outcome.exit_code == 0, last.outcome.errors
    assert last.number("SELECT count(*) FROM candles WHERE expiry = '2025-08-28'") == ROWS
    asked = [entry for entry in upstox.requests()[before:] if entry.endpoint == "candles"]
    assert len(asked) <= int(QUICK["workers"]), "only what was under way when the run ended"


def test_an_answer_of_another_shape_stops_the_run_once(upstox: Running, collect: Callable[..., Archive]) -> None:
    """One sentence and everything staged; the contract is then failed for itself, and the rest is in the archive."""
    odd = TRADED[12]
    upstox.switch(faults=(Fault("wrong_shape", tokens=(odd,), endpoints=("candles",)),))
    first = collect(upstox, [DAY], **QUICK)
    assert first.outcome.exit_code == 1
    assert len(first.outcome.errors) == 1
    assert not states(first)
    second = collect(upstox, [DAY], **QUICK)
    assert second.outcome.exit_code == 3
    found = states(second)
    assert [key for key in found if found[key] == "failed"] == [odd]
    assert second.number("SELECT count(*) FROM candles") == ROWS - BARS[odd]
    upstox.switch(faults=())
    assert_whole(collect(upstox, [DAY], **QUICK))
    assert asked_twice(upstox) <= int(QUICK["workers"])
