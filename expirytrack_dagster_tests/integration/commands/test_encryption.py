"""A whole collection with encryption on; `encrypt` and `decrypt` on what it left, undisturbed and killed on the way."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from typer.testing import CliRunner

from expirytrack_dagster import archive
from expirytrack_dagster.cli import app
from expirytrack_dagster.collect.staging import SCHEMA, CellStaging
from expirytrack_dagster.collect.states import ContractStatus, State
from expirytrack_dagster.errors import EncryptionMismatch, WrongKey
from expirytrack_dagster.sandbox.running import running
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket
from expirytrack_dagster.security.parquet import staging_key
from expirytrack_dagster.security.vault import open_vault
from expirytrack_dagster.settings import load_settings
from expirytrack_dagster.warehouse.connection import Warehouse, open_warehouse
from expirytrack_dagster.warehouse.room import room_of

if TYPE_CHECKING:
    from pathlib import Path

    from typer.testing import Result

MARKET = SyntheticMarket(strikes=2, days=1, today=date(2025, 9, 1))
COLLECT = ("collect", "NIFTY", "--expiry", "2025-08-21")
TELLING = (b"NSE_FO|", b"NIFTY25", b"PAR1")
"""What stands in every plain file of market data."""
BIG = """
INSERT INTO candles BY NAME SELECT 'BIG' AS underlying, DATE '2025-08-28' AS expiry, 'NSE_FO|' || n // 30000 AS
instrument_key, (n % 30000)::INT AS minute, 1.0 AS open, 2.0 AS high, 0.5 AS low, hash(n) % 1000 AS close, n AS volume,
hash(n + 1) % 100000 AS open_interest FROM range(1000000) AS r(n)
"""
SUMS = "SELECT underlying, count(*), sum(hash(candles)) FROM candles GROUP BY ALL ORDER BY ALL"


def run(*words: str) -> Result:
    """Run `expirytrack WORDS` in this process."""
    return CliRunner().invoke(app, [*words])


@pytest.fixture(scope="module", params=["off", "on"])
def collected(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Collect a cell, plain and encrypted, and return the home; a later cell is staged and not yet written."""
    home = tmp_path_factory.mktemp("collected") / "home"
    with running(MARKET) as upstox, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
        words = {"HOME": str(home), "API_URL": upstox.url, "ACCESS_TOKEN": "x", "ENCRYPTION": request.param}
        for name, value in words.items():
            patch.setenv(f"EXPIRYTRACK_{name}", value)
        assert run(*COLLECT).exit_code == 0
        none = pd.DataFrame({name: [] for name in SCHEMA.names})
        settled = ContractStatus(
            instrument_key="NSE_FO|9", status=State.EMPTY_PROVEN, checked_at=datetime.now(UTC), requests=1
        )
        CellStaging(home / "staging" / "NIFTY" / "2025-08-28", staging_key(load_settings())).write(
            none, none, [settled]
        )
    return home


