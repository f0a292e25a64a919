"""What the command line prints: progress bars, tables, sentences. No decision is taken here."""

from __future__ import annotations

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
    from collections.abc import Iterable

    import pandas as pd

    from expirytrack_dagster.collect.contract import Answer
    from expirytrack_dagster.collect.progress import Progress
    from expirytrack_dagster.runs import CheckLine

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

_UNFINISHED = ("partial", "refused", "failed", "unasked")


def say(sentence: str, *, to: Console = out, style: str | None = None) -> None:
    """Print a sentence as it is: never cut into lines of 80, and brackets in it are not taken for markup."""
    to.print(sentence, style=style, markup=False, soft_wrap=True)


class ProgressBars:
    """Takes the place of `ProgressResource`: one bar a cell, drawn until the `with` block ends."""

    def __init__(self) -> None:
        """Draw on standard error, so that standard output holds results only."""
        self.bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("contracts"),
            TextColumn("{task.fields[rows]:>10,} candles"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=err,
        )

    def __enter__(self) -> Self:
        """Draw nothing yet: where nothing is asked, there is nothing to show."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Leave the bars as they are."""
        if self.bars.live.is_started:
            self.bars.stop()

    def following(self, log: logging.Logger) -> Progress:
        """Return a bar for the next cell."""
        del log
        return _Bar(self.bars)


class _Bar:
    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._task = TaskID(0)
        self._rows = 0

    def begin(self, label: str, total: int) -> None:
        self._bars.start()
        self._task = self._bars.add_task(label, total=total, rows=0)

    def advance(self, answer: Answer) -> None:
        self._rows += answer.rows
        self._bars.update(self._task, advance=1, rows=self._rows)

    def end(self) -> None:
        self._bars.refresh()


def cells_table(cells: pd.DataFrame) -> Table:
    """Lay out collected cells, at most 80 characters wide; columns as `warehouse.reader.cells` returns them."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("cell", no_wrap=True)
    for name in ("contracts", "complete", "empty", "missing", "candles", "bad rows"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in cells.to_dict("records"):
        unfinished = sum(row[state] for state in _UNFINISHED)
        numbers = (row["contracts"], row["complete"], row["empty_proven"], unfinished, row["candles"])
        table.add_row(
            f"{row['underlying']} {row['expiry']}",
            *(f"{number:,}" for number in numbers),
            f"{row['quarantined']:,}",
            style="yellow" if unfinished else None,
        )
    return table


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
