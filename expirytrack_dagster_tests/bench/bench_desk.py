"""Collectors on a lake in PostgreSQL and an object store, and what is taken from them in the middle of the work.

Each disturbance happens to a collection of its own, which has to end by itself as the undisturbed one did, row for
row: the collector killed and followed by one on another host, PostgreSQL crashed and started again, the object store
away for as long as it may be. What a successor on another host asks again is measured too, and how long the cell was
nobody's.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections import Counter
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from expirytrack_dagster.collect.leases import EVERY, LIFE
from expirytrack_dagster_tests.bench.desk import WITHIN, Content, Desk, desk
from expirytrack_dagster_tests.bench.figures import Figure
from expirytrack_dagster_tests.postgres import postgres_server

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

CELLS = [date(2025, 8, 14), date(2025, 8, 21), date(2025, 8, 28)]
COLLECTORS = 4
WORKERS = 10
_AWAY = 20.0  # seconds for which an object store may refuse
_RESTART = 5.0


def run(*, quick: bool) -> Iterator[Figure]:
    """Yield what is different after each disturbance, and what it cost."""
    strikes = 2 if quick else 6
    with postgres_server() as server, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:

        def on_desk(name: str, work: Callable[[Desk], Figure]) -> Figure:
            with desk(server, Path(folder) / name, CELLS, strikes=strikes, name=name) as office:
                return work(office)

        with desk(server, Path(folder) / "alone", CELLS, strikes=strikes, name="alone") as office:
            began = time.monotonic()
            _ended(office.start("one"))
            alone = time.monotonic() - began
            usual, content = len(office.asked()), office.content()
        yield on_desk("together", lambda office: _together(office, content, usual, alone))
        yield on_desk("crashed", lambda office: _crashed(office, content, usual))
        yield on_desk("refused", lambda office: _refused(office, content, usual, 5.0 if quick else _AWAY))
        yield on_desk("killed", lambda office: _killed(office, content, usual, elsewhere=not quick and _can_be_apart()))


def _together(office: Desk, content: Content, usual: int, alone: float) -> Figure:
    began = time.monotonic()
    collectors = [office.start(f"host-{number}") for number in range(COLLECTORS)]
    for collector in collectors:
        _ended(collector)
    seconds, twice = time.monotonic() - began, len(office.asked()) - len(set(office.asked()))
    same = office.content() == content
    return Figure(
        name=f"desk, {COLLECTORS} collectors, requests twice",
        value=twice,
        unit="requests",
        beside=f"one collector, {usual} requests",
        bar="0, the same archive, no limit broken",
        passed=not twice and same and len(office.asked()) == usual and office.upstox.stats()["violations"] == 0,
        note=f"{len(CELLS)} cells in {seconds:.0f} s, alone in {alone:.0f} s, all on one machine",
    )


def _crashed(office: Desk, content: Content, usual: int) -> Figure:
    collector = office.start("one")
    office.wait_until(lambda: len(office.asked()) > usual // 3)
    office.restart(_RESTART)
    _ended(collector)
    return _figure(office, content, usual, f"PostgreSQL away for {_RESTART:.0f} s after a crash", allowed=WORKERS)


def _refused(office: Desk, content: Content, usual: int, seconds: float) -> Figure:
    collector = office.start("one")
    office.wait_until(lambda: len(office.asked()) > usual // 3)
    office.objects.go_away(WITHIN)
    office.wait_until(lambda: office.objects.refused > 0)
    office.objects.go_away(seconds)
    _ended(collector)
    return _figure(office, content, usual, f"object store refuses for {seconds:.0f} s", allowed=0)


def _killed(office: Desk, content: Content, usual: int, *, elsewhere: bool) -> Figure:
    """Kill a collector within its second cell; the next one is on the same host or on another, as far as it can see."""
    collector = office.start("one", apart=elsewhere)
    second = CELLS[-2].strftime("%d-%m-%Y")
    office.wait_until(lambda: sum(second in path for path in office.asked()) > usual // len(CELLS) // 2)
    collector.kill()
    began = time.monotonic()
    of_the_cell = sum(second in path for path in office.asked())
    successor = office.start("two", apart=elsewhere)
    office.wait_until(
        lambda: len(office.asked()) > len(set(office.asked()))
    )  # what was staged elsewhere is asked again
    free = time.monotonic() - began
    _ended(successor)
    return _figure(
        office,
        content,
        usual,
        f"collector killed, another {'host' if elsewhere else 'home'} goes on",
        allowed=of_the_cell + WORKERS,
        more=f"the cell was nobody's for {free:.0f} s (a lease lives {LIFE:.0f} s, renewed every {EVERY:.0f} s)",
    )


def _figure(office: Desk, content: Content, usual: int, what: str, *, allowed: int, more: str = "") -> Figure:
    found = office.content()
    different = [name for name, table in content.tables.items() if found.tables[name] != table]
    asked = Counter(office.asked())
    beyond = sum(asked.values()) - usual
    proven = "Proven" in office.run("one", "verify")
    return Figure(
        name=f"desk, {what}",
        value=len(different),
        unit="tables that differ",
        beside="an undisturbed collection, by count and hash",
        bar=f"0, verified, at most {allowed} requests again, no limit broken",
        passed=not different and proven and 0 <= beyond <= allowed and office.upstox.stats()["violations"] == 0,
        note=f"{beyond} requests beyond {usual}{'; ' if more else ''}{more}",
    )


def _ended(collector: subprocess.Popen[str]) -> None:
    """See a collector end by itself and well.

    Raises:
        RuntimeError: it did not.
    """
    told, _ = collector.communicate(timeout=WITHIN)
    if collector.returncode:
        raise RuntimeError(told)


def _can_be_apart() -> bool:
    """Say whether a process may be given a host's name of its own: Linux, and root."""
    return hasattr(os, "getuid") and os.getuid() == 0 and shutil.which("unshare") is not None
