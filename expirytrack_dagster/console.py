"""What the command line prints: progress bars, tables, sentences. No decision is taken here."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as Bars,
)
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterable, Iterator

    import pandas as pd

    from expirytrack_dagster.collect.contract import Answer
    from expirytrack_dagster.collect.progress import Progress
    from expirytrack_dagster.observe.overview import CellCounts
    from expirytrack_dagster.runs import CheckLine
    from expirytrack_dagster.verification import Finding


def _standard_error() -> Console:
    """Return standard error; a terminal as it is now, because Dagster leads a step's standard error into a file."""
    if sys.stderr is None or not sys.stderr.isatty():
        return Console(stderr=True, highlight=False)
    terminal = os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding=sys.stderr.encoding, errors=sys.stderr.errors)
    return Console(file=terminal, highlight=False)


out = Console(highlight=False)
err = _standard_error()

SLOW = 2.0
"""Seconds for which nobody wonders what goes on."""

_COLOURS = {"contradiction": "red", "missing": "yellow", "warning": "yellow", "note": "dim"}
_VALUES = ("open", "high", "low", "close", "volume", "open_interest")


def say(sentence: str, *, to: Console = out, style: str | None = None) -> None:
    """Print a sentence as it is: never cut into lines of 80, and brackets in it are not taken for markup."""
    to.print(sentence, style=style, markup=False, soft_wrap=True)


