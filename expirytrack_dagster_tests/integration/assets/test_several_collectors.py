"""Four collectors of one account, each with a home of its own; and what is taken from one in the middle of its work."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

import pytest

from expirytrack_dagster_tests.bench.desk import WITHIN, Content, desk

if TYPE_CHECKING:
    from pathlib import Path

    from expirytrack_dagster_tests.postgres import PostgresServer

CELLS = [date(2025, 8, 7), date(2025, 8, 14), date(2025, 8, 21), date(2025, 8, 28)]
STRIKES = 1
WORKERS = 10


@dataclass(frozen=True)
class Shared:
    """What four collectors together brought, what they asked, and how they ended."""

    content: Content
    asked: Counter[str]
    violations: int
    exit_codes: list[int]
    told: list[str]
    verified: str
    took: list[set[str]]


@pytest.fixture(scope="module")
def shared(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """Let four collectors loose on the same cells at once."""
    folder = tmp_path_factory.mktemp("together")
    with desk(postgres_server, folder, CELLS, strikes=STRIKES, name="together") as office:
        collectors = [office.start(host) for host in ("one", "two", "three", "four")]
        told = [collector.communicate(timeout=240)[0] for collector in collectors]
        return Shared(
            content=office.content(),
            asked=Counter(office.asked()),
            violations=int(str(office.upstox.stats()["violations"])),
            exit_codes=[collector.returncode for collector in collectors],
            told=told,
            verified=office.run("one", "verify"),
            took=[{str(cell) for cell in CELLS if f"NIFTY {cell}: " in text} for text in told],
        )


def test_four_collectors_collect_each_cell_once(shared: Shared) -> None:
    """All end well, nothing is asked twice by anybody, no limit is broken, and the archive proves itself."""
    assert shared.exit_codes == [0, 0, 0, 0], shared.told
    assert set(shared.asked.values()) == {1}
    assert shared.violations == 0
    assert "Proven" in shared.verified
    assert shared.content.tables["cell_seals"][0] == len(CELLS)


def test_they_share_the_work(shared: Shared) -> None:
    """Each cell was one collector's, and more than one of them had something to do."""
    assert sorted(cell for cells in shared.took for cell in cells) == [str(cell) for cell in CELLS]
    assert sum(bool(cells) for cells in shared.took) > 1


def test_what_is_taken_away_in_the_middle_changes_nothing(
    shared: Shared, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    """PostgreSQL crashes, the object store refuses, the collector is killed: another ends the same archive.

    Crash and refusal are waited out by the collector itself. Only what was under way when it was killed is asked again,
    or staged at home by the one that is no more.
    """
    with desk(postgres_server, tmp_path / "desk", CELLS, strikes=STRIKES, name="disturbed") as office:
        collector = office.start("one")
        office.wait_until(lambda: len(office.asked()) > 5)
        office.restart(2.0)
        office.wait_until(lambda: len({path for path in office.asked() if "28-08-2025" in path}) > 3)
        office.objects.go_away(WITHIN)
        office.wait_until(lambda: office.objects.refused > 0)
        office.objects.go_away(2.0)
        office.wait_until(lambda: any("14-08-2025" in path for path in office.asked()) or collector.poll() is not None)
        assert collector.poll() is None
        collector.kill()
        of_the_cell = sum("14-08-2025" in path for path in office.asked())
        successor = office.start("two")
        told, _ = successor.communicate(timeout=240)
        assert successor.returncode == 0, told
        assert office.content() == shared.content
        assert sum(Counter(office.asked()).values()) <= sum(shared.asked.values()) + of_the_cell + WORKERS
        assert office.upstox.stats()["violations"] == 0
        assert "Proven" in office.run("two", "verify")
