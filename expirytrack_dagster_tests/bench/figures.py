"""What a benchmark says: one figure, what stands beside it in the same run, and the bar it has to reach.

Belongs here: the form of a figure, its line, the table and the JSON. What is measured, and how, is in `bench_*.py`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import msgspec
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured figure.

    Attributes:
        name: What was measured, the benchmark's name first.
        value: The figure, in `unit`.
        unit: Such as `s`, `ms` or `violations`.
        beside: The peer or floor measured or derived in the same run, in words with its own figure.
        ratio: The figure against what stands beside it, in the direction that the bar names; None without a sense.
        bar: The target in words, empty where the figure only explains another.
        passed: Whether the bar is reached, None without a bar.
        note: What a reader needs to judge the figure: sizes, scaled-down windows, other figures of the run.
    """

    name: str
    value: float
    unit: str
    beside: str = ""
    ratio: float | None = None
    bar: str = ""
    passed: bool | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        """PASS, MISS, or nothing without a bar."""
        return "" if self.passed is None else "PASS" if self.passed else "MISS"

    def line(self) -> str:
        """Return the figure as one line of plain text."""
        parts = [f"{self.name}: {_number(self.value)} {self.unit}", self.beside]
        parts += [f"ratio {self.ratio:.3f}" if self.ratio is not None else "", f"bar {self.bar}" if self.bar else ""]
        return " | ".join(part for part in [*parts, self.note, self.verdict] if part)


def print_table(figures: Sequence[Figure]) -> None:
    """Print all figures of a run as a table."""
    table = Table(title="Benchmarks")
    for heading in ("figure", "value", "beside it", "ratio", "bar", "verdict"):
        table.add_column(heading, overflow="fold", justify="right" if heading in {"value", "ratio"} else "left")
    for figure in figures:
        colour = {"PASS": "green", "MISS": "bold red"}.get(figure.verdict, "default")
        ratio = "" if figure.ratio is None else f"{figure.ratio:.3f}"
        value = f"{_number(figure.value)} {figure.unit}"
        table.add_row(figure.name, value, figure.beside, ratio, figure.bar, f"[{colour}]{figure.verdict}")
    Console().print(table)


def write_json(figures: Sequence[Figure], path: Path) -> None:
    """Write all figures of a run as a JSON array of objects with the attributes of `Figure`."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode([asdict(figure) for figure in figures])) + b"\n")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.3f}"
