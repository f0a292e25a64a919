"""A look at a home: the same counts from the archive and from what is published, and what a look must not do."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from expirytrack_dagster.collect.horizon import record_list
from expirytrack_dagster.collect.tracking import track
from expirytrack_dagster.observe import lookout as looking
from expirytrack_dagster.observe.lookout import InPublished, Lookout, look
from expirytrack_dagster.processes import this_process
from expirytrack_dagster.security.vault import open_vault
from expirytrack_dagster.settings import Settings, load_settings
from expirytrack_dagster.state import open_state
from expirytrack_dagster.upstox import tokens
from expirytrack_dagster.upstox.calls import Call, Receipt
from expirytrack_dagster.upstox.ledger import open_ledger
from expirytrack_dagster.warehouse.connection import open_warehouse
from expirytrack_dagster.warehouse.published import publish
from expirytrack_dagster_tests.statements import sql

if TYPE_CHECKING:
    from pathlib import Path

    from expirytrack_dagster_tests.unit.conftest import SmallArchive

NOW = datetime(2025, 9, 10, 8, 30, tzinfo=UTC)
KEYS = {"home", "token", "underlyings", "cells", "budget", "cooldown", "breaker"}


@pytest.fixture
def settings(home: Path) -> Settings:
    """Return the settings of an empty home."""
    return load_settings(home=home, access_token="x", lock_timeout=1.0)


@pytest.fixture
def filled(settings: Settings, archive: SmallArchive) -> Settings:
    """Put the small archive into the home, and say that its dates are listed."""
    settings.home.mkdir()
    archive.warehouse.database.rename(settings.database)
    state = open_state(settings)
    track(state, "NIFTY", "NSE_INDEX|Nifty 50")
    record_list(state, "NIFTY", [date(2025, 8, 21), date(2025, 8, 28), date(2025, 9, 4)], NOW)
    return settings


def row(
    settings: Settings, run_id: str, *, process: str, answered: int, phase: str = "asking", ago: float = 60
) -> None:
    """Say that a cell is being collected."""
    at = NOW.timestamp()
    with open_state(settings).transaction() as connection:
        connection.execute(
            sql(
                "INSERT INTO progress VALUES ('NIFTY', ?, ?, ?, ?, 100, ?, 5000, ?, ?)",
                f"2025-09-{len(run_id):02}",
                run_id,
                process,
                phase,
                answered,
                at - ago,
                at,
            ),
        )


def answered(settings: Settings, run_id: str, count: int) -> None:
    """Book answers of the last half minute on a run."""
    clock = looking._Moment()  # noqa: SLF001 -- the clock that looks have
    clock.at = NOW.timestamp() - 30
    ledger = open_ledger(settings.model_copy(update={"rate_burst": 50}), clock)
    for _ in range(count):
        taken = ledger.acquire(Call("candles", "X"), run_id=run_id)
        assert isinstance(taken, int)
        clock.at += 0.2
        ledger.settle(taken, Receipt("ok", clock.at, 200, rows=50))


def test_an_empty_home(settings: Settings) -> None:
    """Nothing is tracked, listed or running; looking makes no archive, and JSON has its keys."""
    seen = look(settings, NOW)
    assert (seen.underlyings, seen.cells, seen.standings, seen.running) == ((), (), (), ())
    assert seen.horizon.days is None
    assert not settings.database.exists()
    assert json.loads(json.dumps(seen.as_json())).keys() >= KEYS


def test_the_archive_and_what_is_published_say_the_same(filled: Settings, archive: SmallArchive) -> None:
    """Every count of every cell, the sealed one, the one that lists nothing and the one not collected."""
    archive = replace(archive, warehouse=open_warehouse(filled))
    publish(archive.warehouse)
    itself, copy = look(filled, NOW), Lookout(filled, InPublished(filled)).look(NOW)
    assert copy == itself
    assert [(cell.expiry.day, cell.contracts, cell.sealed) for cell in copy.cells] == [
        (21, 3, True),
        (28, 0, True),
        (4, 0, False),
    ]
    (standing,) = copy.standings
    assert (standing.cells, standing.complete, standing.not_begun, standing.candles) == (3, 2, 1, 120)
    assert standing.quarantined == 2
    report: Any = copy.as_json()
    assert report["cells"][0]["first_ts"] == "2025-08-21T03:45:00.000Z"
    assert report["cells"][0]["expiry"] == "2025-08-21"
    json.dumps(report)


def test_watching_opens_no_archive(filled: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once something is published the archive is not touched any more: a writer may hold it for as long as it likes."""
    warehouse = open_warehouse(filled)
    publish(warehouse)
    with warehouse.writing():
        seen = Lookout(filled, InPublished(filled)).look(NOW)
    assert len(seen.cells) == 3
    monkeypatch.setattr(looking, "published_cells", pytest.fail)
    lookout = Lookout(filled, counted := InPublished(filled))
    counted._seen = looking._stamp(filled.published / "manifest.json")  # noqa: SLF001 -- as after a first look
    assert lookout.look(NOW).cells == ()