@pytest.fixture
def encrypted(collected: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Give this test's home a copy of the collected one and its setting; say whether it is encrypted."""
    shutil.copytree(collected, home)
    on = (home / "cache" / "sealed.sqlite").exists()
    monkeypatch.setenv("EXPIRYTRACK_ENCRYPTION", "on" if on else "off")
    return on


def market_data(home: Path) -> list[Path]:
    """Return the files that hold prices; kept answers, which are compressed in any case, apart."""
    return [home / "expirytrack.duckdb", *home.glob("staging/*/*/*.parquet")]


def plain(home: Path) -> list[str]:
    """Return the names of files with prices in which something can be read."""
    return [path.name for path in market_data(home) if any(word in path.read_bytes() for word in TELLING)]


def sums() -> list[tuple[object, ...]]:
    """Return what tells the candles from any others, as the settings say that they are stored."""
    with open_warehouse(load_settings()).reading() as connection:
        return connection.execute(SUMS).fetchall()


def test_a_collection_is_readable_or_not_as_the_settings_say(encrypted: bool, home: Path) -> None:  # noqa: FBT001  -- a fixture
    """With encryption on no file of market data tells anything; the archive is proven all the same."""
    assert len(market_data(home)) == 2
    assert len(list(home.glob("cache/*.sqlite"))) == 1
    assert plain(home) == ([] if encrypted else [path.name for path in market_data(home)])
    assert run("verify", "NIFTY").exit_code == 0
    assert "1 collected" in run("status").output


def test_the_data_are_converted_and_back(encrypted: bool, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001
    """Archive, staged files and kept answers; the other setting is refused until then, and nothing is lost."""
    before = sums()
    monkeypatch.setenv("EXPIRYTRACK_ENCRYPTION", "off" if encrypted else "on")
    there, back = ("decrypt", "encrypt") if encrypted else ("encrypt", "decrypt")
    refused = run("status")
    assert isinstance(refused.exception, EncryptionMismatch)
    assert f"expirytrack {there}" in str(refused.exception)

    done = run(there)
    assert (done.exit_code, "proved equal" in done.output, "Staged files converted: 1" in done.output) == (
        0,
        True,
        True,
    )
    assert sums() == before
    assert len(CellStaging(home / "staging" / "NIFTY" / "2025-08-28", staging_key(load_settings())).batches()) == 1
    assert plain(home) == ([path.name for path in market_data(home)] if encrypted else [])
    assert list(home.glob("cache/*.sqlite")) == []
    assert "Nothing to do" in run(there).output
    assert "Set EXPIRYTRACK_ENCRYPTION=" not in done.output

    done = run(back)
    assert (done.exit_code, "Set EXPIRYTRACK_ENCRYPTION=" in done.output) == (0, True)
    monkeypatch.setenv("EXPIRYTRACK_ENCRYPTION", "on" if encrypted else "off")
    assert sums() == before


@pytest.mark.parametrize("step", ["undisturbed", "before the file", "after the file"])
def test_the_archive_gets_a_new_key(home: Path, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever it dies, the archive opens or the sentence says to run it again; readers go on with what comes of it."""
    monkeypatch.setenv("EXPIRYTRACK_ENCRYPTION", "on")
    with open_warehouse(load_settings()).writing() as connection:
        connection.execute("INSERT INTO expiries VALUES ('NIFTY', DATE '2025-08-28', 'x', now())")
    old = open_warehouse(load_settings()).key
    question = "SELECT underlying FROM expiries"
    assert archive.sql(question, home=home).df()["underlying"].tolist() == ["NIFTY"]  # published with the old key

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if step == "before the file":
            patch.setattr("expirytrack_dagster.warehouse.convert._put_in_place", die)
        elif step == "after the file":
            patch.setattr("expirytrack_dagster.security.vault.Vault.promote", die)
        first = run("keys", "rotate", "--archive")
    assert (first.exit_code == 0) == (step == "undisturbed")
    if step == "after the file":
        assert "keys rotate --archive" in str(run("status").exception)
    elif step == "before the file":
        assert run("status").exit_code == 0
    if step != "undisturbed":
        assert run("keys", "rotate", "--archive").exit_code == 0
    assert "NIFTY: 1 expiries" in run("status").output
    room_of.cache_clear()  # a new process knows no key yet
    assert archive.sql(question, home=home).df()["underlying"].tolist() == ["NIFTY"]
    assert open_warehouse(load_settings()).key != old
    assert "database.next" not in run("keys", "status").output
    with pytest.raises(WrongKey), Warehouse(home / "expirytrack.duckdb", key=old).reading():
        pass


def test_a_plain_archive_has_no_key_to_renew() -> None:
    """The sentence says which setting would give it one."""
    open_vault(load_settings()).put("token", b"x")
    assert "EXPIRYTRACK_ENCRYPTION is off" in str(run("keys", "rotate", "--archive").exception)


def test_without_data_there_is_nothing_to_convert(home: Path) -> None:
    """A home that holds nothing is in every form; the setting is named."""
    for command in ("encrypt", "decrypt"):
        assert "Nothing to do" in run(command).output
    assert "EXPIRYTRACK_ENCRYPTION=on" in run("encrypt").output
    assert not (home / "expirytrack.duckdb").exists()


def test_a_killed_conversion_leaves_a_whole_archive(home: Path) -> None:
    """Killed at five moments of its life, the archive is the old one or the new one, whole; then it is converted."""
    stored = Warehouse(home / "expirytrack.duckdb")
    with stored.writing() as connection:
        connection.execute(BIG)
    with stored.reading() as connection:
        before = connection.execute(SUMS).fetchall()
    size, chance = stored.database.stat().st_size, random.Random(5)  # noqa: S311  -- moments, not secrets
    copy = stored.database.with_name("expirytrack.duckdb.converting")
    kills = 0
    for share in (0.0, 0.3, 0.9, 1.0, 1.1):
        process = subprocess.Popen([sys.executable, "-m", "expirytrack_dagster", "encrypt"], env=os.environ.copy())
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if copy.exists() and copy.stat().st_size >= min(share, 0.95) * size:
                time.sleep(chance.uniform(0, 0.4) if share >= 1 else 0)
                break
            time.sleep(0.002)
        kills += process.poll() is None
        process.kill()
        process.wait()
        encrypted = run("decrypt").output.count("proved equal")  # a conversion that came through is undone
        with stored.reading() as connection:
            assert connection.execute(SUMS).fetchall() == before, (share, encrypted)
    assert kills >= 3
    assert run("encrypt").exit_code == 0
    assert not copy.exists()
    with open_warehouse(load_settings(encryption=True)).reading() as connection:
        assert connection.execute(SUMS).fetchall() == before
