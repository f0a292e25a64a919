"""A lake whose files lie in an object store: how it is let in, what it survives, and what it never tells."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from expirytrack_dagster.errors import ConfigurationError, DatabaseUnreachable
from expirytrack_dagster.settings import load_settings
from expirytrack_dagster.warehouse import data_path
from expirytrack_dagster.warehouse.cells import write_contracts
from expirytrack_dagster.warehouse.connection import Warehouse, open_warehouse
from expirytrack_dagster.warehouse.data_path import DataPath
from expirytrack_dagster_tests.objects import BUCKET, ObjectStore, object_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EXPIRY = date(2025, 8, 28)
SECRET = "wJalrXUtnFEMIbPxRfiCYEXAMPLE'KEY"
LISTED = pd.DataFrame(
    {"instrument_key": [f"NSE_FO|{number}|28-08-2025" for number in range(300)], "instrument_type": "CE"}
)


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    """Yield an object store."""
    with object_store() as found:
        yield found


@pytest.fixture
def lake(store: ObjectStore, home: Path, monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    """Give a lake with its files in the store, opened as the environment says."""
    values = {
        "EXPIRYTRACK_WAREHOUSE": f"ducklake:sqlite:{home}/lake.sqlite",
        "EXPIRYTRACK_DATA_PATH": f"s3://{BUCKET}/{home.parent.name}",
        "EXPIRYTRACK_LOCK_TIMEOUT": "0",
        "AWS_ENDPOINT_URL": store.url,
        "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "ap-south-1",
    }
    for name in ("AWS_SESSION_TOKEN", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return open_warehouse(load_settings())


def count(warehouse: Warehouse) -> list[tuple[int, int]]:
    """Return how many contracts there are, and how many keys."""
    with warehouse.reading() as connection:
        return connection.execute("SELECT count(*), count(DISTINCT instrument_key) FROM contracts").fetchall()


def test_files_lie_in_the_store_and_nowhere_else(lake: Warehouse, home: Path, store: ObjectStore) -> None:
    """A store that is away for a moment costs a moment, and neither loses nor doubles a row."""
    write_contracts(lake, "NIFTY", EXPIRY, LISTED)
    assert count(lake) == [(300, 300)]
    assert not (home / "lake").exists()
    store.refused = 0
    store.go_away(0.5)
    write_contracts(lake, "NIFTY", EXPIRY, LISTED)
    assert store.refused > 1
    assert count(lake) == [(300, 300)]


def test_whoever_gives_up_asking_begins_again(
    lake: Warehouse, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole transaction, as after a conflict; and when that ends too, the error may be tried again."""
    assert count(lake) == [(0, 0)]
    monkeypatch.setattr(data_path, "RETRIES", {"http_retries": 0, "http_retry_wait_ms": 1, "http_retry_backoff": 1})
    lake.lock_timeout = 5.0
    store.go_away(0.5)
    write_contracts(lake, "NIFTY", EXPIRY, LISTED)
    assert count(lake) == [(300, 300)]
    lake.lock_timeout = 0.0
    store.go_away(30)
    with pytest.raises(DatabaseUnreachable, match=r"does not answer.*try again") as caught:
        write_contracts(lake, "NIFTY", EXPIRY, LISTED.iloc[:200])
    store.go_away(0)
    assert SECRET not in f"{caught.value!r} {caught.value.__cause__!r}"
    assert count(lake) == [(300, 300)]


def test_a_store_is_away_for_twenty_seconds_at_least() -> None:
    """What the waits between tries come to, before the last one."""
    wait, backoff = data_path.RETRIES["http_retry_wait_ms"], data_path.RETRIES["http_retry_backoff"]
    assert sum(wait * backoff**number for number in range(data_path.RETRIES["http_retries"])) > 20_000


@pytest.mark.usefixtures("lake")
def test_keys_are_shown_nowhere() -> None:
    """In no object of ours, however it is printed."""
    access = data_path.data_path(load_settings())
    assert SECRET not in repr(access)
    assert "AKIAEXAMPLE" in repr(access)


@pytest.mark.usefixtures("lake")
@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("AWS_ACCESS_KEY_ID", "", "AWS_ACCESS_KEY_ID must be set"),
        ("AWS_SECRET_ACCESS_KEY", "", "AWS_SECRET_ACCESS_KEY must be set"),
        ("AWS_ENDPOINT_URL", "localhost:9000", "is no address of the form https://HOST"),
        ("AWS_ENDPOINT_URL", "https://user:pw@objects.example", "is no address of the form https://HOST"),
        ("AWS_ENDPOINT_URL", "http://objects.example:9000", "use https, or set EXPIRYTRACK_DATA_PATH_INSECURE=on"),
    ],
)
def test_what_is_missing_or_unsafe_is_a_sentence(
    name: str, value: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the variable and says what to do."""
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=told):
        open_warehouse(load_settings())


@pytest.mark.usefixtures("lake")
def test_plain_http_is_for_who_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that is one's own, as that of a compose file."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://objects:9000")
    monkeypatch.setenv("EXPIRYTRACK_DATA_PATH_INSECURE", "on")
    found = data_path.data_path(load_settings())
    assert found is not None
    assert found.access is not None
    assert (found.access.endpoint, found.access.region) == ("http://objects:9000", "ap-south-1")


@pytest.mark.parametrize("folder", [".", "..", "home"])
def test_a_lake_does_not_keep_its_files_around_the_home(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would remove the Parquet files that other parts of the program keep there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EXPIRYTRACK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("EXPIRYTRACK_WAREHOUSE", "ducklake:sqlite:lake.sqlite")
    monkeypatch.setenv("EXPIRYTRACK_DATA_PATH", folder)
    with pytest.raises(ConfigurationError, match="name a folder of their own"):
        open_warehouse(load_settings())


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ("s3://b/", "s3://b/lake/", True),
        ("s3://b/lake/", "s3://b/lake/", True),
        ("s3://b/lake/", "s3://b/lake-2/", False),
        ("/srv/lake/", "/srv/", True),
        ("/srv/a/", "/srv/b/", False),
    ],
)
def test_a_place_in_another_overlaps_it(one: str, other: str, *, overlap: bool) -> None:
    """Either way round."""
    assert DataPath(one).overlaps(DataPath(other)) is overlap
    assert DataPath(other).overlaps(DataPath(one)) is overlap