@contextmanager
def slow_bar(label: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Draw a bar on standard error for work that takes longer than two seconds; the block tells (done, total).

    Until it has told something the bar only shows that it is alive. Where no terminal is, one line says what goes on.
    """
    bars = Bars(
        TextColumn(label),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
        console=err,
        transient=True,
    )
    task = bars.add_task(label, total=None)
    begin = bars.start if err.is_terminal else partial(say, f"{label} ...", to=err)
    with _after_a_while(begin, lambda: bars.stop() if bars.live.is_started else None):
        yield lambda done, total: bars.update(task, completed=done, total=total)


@contextmanager
def slow(label: str) -> Iterator[None]:
    """Show on a terminal that something is done which takes longer than two seconds and cannot be counted."""
    spinner = err.status(f"{label} ...")
    with _after_a_while(spinner.start if err.is_terminal else lambda: None, spinner.stop):
        yield


@contextmanager
def _after_a_while(begin: Callable[[], None], end: Callable[[], None]) -> Iterator[None]:
    """Begin when the block takes longer than `SLOW`, and end with it."""
    timer = threading.Timer(SLOW, begin)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()  # it may be beginning right now
        end()


@contextmanager
def waiting(label: str) -> Iterator[Callable[[float], None]]:
    """Show on a terminal that a person is waited for; the block tells the seconds left."""
    with err.status(label) as status:
        yield lambda left: status.update(f"{label} ({int(left) // 60}:{int(left) % 60:02} left, Ctrl-C ends it)")


class ProgressBars:
    """Takes the place of `ProgressResource`: one bar a cell, drawn until the `with` block ends.

    Before the first cell, and between the last answer of one and the first of the next, something moves too. Where no
    terminal is, a line says what each cell begins with, and one what it ends with.
    """

    def __init__(self) -> None:
        """Draw on standard error, so that standard output holds results only."""
        self.bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[said]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=err,
        )
        self._between: TaskID | None = None
        self._before = ExitStack()

    def __enter__(self) -> Self:
        """Draw nothing yet: where nothing is asked, there is nothing to show."""
        self._before.enter_context(slow("Working"))
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Leave the bars of cells as they are."""
        self._before.close()
        self._goes_on()
        if self.bars.live.is_started:
            self.bars.stop()

    def following(self, log: logging.Logger) -> Progress:
        """Return a bar for the next cell."""
        del log
        return _Bar(self) if err.is_terminal else _Lines()

    def a_cell_begins(self) -> None:
        """Draw from now on."""
        self._before.close()
        self._goes_on()
        self.bars.start()

    def a_cell_ends(self) -> None:
        """Show that there is more to do than asking."""
        self._between = self.bars.add_task("storing ...", total=None, said="")
        self.bars.refresh()

    def _goes_on(self) -> None:
        if self._between is not None:
            self.bars.remove_task(self._between)
            self._between = None


class _Bar:
    def __init__(self, shown: ProgressBars) -> None:
        self._shown = shown
        self._task = TaskID(0)
        self._total = self._done = self._rows = 0

    def begin(self, label: str, total: int) -> None:
        self._total = total
        self._shown.a_cell_begins()
        self._task = self._shown.bars.add_task(label, total=total, said=self._said())

    def advance(self, answer: Answer) -> None:
        self._done += 1
        self._rows += answer.rows
        self._shown.bars.update(self._task, completed=self._done, said=self._said())

    def end(self) -> None:
        self._shown.a_cell_ends()

    def _said(self) -> str:
        return f"{self._done:>{len(str(self._total))}}/{self._total} contracts {self._rows:>10,} candles"


class _Lines:
    def __init__(self) -> None:
        self._label = ""
        self._total = self._done = self._rows = 0

    def begin(self, label: str, total: int) -> None:
        self._label, self._total = label, total
        say(f"{label}: {total:,} contracts to ask", to=err)

    def advance(self, answer: Answer) -> None:
        self._done += 1
        self._rows += answer.rows

    def end(self) -> None:
        say(f"{self._label}: {self._done:,} of {self._total:,} contracts, {self._rows:,} candles", to=err)


def cells_table(cells: Iterable[CellCounts]) -> Table:
    """Lay out collected cells, at most 80 characters wide."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("cell", no_wrap=True)
    for name in ("contracts", "complete", "empty", "missing", "candles", "bad rows"):
        table.add_column(name, justify="right", no_wrap=True)
    for cell in cells:
        numbers = (cell.contracts, cell.complete, cell.empty_proven, cell.unfinished, cell.candles, cell.quarantined)
        table.add_row(
            f"{cell.underlying} {cell.expiry}",
            *(f"{number:,}" for number in numbers),
            style="yellow" if cell.unfinished else None,
        )
    return table


def findings_table(findings: Iterable[Finding]) -> Table:
    """Lay out what `verify` found, the worst first: where, what, and what to do about it."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    table.add_column("cell", no_wrap=True)
    table.add_column("what was found")
    for finding in findings:
        table.add_row(
            Text(finding.severity, style=_COLOURS[finding.severity]),
            f"{finding.underlying} {finding.expiry}",
            Text(f"{finding.found}. {finding.advice}."),
        )
    return table


def quarantine_table(rows: pd.DataFrame) -> Table:
    """Count quarantined rows by cell and rule; columns as `warehouse.review.chosen` returns them."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in ("cell", "rule"):
        table.add_column(name, no_wrap=True)
    for name in ("rows", "contracts"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("such as", no_wrap=True)
    for (underlying, expiry, rule), group in rows.groupby(["underlying", "expiry", "rule"]):
        first = group.iloc[0]
        example = str(first["detail"]).partition(";")[0]
        contracts = group["instrument_key"].nunique()
        table.add_row(f"{underlying} {expiry}", str(rule), f"{len(group):,}", f"{contracts:,}", Text(example))
    return table


def say_rows(rows: pd.DataFrame, limit: int = 50) -> None:
    """Print quarantined rows, one a line: contract, time in India, prices, volume, open interest, what is wrong."""
    shown = rows.head(limit)
    times = shown["ts"].dt.tz_convert("Asia/Kolkata").dt.strftime("%Y-%m-%d %H:%M:%S").fillna("no time")
    values = [shown[name].map("{:.15g}".format).replace("nan", "-") for name in _VALUES]
    for line in zip(shown["instrument_key"], times, *values, shown["detail"], strict=True):
        say("  ".join(line))
    if len(rows) > limit:
        say(f"... and {len(rows) - limit:,} more; --json has them all.")


def checks_table(lines: Iterable[CheckLine]) -> Table:
    """Lay out check results by cell: passed or failed, the check, and what was found."""
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    table.add_column("check", no_wrap=True)
    table.add_column("what was found")
    cell = None
    for line in lines:
        if line.cell != cell:
            cell = line.cell
            table.add_row()
            table.add_row("", Text(cell, style="bold"))
        table.add_row("[green]pass[/]" if line.passed else "[yellow]FAIL[/]", line.name, Text(line.summary))
    return table