def test_an_archive_without_a_copy_is_read_when_it_is_free(filled: Settings) -> None:
    """Before anything is published the archive is looked at, and not waited for while it is written."""
    lookout = Lookout(filled, InPublished(filled))
    with open_warehouse(filled).writing():
        assert lookout.look(NOW).cells == ()
    assert len(lookout.look(NOW).cells) == 3


def test_a_commit_is_seen_by_the_next_look(filled: Settings) -> None:
    """What is published between two looks is in the second."""
    warehouse = open_warehouse(filled)
    publish(warehouse)
    lookout = Lookout(filled, InPublished(filled))
    assert len(lookout.look(NOW).cells) == 3
    with warehouse.writing() as connection:
        connection.execute("INSERT INTO expiries VALUES ('NIFTY', DATE '2025-09-09', 'NSE_INDEX|Nifty 50', now())")
    publish(warehouse)
    seen = lookout.look(NOW)
    assert len(seen.cells) == 4
    assert seen.standings[0].not_begun == 2


def test_an_encrypted_archive(filled: Settings, archive: SmallArchive) -> None:
    """The copy is opened with the archive's key."""
    del archive
    plain = look(filled, NOW).cells
    from expirytrack_dagster.conversion import convert_home  # noqa: PLC0415 -- for this test alone

    secret = filled.model_copy(update={"passphrase": type(filled.access_token)("correct horse")})  # type: ignore[misc]
    convert_home(secret, encrypted=True, progress=lambda *_: None)
    encrypted = secret.model_copy(update={"encryption": True})
    publish(open_warehouse(encrypted))
    assert Lookout(encrypted, InPublished(encrypted)).look(NOW).cells == plain


def test_cells_of_other_processes(filled: Settings) -> None:
    """Each with its phase, its share of the answers, and the time that is left; a killed one is told from the rest."""
    row(filled, "a", process=this_process(), answered=40, ago=30)
    row(filled, "bb", process="1 since 1", answered=10)
    row(filled, "ccc", process=this_process(), answered=100)
    row(filled, "dddd", process=this_process(), answered=100, phase="storing")
    row(filled, "eeeee", process=this_process(), answered=50)
    answered(filled, "a", 40)
    seen = {cell.run_id: cell for cell in look(filled, NOW).running}
    assert [seen[run].phase for run in ("a", "bb", "ccc", "dddd", "eeeee")] == [
        "asking",
        "ended",
        "proving",
        "storing",
        "asking",
    ]
    assert (seen["a"].requests, seen["a"].pace) == (40, 40)
    assert seen["a"].seconds_left == pytest.approx(60 * 30 / 40)
    assert seen["eeeee"].pace == 0
    assert all(seen[run].seconds_left is None for run in ("bb", "ccc", "dddd"))


def test_time_left_where_the_limits_are_narrower(filled: Settings) -> None:
    """A cell that must wait for the window says so, whatever its pace was."""
    narrow = load_settings(home=filled.home, access_token="x", rate_limits="10/1,50/600")
    row(narrow, "a", process=this_process(), answered=45, ago=30)
    answered(narrow, "a", 45)
    (cell,) = look(narrow, NOW).running
    assert cell.seconds_left is not None
    assert 550 < cell.seconds_left < 650


def test_the_token_is_not_read_every_second(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The vault is opened when it changes and now and then; in between the time that is left goes down."""
    opened: list[datetime] = []
    state = tokens.token_state

    def counting(settings: Settings, now: datetime) -> object:
        opened.append(now)
        return replace(state(settings, now), expires_at=NOW + timedelta(hours=1), seconds_left=3600.0)

    monkeypatch.setattr(looking, "token_state", counting)
    lookout = Lookout(settings, InPublished(settings))
    left = [lookout.look(NOW + timedelta(seconds=seconds)).token.seconds_left for seconds in (0, 1, 29, 31)]
    assert left == [3600.0, 3599.0, 3571.0, 3600.0]
    assert len(opened) == 2
    open_vault(settings.model_copy(update={"passphrase": type(settings.access_token)("correct horse")})).put("x", b"y")  # type: ignore[misc]
    lookout.look(NOW + timedelta(seconds=32))
    assert len(opened) == 3
